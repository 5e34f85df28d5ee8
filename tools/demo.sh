#!/bin/sh
# The README's first command: set up, compress a model that ships with the project, and show what came of it.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh cpu
.venv/bin/onnxprune models/digits_vgg.onnx -o pruned.onnx --macs 50%
.venv/bin/onnxprune compare models/digits_vgg.onnx pruned.onnx --max-drop 1
