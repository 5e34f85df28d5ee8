#!/bin/sh
# The README's second command: set up and run the tests. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh cpu,dev
.venv/bin/python -m pytest -n 2 "$@"
