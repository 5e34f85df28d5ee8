"""Commands that are stopped at a random moment by a signal, and then given again: the same bytes, and nothing left.

Each command is first run without a stop. Then it is stopped and given again, each time with an empty cache: what it
writes the second time must be what it wrote without a stop, and neither temporary folders nor half-written files may
be there. A budget in time is planned by measured times, which differ from run to run: its result must be the one that
a third run finds in the cache.

Run: ``python benchmarks/kills.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, arguments, machine, table

_FEW = ["--samples", "80", "--points", "10", "--threads", "1", "-q"]
_COMMANDS = {
    "prune": ["digits_vgg.onnx", "-o", "out.onnx", "--macs", "2x", "--no-bench", *_FEW],
    "latency": ["digits_vgg.onnx", "-o", "out.onnx", "--speedup", "1.2", "--threads", "1", "-q"],
    "pareto": ["digits_vgg.onnx", "--pareto", "out", "--no-bench", *_FEW],
    "recover": [
        *("recover", "digits_vgg.onnx", "small.onnx", "-o", "out.onnx", "--epochs", "4", "--samples", "80"),
        *("--threads", "1", "-q"),
    ],
}
_SIGNALS = {"SIGKILL": 50, "SIGTERM": 20, "SIGINT": 20}


def _run(folder: Path, command: list[str], stop: tuple[float, str] | None = None) -> tuple[int, str, float]:
    """Run a command, or stop it after some seconds; return its exit code, what it said, and its seconds."""
    start = time.monotonic()
    whole = [sys.executable, "-m", "onnxprune", *command, "--cache-dir", "cache"]
    process = subprocess.Popen(whole, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if stop is not None:
        time.sleep(stop[0])
        process.send_signal(getattr(signal, stop[1]))
    told = process.communicate()[1].decode()
    return process.returncode, told, time.monotonic() - start


def _written(folder: Path) -> dict[str, str]:
    """Digests of the models that a command wrote."""
    paths = [folder / "out.onnx", *sorted((folder / "out").glob("*.onnx"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def _left(folder: Path) -> list[str]:
    """Names of temporary folders, locks and half-written files."""
    own = [path for path in folder.rglob("*") if path.name.endswith((".part", ".lock"))]
    return [path.name for path in (*own, *(folder / "cache").rglob("onnxprune-*")) if path.name != "onnxprune-cache"]


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out.onnx").unlink(missing_ok=True)


def _stops(name: str, command: list[str], folder: Path, given: argparse.Namespace) -> list[object]:
    """Run one command without and with stops; return its row."""
    _fresh(folder)
    code, told, seconds = _run(folder, command)
    if code:
        raise SystemExit(f"{name}: exit code {code}: {told}")
    wanted = _written(folder)
    chance = random.Random(f"{given.seed} {name}")
    share = given.share / len(_COMMANDS)
    kinds = [kind for kind, count in _SIGNALS.items() for _ in range(max(1, round(count * share)))]
    same = left = tracebacks = early = 0
    for kind in kinds:
        _fresh(folder)
        stopped, told, _ = _run(folder, command, (chance.uniform(0.3, seconds), kind))
        tracebacks += "Traceback" in told
        early += stopped == 0  # it had ended before
        code, told, _ = _run(folder, command)
        tracebacks += "Traceback" in told
        expected = wanted
        if name == "latency":
            expected = _written(folder)
            _run(folder, command)
        same += code == 0 and _written(folder) == expected
        left += bool(_left(folder))
    return [name, f"{seconds:.0f}", len(kinds), early, same, left, tracebacks]


def main() -> None:
    """Print a row for each command."""
    parser = arguments(__doc__, zoo=False)
    parser.add_argument("--share", type=float, default=1.0, help="of the 90 stops")
    parser.add_argument("--only", nargs="*", default=list(_COMMANDS), choices=_COMMANDS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(machine(), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for path in (ROOT / "models").glob("digits_vgg*"):
            shutil.copy(path, folder)
        _run(folder, ["digits_vgg.onnx", "-o", "small.onnx", "--macs", "2x", "--no-bench", *_FEW])
        for name in given.only:
            rows.append(_stops(name, _COMMANDS[name], folder, given))
            print(rows[-1], flush=True)
    header = [
        "command",
        "seconds",
        "stops",
        "ended before",
        "same bytes",
        "something left",
        "tracebacks",
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
