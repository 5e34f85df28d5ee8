"""Small models that ask for much end soon, in little memory, and in one line if they are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostile.appetites import external, models

resource = pytest.importorskip("resource", reason="memory is measured as POSIX does it")

_SECONDS, _BYTES = 60, 2 << 30
_COMMAND = """
import resource, sys
from onnxprune.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def attack(folder: Path, content: bytes, *options: str) -> None:
    """Run a command on a model, and check how it ends."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    command = [path.name, *options] if options else ["inspect", path.name]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=10 * _SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    told = done.stderr.decode()
    *lines, peak = [line for line in told.splitlines() if "warning" not in line]
    assert "Traceback" not in told, told
    assert done.returncode in range(12), told
    assert (done.returncode == 0) != any(line.startswith("onnxprune: error:") for line in lines), told
    assert int(peak.split()[1]) << 10 < _BYTES, (told, peak)
    assert time.monotonic() - start < _SECONDS, told
    assert (folder / "out.onnx").exists() == (done.returncode == 0 and bool(options))


WORST = ["an Expand of 31 GiB", "a chain of Concats of constants", "functions in functions", "a Resize"]
PRUNE = ("-o", "out.onnx", "--data", "synthetic", "--macs", "1.3x", "--samples", "12", "--no-cache", "--no-bench", "-q")


@pytest.mark.parametrize("name", WORST)
def test_the_hungriest_are_inspected(tmp_path, name):
    attack(tmp_path, models()[name].SerializeToString())


@pytest.mark.skipif(os.name != "posix", reason="pipes and sparse files are those of POSIX")
@pytest.mark.parametrize("name", ["no length", "a NUL", "a pipe", "no location"])
def test_files_that_are_not_the_models_are_not_read(tmp_path, name):
    attack(tmp_path, external(tmp_path)[name].SerializeToString())


@pytest.mark.long
@pytest.mark.parametrize("name", list(models()))
def test_all_are_inspected_and_pruned(tmp_path, name):
    content = models()[name].SerializeToString()
    attack(tmp_path, content)
    attack(tmp_path, content, *PRUNE, "--memory", "512MB", "--threads", "1")


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="pipes and sparse files are those of POSIX")
def test_all_files_that_are_not_the_models_are_left_alone(tmp_path):
    for name, model in external(tmp_path).items():
        print(name)
        attack(tmp_path, model.SerializeToString())
