"""What training on the original's answers brings back: no labels, no training code, the calibration images only.

Each network is pruned as in ``plan_by_cost.py`` (at most 3 000 images), then recovered on all of them. Beside it stands
what is usual: a network of the same MACs with the same share of the channels gone everywhere, the smallest weights
first, trained for as many epochs with the same views of the same images, on the softened KL of the outputs alone.

Run: ``python benchmarks/recovery.py --data FOLDER --vgg cifar_vgg.onnx``; ``--only`` picks rows, such as
``cifar10_resnet56-4x``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from baselines import baseline
from common import ROOT, arguments, machine, table, top1
from zoo_models import CASES, Case

import onnxprune
from onnxprune import DataOptions, Options, RecoverOptions
from onnxprune.options.solve import RefitOptions

_BY_NAME = {case.name: case for case in CASES}
_BASE = Options(samples=3000, bench=False, recipe="prune", align=16)
_OURS = replace(_BASE, recipe="3c", align=1, points=30, refit=RefitOptions(refit="auto"))
_USUAL = replace(
    _BASE,
    align=1,
    allocation="uniform",
    select=baseline("magnitude"),
    refit=RefitOptions(refit="none"),
)
_WAYS = {"ours": (_OURS, RecoverOptions()), "usual": (_USUAL, RecoverOptions(features=0.0, blockwise=0.0))}


@dataclass(frozen=True)
class Row:
    """A network, a cut in MACs, and how long it is trained."""

    name: str
    speedup: float
    epochs: int

    @property
    def label(self) -> str:
        """For ``--only``."""
        return f"{self.name}-{self.speedup:g}x"


_ROWS = (
    Row("digits_vgg", 4.0, 40),
    Row("digits_resnet", 4.0, 40),
    Row("cifar10_resnet56", 4.0, 36),
    Row("cifar10_resnet56", 3.0, 24),
    Row("cifar10_resnet56", 2.0, 16),
    Row("vgg", 5.0, 40),
    Row("sr_vdsr", 2.0, 60),
)


def _digits(name: str) -> Case:
    """A shipped model, its data beside it."""

    def measure(data: Path, model: Any) -> float:
        with np.load(ROOT / "models" / f"{name}.test.npz") as archive:
            images, labels = archive["images"], archive["labels"]
        del data
        with np.load(ROOT / "models" / f"{name}.calib.npz") as archive:
            mean, std = (archive[key].astype(np.float32) for key in ("mean", "std"))
        values = (images.astype(np.float32) / 255 - mean) / std
        return top1(model, np.ascontiguousarray(values.reshape(len(values), 1, *values.shape[1:3])), labels)

    return Case(name, None, DataOptions(), "top-1 of 500", measure)


def _found(row: Row, given: Any) -> tuple[str, Case]:
    if row.name.startswith("digits"):
        return str(ROOT / "models" / f"{row.name}.onnx"), _digits(row.name)
    if row.name == "vgg":
        return str(given.vgg), replace(_BY_NAME["cifar10_resnet56"], name="vgg")
    return str(given.zoo / "models" / f"{row.name}.onnx"), _BY_NAME[row.name]


def _recovered(path: str, case: Case, row: Row, given: Any, options: Options, training: RecoverOptions) -> list[Any]:
    """MACs, metric before and after the training, what changed on held-back inputs, and minutes."""
    assert case.measure is not None
    inputs = case.inputs(given.data)
    points = None if row.name == "sr_vdsr" else options.points  # of two dozen images all that it takes
    options = replace(options, data=case.data, points=points)
    pruned = onnxprune.prune(path, data=inputs, macs=f"{row.speedup}x", options=options)
    assert pruned.model is not None
    start = time.perf_counter()
    trained = onnxprune.recover(
        path,
        pruned.model,
        data=inputs,
        options=Options(data=case.data, recover=replace(training, epochs=row.epochs)),
    )
    minutes = (time.perf_counter() - start) / 60
    assert trained.model is not None
    record = trained.report.recovery
    return [
        f"{pruned.report.macs.ratio:.2f}x",
        case.measure(given.data, pruned.model),
        case.measure(given.data, trained.model),
        f"{record.held[0]:.4f} -> {record.held[1]:.4f}",
        f"{record.best} of {record.epochs[1]}",
        minutes,
    ]


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--vgg", type=Path, default=Path("cifar_vgg.onnx"), help="what tools/train_cifar_vgg.py wrote")
    parser.add_argument("--only", nargs="*", default=[], help="rows, such as cifar10_resnet56-4x")
    parser.add_argument("--ways", nargs="*", choices=list(_WAYS), default=list(_WAYS), help="ours, and what is usual")
    given = parser.parse_args()
    unknown = set(given.only) - {row.label for row in _ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(row.label for row in _ROWS)}")
    rows: list[list[object]] = []
    for row in _ROWS:
        if given.only and row.label not in given.only:
            continue
        path, case = _found(row, given)
        assert case.measure is not None
        original = case.measure(given.data, path)
        for way in given.ways:
            found = _recovered(path, case, row, given, *_WAYS[way])
            rows.append([row.label, way, case.metric, original, *found])
            print(rows[-1], file=sys.stderr, flush=True)
    print(machine())
    print()
    header = ["network", "way", "metric", "original", "MACs", "pruned", "recovered", "held-back loss"]
    print(table([*header, "best epoch", "minutes"], rows))


if __name__ == "__main__":
    main()
