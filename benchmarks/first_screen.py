"""Accuracy against milliseconds of a MobileNetV2: ours, a smaller picture, equal shares everywhere, and onnxsim.

One thread, ImageNet photos that nobody fitted (525, both test sets), no training. *Smaller picture*: the original on
photos of fewer pixels, which costs nothing to try. *Equal shares*: channels of every layer by the same ratio
(``--recipe prune --allocation uniform``), everything else as in ours. *onnxsim*: its structured pruning, where it is
installed. All networks are timed in turns, one run each a round, on photos of their own size; the milliseconds are the
median of the fastest quarter of the rounds.

Run: ``python benchmarks/first_screen.py --data FOLDER --keep FOLDER --plot FILE``; what ``--keep`` holds is used again.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from common import arguments, machine, table, top1
from deployed import NETWORKS

import onnxprune
from onnxprune import Options
from onnxprune.errors import OnnxPruneError
from onnxprune.options.engine import EngineOptions

_NETWORK = NETWORKS["imagenet_mobilenet_v2"]
_SPEEDUPS = (1.15, 1.3, 1.5)
_SIDES = (208, 192, 176, 160)
_SPARSITIES = (0.1, 0.2)
_ROUNDS = 120


@dataclass(frozen=True)
class Entry:
    """A network, the photos' side, and whose work it is."""

    way: str
    label: str
    model: onnx.ModelProto
    side: int = _NETWORK.side


def _at(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """The same network on photos of another size."""
    resized = onnx.ModelProto()
    resized.CopyFrom(model)
    del resized.graph.value_info[:]
    for axis in (2, 3):
        resized.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    return resized


def _entries(given: argparse.Namespace) -> Iterator[Entry]:
    path = _NETWORK.path(given.zoo)
    original = onnx.load(path)
    yield Entry("original", "224 pixels", original)
    for side in _SIDES:
        yield Entry("smaller picture", f"{side} pixels", _at(original, side), side)
    base = replace(
        Options(), data=_NETWORK.data, samples=given.samples, engine=EngineOptions(threads=1), cache_dir=given.keep
    )
    uniform = replace(base, recipe="prune", allocation="uniform")
    for way, options in (("onnxprune", base), ("equal shares", uniform)):
        for speedup in _SPEEDUPS:
            kept = given.keep / f"{way.replace(' ', '-')}-{speedup:g}.onnx"
            if not kept.is_file():
                try:
                    made = onnxprune.prune(path, data=given.data / "photos", speedup=speedup, options=options)
                except OnnxPruneError as error:
                    print(way, speedup, error, file=sys.stderr)
                    continue
                made.save(kept)
            yield Entry(way, f"--speedup {speedup:g}", onnx.load(str(kept)))
    try:
        onnxsim: Any = importlib.import_module("onnxsim")
    except ImportError:
        print("onnxsim is not installed: left out", file=sys.stderr)
        return
    for sparsity in _SPARSITIES:
        yield Entry("onnxsim", f"sparsity {sparsity:g}", onnxsim.apply_structured_pruning(original, sparsity=sparsity))


def _times(entries: list[Entry]) -> list[float]:
    """Milliseconds of one photo."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runs = []
    for entry in entries:
        session = onnxruntime.InferenceSession(
            entry.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {session.get_inputs()[0].name: np.zeros((1, 3, entry.side, entry.side), np.float32)}
        session.run(None, feeds)
        runs.append((session, feeds))
    taken = np.zeros((len(entries), _ROUNDS))
    order = np.random.default_rng(0)
    for turn in range(_ROUNDS):
        for place in order.permutation(len(entries)):
            session, feeds = runs[place]
            start = time.perf_counter()
            session.run(None, feeds)
            taken[place, turn] = 1000 * (time.perf_counter() - start)
    quiet = np.sort(taken, axis=1)[:, : _ROUNDS // 4]
    return [float(value) for value in np.median(quiet, axis=1)]


def _plot(rows: list[tuple[Entry, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    styles = {
        "onnxprune": ("C0", "o-"),
        "smaller picture": ("C1", "s--"),
        "equal shares": ("C2", "^--"),
        "onnxsim": ("C3", "x"),
    }
    ((_, start_ms, start_value),) = [row for row in rows if row[0].way == "original"]
    axes.plot([start_ms], [start_value], "k*", markersize=12, label="original")
    for way, (color, style) in styles.items():
        points = sorted((ms, value) for entry, ms, value in rows if entry.way == way)
        if points:
            line = [*points, (start_ms, start_value)] if "-" in style else points
            milliseconds, values = zip(*line, strict=True)
            axes.plot(milliseconds, values, style, color=color, label=way)
    axes.set_xlabel("milliseconds a photo, one thread")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("MobileNetV2, 525 ImageNet photos, no training")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.1))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Print the table, and draw it."""
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="photos to fit on, at most")
    parser.add_argument("--keep", type=Path, required=True, help="folder for the networks that are made")
    parser.add_argument("--plot", type=Path, help="file to draw to, .svg or .png")
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    entries = list(_entries(given))
    images = {}
    rows = []
    for entry, milliseconds in zip(entries, _times(entries), strict=True):
        if entry.side not in images:
            images[entry.side] = replace(_NETWORK, side=entry.side).tests(given.data)
        rows.append((entry, milliseconds, top1(entry.model, *images[entry.side])))
    ((_, before, _),) = [row for row in rows if row[0].way == "original"]
    print(machine(), "\n")
    header = ["way", "", "ms, 1 thread", "times faster", "top-1 of 525"]
    print(table(header, [[e.way, e.label, ms, f"{before / ms:.2f}x", f"{value:.1f}"] for e, ms, value in rows]))
    if given.plot is not None:
        _plot(rows, given.plot)


if __name__ == "__main__":
    main()
