"""The speed-up that is measured beside busy programs, by the median of wall times and by what onnxprune takes.

Two networks are timed in pairs, as `interleaved` does it: an original, and the same network with half of the MACs, or
any two files. Without load and with a few busy programs beside, in turn; every measurement takes a few seconds, the
busy programs end with it, and after a minute in any case. "Old" is the ratio of the two medians of wall time, "new" is
`Timing.ratio`. The machine need not be idle: what counts is how far the numbers of one column lie apart.

Run: ``python benchmarks/timing_under_load.py``, or with ``--original A.onnx --candidate B.onnx``.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import ROOT, arguments, machine, table

import onnxprune
from onnxprune import Options
from onnxprune.engine.sessions import Engine
from onnxprune.engine.timing import Repeats, interleaved
from onnxprune.options.budget import times_less
from onnxprune.options.engine import EngineOptions

_LONGEST = 60  # seconds that a busy program may run
_BUSY = f"import time\nend = time.monotonic() + {_LONGEST}\nwhile time.monotonic() < end: pass"


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that do nothing but compute, until the block ends."""
    programs = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
        for program in programs:
            program.wait()


def _pair(given: argparse.Namespace) -> tuple[bytes, bytes]:
    if given.candidate is not None:
        return given.original.read_bytes(), given.candidate.read_bytes()
    options = Options(bench=False, samples=100, align=16, budget=times_less(2.0, "macs"))
    model = onnxprune.prune(given.original, options=options).model
    assert model is not None
    return given.original.read_bytes(), model.SerializeToString()


def _feeds(model: bytes) -> dict[str, np.ndarray[Any, Any]]:
    source = onnx.load_model_from_string(model).graph.input[0]
    shape = [dim.dim_value or 1 for dim in source.type.tensor_type.shape.dim]
    return {source.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def main() -> None:
    """Print a table."""
    parser = arguments(__doc__, zoo=False)
    parser.add_argument("--original", type=Path, default=ROOT / "models" / "digits_vgg.onnx")
    parser.add_argument("--candidate", type=Path, help="a faster model; unless given, the original is pruned")
    parser.add_argument("--busy", nargs="*", type=int, default=[0, 2, 3], help="numbers of busy programs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement; up to thrice as many are taken")
    given = parser.parse_args()
    if not 0 < given.seconds <= _LONGEST / 4:
        parser.error(f"--seconds must be within 0 and {_LONGEST // 4}, found {given.seconds:g}")
    models = _pair(given)
    engine = Engine.open(EngineOptions(provider="cpu", threads=1))
    before, after = (engine.session(model, label="a model") for model in models)
    feeds = _feeds(models[0])
    rows: list[list[object]] = []
    for repeat in range(given.repeats):
        for count in given.busy:
            with busy(count):
                timing = interleaved(before, after, feeds, repeats=Repeats(seconds=given.seconds), seed=repeat)
            old = timing.before.median_ms / timing.after.median_ms
            interval = f"[{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]"
            said = timing.warning.partition(":")[0].lower() or "nothing"
            rows.append([count, timing.stretch, timing.before.runs, old, timing.ratio, interval, said])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), end="\n\n")
    print(table(["busy programs", "wall / CPU time", "pairs", "old", "new", "95 % interval", "warning"], rows))
    for name, column in (("old", 3), ("new", 4)):
        found = [float(str(row[column])) for row in rows]
        middle = float(np.median(found))
        print(f"\n{name}: median {middle:.2f}x, furthest {100 * max(abs(x / middle - 1) for x in found):.0f} % away")


if __name__ == "__main__":
    main()
