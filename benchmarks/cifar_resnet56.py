"""ResNet-56 on CIFAR-10 at a true 2.0x fewer MACs, channels only, from 3 000 unlabelled images, without training.

First the whole run, with default options, with the ReLU-aware refit and with a uniform budget: accuracy on 5 000
test images, seconds, and seconds over those that onnxruntime takes to run the original once over the same images,
in the same process. Then, with ``--selectors``, the selectors side by side at equal counts (those of the first
plan): reconstruction error of the layers that read pruned channels, mean over layers, on the half of the images
that they were not fitted on; and accuracy. Last the baseline that needs no data: magnitude without a refit.

Run: ``python benchmarks/cifar_resnet56.py --data FOLDER``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
from common import arguments, machine, table, top1

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.plan import GroupPlan, Plan
from onnxprune.solve import RefitOptions, SelectOptions, Selector

_SAMPLES = 3000
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _prepared(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values = (images.astype(np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def _seconds_once(model: str, images: np.ndarray[Any, Any]) -> float:
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
    """Print both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--selectors", action="store_true", help="the second table too")
    options = parser.parse_args()
    model = str(options.zoo / "models" / "cifar10_resnet56.onnx")
    calibration = options.data / "cifar10_calib.npz"
    with np.load(options.data / "cifar10_test.npz") as archive:
        images, labels = _prepared(archive["images"]), archive["labels"]
    with np.load(calibration) as archive:
        once = _seconds_once(model, _prepared(archive["images"][:_SAMPLES]))
    base = Options(samples=_SAMPLES, data=DataOptions(mean=_MEAN, std=_STD), bench=False)
    print(machine())
    print(f"one pass of onnxruntime over {_SAMPLES} images: {once:.2f} s\n")
    rows: list[list[object]] = [["original", 1.0, top1(model, images, labels), "", ""]]
    plan: Plan | None = None
    for label, chosen in (
        ("default (obs, linear)", base),
        ("--refit relu", replace(base, refit=RefitOptions(refit="relu"))),
        ("--allocation uniform", replace(base, allocation="uniform")),
    ):
        start = time.perf_counter()
        result = onnxprune.prune(model, data=calibration, speedup=2.0, options=chosen)
        taken = time.perf_counter() - start
        accuracy = top1(result.model, images, labels) if result.model is not None else float("nan")
        rows.append([label, result.report.macs.ratio, accuracy, taken, taken / once])
        plan = plan or result.plan
    print(table(["run", "MACs before / after", "top-1 of 5 000", "seconds", "of one pass"], rows), "\n")
    if options.selectors and plan is not None:
        counts = Plan(tuple(GroupPlan(g.producer, g.consumers, g.channels, g.keep) for g in plan.groups))
        print(
            table(
                ["selector", "refit", "held-out error", "top-1 of 5 000"],
                _selectors(model, calibration, base, counts, images, labels),
            )
        )


def _selectors(
    model: str,
    calibration: Path,
    base: Options,
    counts: Plan,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
) -> list[list[object]]:
    rows: list[list[object]] = []
    linear, none = RefitOptions(refit="linear"), RefitOptions(refit="none")
    cases = [(selector, linear) for selector in get_args(Selector)] + [("magnitude", none)]
    for selector, refit in cases:
        chosen = replace(base, select=SelectOptions(selector=selector), refit=refit)
        result = onnxprune.prune(model, data=calibration, plan=counts, options=chosen)
        accuracy = top1(result.model, images, labels) if result.model is not None else float("nan")
        rows.append([selector, refit.refit, f"{_held_error(result):.4f}", accuracy])
    return rows


if __name__ == "__main__":
    main()
