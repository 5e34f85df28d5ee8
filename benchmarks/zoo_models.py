"""Four models of the zoo at ``--speedup 1.5``, each in its own metric before and after, with default options.

Run: ``python benchmarks/zoo_models.py --data FOLDER``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import arguments, machine, run_model, table, top1

import onnxprune
from onnxprune import DataOptions, Options

Model = onnx.ModelProto | str
_SHAVE = 2


@dataclass(frozen=True)
class Case:
    """A model, what it is calibrated on, how, and its metric."""

    name: str
    calibration: str
    data: DataOptions
    metric: str
    measure: Callable[[Path, Model], float]


def _cifar(mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> Callable[[Path, Model], float]:
    def measure(data: Path, model: Model) -> float:
        with np.load(data / "cifar10_test.npz") as archive:
            images, labels = archive["images"], archive["labels"]
        values = (images.astype(np.float32) * scale - np.array(mean, np.float32)) / np.array(std, np.float32)
        return top1(model, np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32), labels)

    return measure


def _imagenet(data: Path, model: Model) -> float:
    with np.load(data / "imagenet_test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    values = images[..., ::-1].astype(np.float32) - np.array((104, 117, 123), np.float32)
    return top1(model, np.ascontiguousarray(values.transpose(0, 3, 1, 2)), labels)


def psnr(data: Path, model: Model) -> float:
    """Mean PSNR on Set5 at a factor of two, in dB: two pixels of the border left out, clipped, not rounded."""
    found = []
    with np.load(data / "sr_set5_x2_y.npz") as archive:
        names = sorted(name.removesuffix("_gt") for name in archive.files if name.endswith("_gt"))
        for name in names:
            low, truth = archive[f"{name}_ilr"], archive[f"{name}_gt"].astype(np.float64) / 255
            inputs = (low.astype(np.float32) / 255).reshape(1, 1, *low.shape[-2:])
            answer = np.clip(next(iter(run_model(model, inputs)))[0, 0].astype(np.float64), 0, 1)
            inner = (slice(_SHAVE, -_SHAVE),) * 2
            found.append(-10 * np.log10(np.mean((answer - truth.reshape(answer.shape))[inner] ** 2)))
    return float(np.mean(found))


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES = (
    Case("sr_vdsr", "sr_calib_x2_y.npz", DataOptions(), "PSNR on Set5 x2, dB", psnr),
    Case(
        "cifar10_resnet20_rawexport",
        "cifar10_calib.npz",
        DataOptions(mean=_IMAGENET[0], std=_IMAGENET[1]),
        "top-1 of 5 000",
        _cifar(*_IMAGENET, 1 / 255),
    ),
    Case(
        "cifar10_resnet8",
        "cifar10_calib.npz",
        DataOptions(mean=(0.0,), std=(1.0,), scale=1.0),
        "top-1 of 5 000",
        _cifar((0.0,), (1.0,), 1.0),
    ),
    Case(
        "imagenet_squeezenet1_1",
        "imagenet_calib",
        DataOptions(mean=(104.0, 117.0, 123.0), std=(1.0,), scale=1.0, color="bgr"),
        "top-1 of 300",
        _imagenet,
    ),
)


def _words(ratio: Any) -> str:
    return "" if ratio is None else f"{ratio.ratio:.2f}x [{ratio.ratio_low:.2f}, {ratio.ratio_high:.2f}]"


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    options = parser.parse_args()
    rows = []
    for case in (case for case in CASES if case.name in options.only):
        path = str(options.zoo / "models" / f"{case.name}.onnx")
        start = time.perf_counter()
        chosen = Options(data=case.data, samples=3000)
        result = onnxprune.prune(path, data=options.data / case.calibration, speedup=1.5, options=chosen)
        taken = time.perf_counter() - start
        if result.model is None:
            raise AssertionError("no dry run was asked for")
        report = result.report
        rows.append(
            [
                case.name,
                case.metric,
                case.measure(options.data, path),
                case.measure(options.data, result.model),
                f"{report.macs.ratio:.2f}x",
                f"{report.params.ratio:.2f}x",
                _words(report.timing),
                f"{report.data['fit']} x {report.options['points']}",
                taken,
            ]
        )
    print(machine())
    header = ["model", "metric", "before", "after", "MACs", "parameters", "latency", "inputs x points", "seconds"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
