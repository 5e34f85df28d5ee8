"""Channel pruning, spatial and channel decomposition, and all three together, at equal MACs and without training.

On a VGG for CIFAR-10 (trained by ``tools/train_cifar_vgg.py``) and on VDSR: the metric of each recipe at 2x, 3x, 4x and
5x fewer MACs, in brackets the MACs before over those after, and with ``--latency`` how much faster the result is than
its original, measured in turn in the same process.

Run: ``python benchmarks/three_c.py --data FOLDER --vgg cifar_vgg.onnx --latency``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from common import arguments, machine, table, top1
from zoo_models import Model, psnr

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.errors import PlanError
from onnxprune.plan import Recipe
from onnxprune.runtime.providers import EngineOptions
from onnxprune.solve import RefitOptions

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """A model, its calibration, and what is measured of it."""

    path: Path
    calibration: Path
    data: DataOptions
    metric: str
    measure: Callable[[Model], float]


def _accuracy(data: Path, model: Model) -> float:
    with np.load(data / "cifar10_test.npz") as archive:
        values = (archive["images"].astype(np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        labels = archive["labels"]
    return top1(model, np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32), labels)


def main() -> None:
    """Print a table for each model."""
    parser = arguments(__doc__)
    parser.add_argument("--vgg", type=Path, required=True, help="what train_cifar_vgg.py has written")
    parser.add_argument("--only", nargs="*", default=["vgg", "vdsr"])
    parser.add_argument("--speedups", nargs="*", type=float, default=[2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--recipes", nargs="*", default=list(get_args(Recipe)))
    parser.add_argument("--refit", default="linear", choices=["linear", "relu"])
    parser.add_argument("--align", type=int, default=16)
    parser.add_argument("--latency", action="store_true", help="measure it, on one thread, and run on one")
    options = parser.parse_args()
    cases = {
        "vgg": Case(
            options.vgg,
            options.data / "cifar10_calib.npz",
            DataOptions(mean=_MEAN, std=_STD),
            "top-1 of 5 000",
            partial(_accuracy, options.data),
        ),
        "vdsr": Case(
            options.zoo / "models" / "sr_vdsr.onnx",
            options.data / "sr_calib_x2_y.npz",
            DataOptions(),
            "PSNR on Set5 x2, dB",
            partial(psnr, options.data),
        ),
    }
    print(machine(), flush=True)
    for name in options.only:
        case = cases[name]
        print(f"\n{name}, {case.metric}; original {case.measure(str(case.path)):.2f}; --refit {options.refit}\n")
        rows: list[list[object]] = []
        with tempfile.TemporaryDirectory() as cache:
            for recipe in options.recipes:
                cells = [_cell(case, recipe, speedup, options, Path(cache)) for speedup in options.speedups]
                rows.append([recipe, *cells])
                print(rows[-1], file=sys.stderr, flush=True)
        print(table(["recipe", *(f"{speedup:g}x" for speedup in options.speedups)], rows), flush=True)


def _cell(case: Case, recipe: Recipe, speedup: float, given: argparse.Namespace, cache: Path) -> str:
    """Metric, true ratio of MACs, latency on one thread."""
    chosen = Options(
        recipe=recipe,
        samples=3000,
        points=30 if case.metric.startswith("top") else None,
        data=case.data,
        refit=RefitOptions(refit=given.refit),
        align=given.align,
        engine=EngineOptions(threads=1 if given.latency else None),
        bench=given.latency,
        cache_dir=cache,
    )
    try:
        result = onnxprune.prune(str(case.path), data=case.calibration, speedup=speedup, options=chosen)
    except PlanError:
        return "out of reach"
    if result.model is None:
        raise AssertionError("no dry run was asked for")
    timing = result.report.timing
    faster = "" if timing is None else f", {timing.ratio:.2f}x faster"
    return f"{case.measure(result.model):.2f} ({result.report.macs.ratio:.2f}x{faster})"


if __name__ == "__main__":
    main()
