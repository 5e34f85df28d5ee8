"""Channel pruning, spatial and channel decomposition, and all three together, at equal MACs and without training.

On a VGG for CIFAR-10 (trained by ``tools/train_cifar_vgg.py``) and on VDSR: the metric of each recipe at 2x, 3x, 4x and
5x fewer MACs, in brackets the MACs before over those after and, for the VGG, the share of the test images on which it
agrees with its original. With ``--latency`` a second table at the end: how much faster each result is than its
original on one thread, both run in turn; nothing else should run meanwhile.

Run: ``python benchmarks/three_c.py --data FOLDER --vgg cifar_vgg.onnx --latency``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from common import arguments, machine, run_model, table, top1
from zoo_models import Model, psnr

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.engine.timing import interleaved
from onnxprune.errors import PlanError
from onnxprune.options.planning import Recipe
from onnxprune.options.solve import RefitOptions

Array = np.ndarray[Any, Any]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """A model, its calibration, and what is measured of it."""

    path: Path
    calibration: Path
    data: DataOptions
    metric: str
    measure: Callable[[Model], float]
    agreement: Callable[[Model], float] | None = None


def _test_images(data: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(data / "cifar10_test.npz") as archive:
        values = (archive["images"].astype(np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        labels = archive["labels"]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32), labels


def _accuracy(data: Path, model: Model) -> float:
    return top1(model, *_test_images(data))


def _agreement(data: Path, original: Path, model: Model) -> float:
    """With the original's answers, in per cent."""
    inputs, _ = _test_images(data)
    wanted = np.concatenate([scores.argmax(axis=1) for scores in run_model(str(original), inputs)])
    return top1(model, inputs, wanted)


class _Timed:
    """A session on one thread. Denormal numbers count as zero: weight decay leaves many in what training gave up."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    provider, threads = "CPU", 1

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, by number."""
        return {str(index): value for index, value in enumerate(self._session.run(None, dict(feeds)))}


def _kind(source: onnx.ValueInfoProto) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)


def faster(path: str | Path, model: onnx.ModelProto) -> float:
    """Latency of the original over the model's, for one image (128 x 128 where its size is open) on one thread."""
    source = onnx.load(path).graph.input[0]
    batch, *rest = (dim.dim_value for dim in source.type.tensor_type.shape.dim)
    shape = [batch or 1, *(size or 128 for size in rest)]
    kind = _kind(source)
    drawn = np.random.default_rng(0).random(shape) * (255 if kind.kind == "u" else 1)
    feeds = {source.name: drawn.astype(kind)}
    return interleaved(_Timed(Path(path).read_bytes()), _Timed(model.SerializeToString()), feeds).ratio


def main() -> None:
    """Print a table for each model."""
    parser = arguments(__doc__)
    parser.add_argument("--vgg", type=Path, required=True, help="what train_cifar_vgg.py has written")
    parser.add_argument("--only", nargs="*", default=["vgg", "vdsr"])
    parser.add_argument("--speedups", nargs="*", type=float, default=[2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--recipes", nargs="*", default=list(get_args(Recipe)))
    parser.add_argument("--refit", default="linear", choices=["linear", "auto"])
    parser.add_argument("--align", type=int, default=16)
    parser.add_argument("--latency", action="store_true", help="measure it at the end, on one thread")
    options = parser.parse_args()
    cases = {
        "vgg": Case(
            options.vgg,
            options.data / "cifar10_calib.npz",
            DataOptions(mean=_MEAN, std=_STD),
            "top-1 of 5 000",
            partial(_accuracy, options.data),
            partial(_agreement, options.data, options.vgg),
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
    made: dict[tuple[str, str, float], onnx.ModelProto] = {}
    header = ["recipe", *(f"{speedup:g}x" for speedup in options.speedups)]
    for name in options.only:
        case = cases[name]
        print(f"\n{name}, {case.metric}; original {case.measure(str(case.path)):.2f}; --refit {options.refit}\n")
        rows: list[list[object]] = []
        with tempfile.TemporaryDirectory() as cache:
            for recipe in options.recipes:
                rows.append([recipe])
                for speedup in options.speedups:
                    result = _compressed(case, recipe, speedup, options, Path(cache))
                    rows[-1].append("out of reach" if result is None else _cell(case, result))
                    if result is not None and result.model is not None:
                        made[name, recipe, speedup] = result.model
                print(rows[-1], file=sys.stderr, flush=True)
        print(table(header, rows), flush=True)
    for name in options.only if options.latency else ():
        print(f"\n{name}, times faster than the original, one image, one thread\n")
        found: list[list[object]] = []
        for recipe in options.recipes:
            keys = [(name, recipe, speedup) for speedup in options.speedups]
            found.append([recipe, *(faster(cases[name].path, made[key]) if key in made else "" for key in keys)])
        print(table(header, found), flush=True)


def _compressed(
    case: Case, recipe: Recipe, speedup: float, given: argparse.Namespace, cache: Path
) -> onnxprune.Result | None:
    """None: the budget is out of reach."""
    chosen = Options(
        recipe=recipe,
        data=case.data,
        refit=RefitOptions(refit=given.refit),
        align=given.align,
        bench=False,
        cache_dir=cache,
    )
    try:
        return onnxprune.prune(str(case.path), data=case.calibration, macs=f"{speedup}x", options=chosen)
    except PlanError:
        return None


def _cell(case: Case, result: onnxprune.Result) -> str:
    """Metric, true ratio of MACs, agreement."""
    if result.model is None:
        raise AssertionError("no dry run was asked for")
    agreed = "" if case.agreement is None else f", {case.agreement(result.model):.1f} %"
    return f"{case.measure(result.model):.2f} ({result.report.macs.ratio:.2f}x{agreed})"


if __name__ == "__main__":
    main()
