#!/bin/sh
# The README's second command: set up and run the tests. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh cpu,recover,dev
# Two processes of one thread each take half the time of two with two.
OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 "$@"
