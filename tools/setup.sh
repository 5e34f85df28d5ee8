#!/bin/sh
# A virtual environment in .venv with onnxprune in it: tools/setup.sh EXTRAS, for example "cpu" or "cpu,dev".
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[${1:-cpu}]"
