"""All models of the zoo at one cut in MACs by the plain command: reach, metric and latency, before and after.

Where there are labels the metric is the task's own; elsewhere it is the agreement with the original, or the relative
error of the worst output, on held-out inputs. "Reach" is the share of the MACs in layers that may lose channels. A
model that is declined has the reason in its row.

Run: ``python benchmarks/zoo_models.py --data FOLDER``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    metric: str = "held-out agreement, or relative error"
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


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = DataOptions(mean=_IMAGENET[0], std=_IMAGENET[1])
_UNIT = DataOptions(mean=(0.5,), std=(0.5,))
_BYTES = DataOptions(mean=(0.0,), std=(1.0,), scale=1.0)


def _patches(file: str, name: str, side: int) -> Callable[[Path], np.ndarray[Any, Any]]:
    """Patches of images or volumes, values from 0 to 1: (n, 1, side, side) or (n, 1, side, side, side)."""

    def load(data: Path) -> np.ndarray[Any, Any]:
        with np.load(data / file) as archive:
            values: np.ndarray[Any, Any] = archive[name].astype(np.float32) / 255
        for axis in range(2, values.ndim):
            values = np.concatenate(np.split(values, values.shape[axis] // side, axis=axis))
        return values

    return load


CASES = (
    Case("audio_basic_pitch", lambda _: "synthetic", DataOptions()),
    Case("cifar10_resnet20_rawexport", "cifar10_calib.npz", _CIFAR, "top-1 of 5 000", _cifar(*_IMAGENET, 1 / 255)),
    Case("cifar10_resnet32", "cifar10_calib.npz", _CIFAR),
    Case("cifar10_resnet56", "cifar10_calib.npz", _CIFAR, "top-1 of 5 000", _cifar(*_IMAGENET, 1 / 255)),
    Case("cifar10_resnet8", "cifar10_calib.npz", _BYTES, "top-1 of 5 000", _cifar((0.0,), (1.0,), 1.0)),
    Case("cifar10_tiniest", "cifar10_calib.npz", DataOptions(mean=(0.5,), std=(1.0,))),
    Case("cls_ppocr_textangle", _lines("calib"), _UNIT, "top-1 of 18", _angles),
    Case("det_blazeface_front", "photos", DataOptions(resize=(128, 128), mean=(127.5,), std=(127.5,), scale=1.0)),
    Case("det_fastestdet_coco", "photos", DataOptions(resize=(352, 352), color="bgr")),
    Case("det_ultraface_rfb320", "photos", DataOptions(resize=(240, 320), mean=(127.0,), std=(128.0,), scale=1.0)),
    Case("det_yunet_n_dynamic", "photos", replace(_BYTES, resize=(256, 320), color="bgr")),
    Case("imagenet_efficientnet_lite0", "photos", DataOptions(mean=(127.0,), std=(128.0,), scale=1.0)),
    Case("imagenet_mobilenet_v1_025_128", "photos", DataOptions(resize=(128, 128))),
    Case("imagenet_mobilenet_v1_050_160", "photos", DataOptions(resize=(160, 160)), "top-1 of 300", _mobilenet),
    Case("imagenet_mobilenet_v2", "photos", DataOptions(preset="imagenet")),
    Case(
        "imagenet_squeezenet1_1",
        "photos",
        DataOptions(mean=(104.0, 117.0, 123.0), std=(1.0,), scale=1.0, color="bgr"),
        "top-1 of 300",
        _imagenet,
    ),
    Case("ocr_ppocrv4_det", "text_pages", replace(_CIFAR, color="bgr", resize=(320, 320))),
    Case("ocr_ppocrv4_rec", "text_lines_calib", replace(_UNIT, color="bgr", resize=(48, 320))),
    Case("seg3d_meshnet_gwm", _patches("t1_patches.npz", "calib", 32), DataOptions()),
    Case("seg_deeplabv3_mnv2_dm05", "photos", DataOptions(resize=(513, 513))),
    Case("seg_meet", "photos", DataOptions(resize=(144, 256))),
    Case("seg_retina_unet", _patches("retina_calib.npz", "image", 64), DataOptions()),
    Case("sr_vdsr", "sr_calib_x2_y.npz", DataOptions(), "PSNR on Set5 x2, dB", psnr),
    Case("vww_mobilenet_v1_025_96", "photos", DataOptions(resize=(96, 96), scale=1 / 255)),
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


def _row(case: Case, given: argparse.Namespace) -> list[object]:
    """The row of a network: what was measured, or the line by which it was declined."""
    path = str(given.zoo / "models" / f"{case.name}.onnx")
    if not Path(path).is_file():
        path = str(given.data / f"{case.name}.onnx")  # unpacked there
    start = time.perf_counter()
    reach = f"{run_inspection(path).reach:.1%}"
    options = Options(data=case.data, samples=given.samples)
    try:
        result = onnxprune.prune(path, data=case.inputs(given.data), macs=f"{given.speedup}x", options=options)
    except OnnxPruneError as error:
        return [case.name, reach, f"declined: {error}", *[""] * 6, time.perf_counter() - start]
    report = result.report
    return [
        case.name,
        reach,
        case.metric,
        *_measured(case, given.data, path, result),
        f"{report.macs.ratio:.2f}x",
        f"{report.params.ratio:.2f}x",
        _words(report.timing),
        "DAMAGED" if report.damaged else "",
        time.perf_counter() - start,
    ]


def main() -> None:
    """Print the table, a row as soon as it is there."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--speedup", type=float, default=1.3, help="MACs before over those after")
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    print(machine(), flush=True)
    header = ["model", "reach", "metric", "before", "after", "MACs", "parameters", "latency", "said", "seconds"]
    rows = []
    for case in (case for case in CASES if case.name in given.only):
        rows.append(_row(case, given))
        print(table(header, rows[-1:]).splitlines()[-1], flush=True)
    print(table(header, rows))


if __name__ == "__main__":
    main()
