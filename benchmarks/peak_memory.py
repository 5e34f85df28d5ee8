"""Peak memory of a whole run on ResNet-56 with 1 000 and with 10 000 images, at the same ``--memory``.

Each run is a process of its own; its peak is what the system reports for it.

Run: ``python benchmarks/peak_memory.py --data FOLDER``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, machine, table

_COUNTS = (1000, 10000)


def _peak(command: list[str]) -> float:
    """Peak resident megabytes of a child process."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--memory", default="512MB", help="as the command line takes it")
    options = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in _COUNTS:
            target = Path(folder) / "pruned.onnx"
            model = options.zoo / "models" / "cifar10_resnet56.onnx"
            command = [sys.executable, "-m", "onnxprune", str(model), "-o", str(target), "--preset", "imagenet", "-q"]
            command += ["--data", str(options.data / "cifar10_calib.npz"), "--samples", str(count), "--no-bench"]
            command += ["--memory", options.memory, "--no-cache"]
            rows.append([count, _peak(command)])
    grown = 100 * (float(str(rows[-1][1])) / float(str(rows[0][1])) - 1)
    print(machine())
    print(table(["images", "peak MB"], rows))
    print(f"--memory {options.memory}: {grown:+.1f} %")


if __name__ == "__main__":
    main()
