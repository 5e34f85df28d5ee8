"""Both shipped models at ``--speedup 1.5 --threads 1``: accuracy, MACs, parameters, size and latency before and after.

Every figure is read from the files that the command line writes, on the test images that ship with the models. The
networks take a fraction of a millisecond: on one thread that is their work, on several mostly the threads' own.

Run: ``python benchmarks/shipped_models.py``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, arguments, machine, table

import onnxprune
from onnxprune.commands.compare import CompareOptions
from onnxprune.engine.timing import Timing
from onnxprune.options.engine import EngineOptions

_SETTINGS: dict[str, dict[str, Any]] = {
    "batch 1, one thread": {"engine": EngineOptions(threads=1)},
    "batch 1, default threads": {},
    "batch 32, default threads": {"bench_batch": 32},
}


def _words(t: Timing) -> str:
    return (
        f"{t.before.median_ms:.3f} -> {t.after.median_ms:.3f} ms, "
        f"{t.ratio:.2f}x [{t.ratio_low:.2f}, {t.ratio_high:.2f}]"
    )


def main() -> None:
    """Print the table."""
    arguments(__doc__, zoo=False).parse_args()
    rows = []
    for name in ("digits_vgg", "digits_resnet"):
        original = ROOT / "models" / f"{name}.onnx"
        with tempfile.TemporaryDirectory() as folder:
            pruned = Path(folder) / "pruned.onnx"
            command = [
                sys.executable,
                "-m",
                "onnxprune",
                str(original),
                "-o",
                str(pruned),
                "--speedup",
                "1.5",
                "--threads",
                "1",
                "--no-cache",
                "-q",
            ]
            subprocess.run(command, check=True)
            found = [onnxprune.compare(original, pruned, options=CompareOptions(**s)) for s in _SETTINGS.values()]
        timings = [comparison.timing for comparison in found if comparison.timing is not None]
        accuracy = found[0].accuracy or (float("nan"), float("nan"))
        macs, params = found[0].macs, found[0].params
        assert macs is not None
        assert params is not None
        rows.append(
            [
                name,
                f"{accuracy[0]:.2f} -> {accuracy[1]:.2f}",
                f"{macs.before / 1e6:.2f} -> {macs.after / 1e6:.2f} M ({macs.ratio:.2f}x)",
                f"{params.before / 1e3:.0f} -> {params.after / 1e3:.0f} k",
                *(_words(timing) for timing in timings),
            ]
        )
    print(machine())
    print(table(["model", "top-1 of 500", "MACs", "parameters", *_SETTINGS], rows))


if __name__ == "__main__":
    main()
