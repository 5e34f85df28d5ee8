"""ResNet-56 on CIFAR-10 at a true 2.0x fewer MACs, channels only, from 3 000 unlabelled images, without training.

First the whole run, with default options, with the ReLU-aware refit and with a uniform budget: accuracy on 5 000
test images, seconds, and seconds over those that onnxruntime takes to run the original once over the same images,
in the same process. With ``--selectors``, instead: the selectors side by side at equal counts, those of the default
plan: reconstruction error of the layers that read pruned channels, mean over layers, on the half of the images that
they were not fitted on; and accuracy; each the mean over ``--seeds``, with the lowest and the highest accuracy. Last
the baseline that needs no data: magnitude without a refit.

Run: ``python benchmarks/cifar_resnet56.py --data FOLDER``, and again with ``--selectors --seeds 3``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
from baselines import NAMES, baseline, seed_random
from common import arguments, machine, table, top1

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.options.solve import RefitOptions, Selector
from onnxprune.planning import Plan

_SAMPLES = 3000
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BASE = Options(
    samples=_SAMPLES,
    data=DataOptions(mean=_MEAN, std=_STD),
    bench=False,
    recipe="prune",
    align=16,
    refit=RefitOptions(refit="linear"),
)

Test = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def prepared(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, 32, 32, 3) uint8 as the networks want them."""
    values = (images.astype(np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def seconds_once(model: str, images: np.ndarray[Any, Any]) -> float:
    """One pass of onnxruntime over prepared images."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    session.run(None, {name: images[:100]})
    start = time.perf_counter()
    for first in range(0, len(images), 100):
        session.run(None, {name: images[first : first + 100]})
    return time.perf_counter() - start


def _held_error(result: onnxprune.Result) -> float:
    """Mean error over the layers that read channels of a pruned group."""
    read = {name for group in result.plan.groups if group.keep < group.channels for name in group.consumers}
    errors = [row.held_error for row in result.report.layers if row.name in read and row.held_error is not None]
    return float(np.mean(errors))


def main() -> None:
    """Print one of the two tables."""
    parser = arguments(__doc__)
    parser.add_argument("--selectors", action="store_true", help="the second table instead")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each selector")
    options = parser.parse_args()
    model = str(options.zoo / "models" / "cifar10_resnet56.onnx")
    with np.load(options.data / "cifar10_test.npz") as archive:
        test = prepared(archive["images"]), archive["labels"]
    show = _selectors if options.selectors else _runs
    print(machine())
    show(model, options.data / "cifar10_calib.npz", test, options.seeds)


def _runs(model: str, calibration: Path, test: Test, seeds: int) -> None:
    with np.load(calibration) as archive:
        once = seconds_once(model, prepared(archive["images"][:_SAMPLES]))
    print(f"one pass of onnxruntime over {_SAMPLES} images: {once:.2f} s\n")
    rows: list[list[object]] = [["original", 1.0, top1(model, *test), "", ""]]
    for label, chosen in (
        ("channels only (obs, linear), --align 16", _BASE),
        ("--refit auto", replace(_BASE, refit=RefitOptions(refit="auto"))),
        ("--allocation uniform", replace(_BASE, allocation="uniform")),
    ):
        start = time.perf_counter()
        result = onnxprune.prune(model, data=calibration, macs="2x", options=replace(chosen, bench=True))
        taken = time.perf_counter() - start
        rows.append([label, result.report.macs.ratio, _accuracy(result, test), taken, taken / once])
    print(table(["run", "MACs before / after", "top-1 of 5 000", "seconds", "of one pass"], rows))


def _selectors(model: str, calibration: Path, test: Test, seeds: int) -> None:
    linear, none = RefitOptions(refit="linear"), RefitOptions(refit="none")
    cases = [(selector, linear) for selector in (*get_args(Selector), *NAMES)] + [("magnitude", none)]
    planned = onnxprune.prune(model, data=calibration, macs="2x", options=_BASE, dry_run=True).plan
    counts = Plan(tuple(replace(group, kept=None) for group in planned.groups))
    rows: list[list[object]] = []
    for selector, refit in cases:
        errors, accuracies = [], []
        for seed in range(seeds):
            seed_random(seed)
            found = replace(_BASE, recipe=None, align=None, select=baseline(selector), refit=refit, seed=seed)
            result = onnxprune.prune(model, data=calibration, plan=counts, options=found)
            errors.append(_held_error(result))
            accuracies.append(_accuracy(result, test))
        spread = f"{min(accuracies):.2f} to {max(accuracies):.2f}"
        rows.append([selector, refit.refit, f"{np.mean(errors):.4f}", float(np.mean(accuracies)), spread])
    print(f"mean of {seeds} seeds\n")
    print(table(["selector", "refit", "held-out error", "top-1 of 5 000", "lowest to highest"], rows))


def _accuracy(result: onnxprune.Result, test: Test) -> float:
    return top1(result.model, *test) if result.model is not None else float("nan")


if __name__ == "__main__":
    main()
