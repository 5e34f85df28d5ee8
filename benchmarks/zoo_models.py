"""The models of the zoo at one speed-up, with default options: reach, cut, metric and latency, before and after.

Where there are labels the metric is the task's own; elsewhere it is the agreement with the original, or the relative
error of the worst output, on held-back inputs. "Reach" is the share of the MACs in layers that may lose channels.

Run: ``python benchmarks/zoo_models.py --data FOLDER``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import arguments, machine, run_model, table, top1
from PIL import Image

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.commands.inspect import run_inspection
from onnxprune.errors import OnnxPruneError

Model = onnx.ModelProto | str
_SHAVE = 2


@dataclass(frozen=True)
class Case:
    """A model, what it is calibrated on, how, and its metric."""

    name: str
    calibration: str | Callable[[Path], Any] | None
    data: DataOptions
    metric: str
    measure: Callable[[Path, Model], float] | None = None

    def inputs(self, folder: Path) -> Any:
        """What `prune` gets as data."""
        if isinstance(self.calibration, str):
            return folder / self.calibration
        return None if self.calibration is None else self.calibration(folder)


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


def _mobilenet(data: Path, model: Model) -> float:
    images, labels = _resized(data, 160)
    return top1(model, images, labels + 1)  # class 0 is the background


def _resized(data: Path, side: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(data / "imagenet_test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    small = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(small), labels


def _lines(kind: str) -> Callable[[Path], np.ndarray[Any, Any]]:
    def load(data: Path) -> np.ndarray[Any, Any]:
        with np.load(data / "textline_crops.npz") as archive:
            return np.repeat(archive[kind][..., None], 3, axis=-1)

    return load


def _angles(data: Path, model: Model) -> float:
    with np.load(data / "textline_crops.npz") as archive:
        labels = archive["test_label"]
    pixels = (_lines("test")(data).astype(np.float32) / 255 - 0.5) / 0.5
    return top1(model, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels)


_HELD = "held-back agreement, or relative error"
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
    Case(
        "cifar10_resnet56",
        "cifar10_calib.npz",
        DataOptions(mean=_IMAGENET[0], std=_IMAGENET[1]),
        "top-1 of 5 000",
        _cifar(*_IMAGENET, 1 / 255),
    ),
    Case("imagenet_mobilenet_v1_050_160", "imagenet_calib", DataOptions(resize=(160, 160)), "top-1 of 300", _mobilenet),
    Case("cls_ppocr_textangle", _lines("calib"), DataOptions(mean=(0.5,), std=(0.5,)), "top-1 of 18", _angles),
    Case("vww_mobilenet_v1_025_96", "imagenet_calib", DataOptions(resize=(96, 96), scale=1 / 255), _HELD),
    Case(
        "det_ultraface_rfb320",
        "faces_calib",
        DataOptions(resize=(240, 320), mean=(127.0,), std=(128.0,), scale=1.0),
        _HELD,
    ),
    Case(
        "det_blazeface_front",
        "faces_calib",
        DataOptions(resize=(128, 128), mean=(127.5,), std=(127.5,), scale=1.0),
        _HELD,
    ),
    Case("audio_basic_pitch", None, DataOptions(), _HELD),
)


def _words(ratio: Any) -> str:
    return "" if ratio is None else f"{ratio.ratio:.2f}x [{ratio.ratio_low:.2f}, {ratio.ratio_high:.2f}]"


def _measured(case: Case, folder: Path, path: str, result: onnxprune.Result) -> tuple[object, object]:
    """The metric before and after."""
    if case.measure is not None and result.model is not None:
        return case.measure(folder, path), case.measure(folder, result.model)
    worst = max(result.report.divergence, key=lambda output: output.relative_error)
    if worst.top1_agreement is not None and len(result.report.divergence) == 1:
        return "100 %", f"{worst.top1_agreement:.1%} of {worst.samples}"
    return "0", f"{worst.relative_error:.3f} on {worst.samples}"


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--speedup", type=float, default=1.5)
    parser.add_argument("--recipe", default="prune")
    options = parser.parse_args()
    rows: list[list[object]] = []
    for case in (case for case in CASES if case.name in options.only):
        path = str(options.zoo / "models" / f"{case.name}.onnx")
        start = time.perf_counter()
        reach = f"{run_inspection(path).reach:.0%}"
        chosen = Options(data=case.data, samples=3000, recipe=options.recipe)
        try:
            result = onnxprune.prune(path, data=case.inputs(options.data), macs=f"{options.speedup}x", options=chosen)
        except OnnxPruneError as error:
            rows.append([case.name, reach, f"declined: {error}"])
            continue
        report = result.report
        rows.append(
            [
                case.name,
                reach,
                case.metric,
                *_measured(case, options.data, path, result),
                f"{report.macs.ratio:.2f}x",
                f"{report.params.ratio:.2f}x",
                _words(report.timing),
                f"{report.data['fit']} x {report.options['inputs']['points']}",
                time.perf_counter() - start,
            ]
        )
        print(rows[-1], file=sys.stderr, flush=True)
    print(machine())
    header = ["model", "reach", "metric", "before", "after", "MACs", "parameters", "latency", "inputs x points"]
    print(table([*header, "seconds"], rows))


if __name__ == "__main__":
    main()
