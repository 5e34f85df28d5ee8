#!/bin/sh
# The README's first command: set up, compress a model that ships with the project, and show what came of it.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh cpu
.venv/bin/onnxprune models/digits_vgg.onnx -o pruned.onnx --speedup 1.5 --threads 1
.venv/bin/onnxprune compare models/digits_vgg.onnx pruned.onnx --threads 1 --max-drop 1
