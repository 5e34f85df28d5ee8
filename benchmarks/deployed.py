"""Networks that people deploy, by the plain command and by a few options: what is left, on images nobody fitted.

``accuracy``: ImageNet networks at fewer MACs, without training: top-1 on both test sets (525 photos), and agreement
with the original on them. ``cifar``: ResNet-56 and ResNet-32 on the 10 000 test images, by MACs and by time on one
thread. ``vdsr``: super-resolution, PSNR on Set5. ``tasks``: a
text recogniser, two face detectors and two segmentation networks by the measures of ``measures.py``.

Run: ``python benchmarks/deployed.py accuracy --data FOLDER``, with ``--only TEXT`` for some of the rows.
"""

from __future__ import annotations

import argparse
import lzma
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import measures
import numpy as np
import onnx
from common import arguments, machine, run_model, table
from PIL import Image
from zoo_models import psnr

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.errors import OnnxPruneError
from onnxprune.options.engine import EngineOptions

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """A classifier: its preprocessing, the size and the offset of its classes, and how it is fed by hand."""

    name: str
    side: int
    data: DataOptions
    feed: Callable[[Array], Array]
    offset: int = 0

    def path(self, zoo: Path) -> str:
        """The file; unpacked beside the data where it is compressed."""
        plain = zoo / "models" / f"{self.name}.onnx"
        if plain.is_file():
            return str(plain)
        unpacked = Path(tempfile.gettempdir()) / plain.name
        unpacked.write_bytes(lzma.decompress(plain.with_suffix(".onnx.xz").read_bytes()))
        return str(unpacked)

    def tests(self, folder: Path) -> tuple[Array, Array]:
        """Model-ready test images and their classes, of both sets."""
        images, labels = [], []
        for name in ("imagenet_test.npz", "imagenet_test_b.npz"):
            with np.load(folder / name) as archive:
                images.append(archive["images"])
                labels.append(archive["labels"])
        pixels = np.concatenate(images)
        if self.side != pixels.shape[1]:
            size = self.side, self.side
            small = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in pixels]
            pixels = np.stack([np.asarray(image) for image in small])
        return self.feed(pixels), np.concatenate(labels) + self.offset


def nchw(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float, *, bgr: bool = False
) -> Callable[[Array], Array]:
    """A function from pixels, (n, H, W, 3) bytes of RGB, to normalised float32 inputs, (n, 3, H, W)."""

    def feed(pixels: Array) -> Array:
        ordered = pixels[..., ::-1] if bgr else pixels
        values = (ordered.astype(np.float32) * np.float32(scale) - np.array(mean, np.float32)) / np.array(
            std, np.float32
        )
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)

    return feed


_ONE_THREAD = EngineOptions(threads=1)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (127 / 255,) * 3, (128 / 255,) * 3
_CAFFE = (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)
NETWORKS = {
    network.name: network
    for network in (
        Network(
            "imagenet_mobilenet_v2",
            224,
            DataOptions(preset="imagenet", resize=(224, 224)),
            nchw(_MEAN, _STD, 1 / 255),
        ),
        Network(
            "imagenet_efficientnet_lite0",
            224,
            DataOptions(mean=_HALF[0], std=_HALF[1], resize=(224, 224)),
            nchw(*_HALF, 1 / 255),
        ),
        Network("imagenet_mobilenet_v1_050_160", 160, DataOptions(resize=(160, 160)), lambda pixels: pixels, 1),
        Network(
            "imagenet_squeezenet1_1",
            224,
            DataOptions(preset="caffe", resize=(224, 224)),
            nchw(*_CAFFE, 1.0, bgr=True),
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """A network, how many photos of which folder, a speed-up in MACs, and options other than the defaults."""

    network: str
    photos: str
    samples: int
    speedup: float
    label: str = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)


_ROWS = (
    Row("imagenet_mobilenet_v2", "photos", 1000, 1.3),
    Row("imagenet_mobilenet_v2", "photos", 150, 1.5),
    Row("imagenet_mobilenet_v1_050_160", "imagenet_calib", 300, 1.3),
    Row("imagenet_squeezenet1_1", "imagenet_calib", 300, 1.3),
    Row("imagenet_efficientnet_lite0", "photos", 1000, 1.3),
)


def _answers(model: onnx.ModelProto | str, inputs: Array) -> Array:
    return np.concatenate([scores.reshape(len(scores), -1).argmax(axis=1) for scores in run_model(model, inputs, 25)])


def _accuracy(given: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for row in _ROWS:
        name = f"{row.network} {row.speedup:g}x {row.samples} {row.label}"
        if given.only and not any(text in name for text in given.only):
            continue
        network = NETWORKS[row.network]
        path = network.path(given.zoo)
        options = replace(Options(bench=False), samples=row.samples, data=network.data, **row.options)
        start = time.perf_counter()
        try:
            result = onnxprune.prune(path, data=given.data / row.photos, macs=f"{row.speedup}x", options=options)
        except OnnxPruneError as error:
            print(name, error, file=sys.stderr)
            continue
        taken, report = time.perf_counter() - start, result.report
        assert result.model is not None
        inputs, labels = network.tests(given.data)
        before, after = _answers(path, inputs), _answers(result.model, inputs)
        cells: list[object] = [
            row.network,
            row.samples,
            row.label,
            f"{report.macs.ratio:.2f}x",
            f"{100 * (before == labels).mean():.1f}",
            f"{100 * (after == labels)[:300].mean():.1f} / {100 * (after == labels).mean():.1f}",
            f"{100 * (after == before).mean():.1f}",
            " ".join(warning.split(":")[0] for warning in report.warnings),
            f"{report.seconds['probe']:.0f} / {taken:.0f}",
        ]
        rows.append(cells)
        print(*cells, sep=" | ", file=sys.stderr, flush=True)
        if given.keep:
            result.save(given.keep / f"{row.network}-{row.speedup:g}-{row.samples}.onnx")
    header = ["model", "photos", "options", "MACs", "top-1 of 525 before", "after: of 300 / of 525", "agreement"]
    print(machine(), "\n")
    print(table([*header, "said", "planning / run, s"], rows))


_CIFAR: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cifar10_resnet56", "--macs 50%", {"macs": 0.5}),
    ("cifar10_resnet56", "--macs 33%", {"macs": 0.33}),
    ("cifar10_resnet56", "--macs 25%", {"macs": 0.25}),
    ("cifar10_resnet32", "--macs 50%", {"macs": 0.5}),
    ("cifar10_resnet32", "--macs 33%", {"macs": 0.33}),
    ("cifar10_resnet56", "--speedup 2", {"speedup": 2.0}),
)


def _cifar(given: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    archives = [np.load(given.data / f"cifar10_{part}.npz") for part in ("test", "test_b")]
    inputs = nchw(_MEAN, _STD, 1 / 255)(np.concatenate([archive["images"] for archive in archives]))
    labels = np.concatenate([archive["labels"] for archive in archives])
    for name, flag, budget in _CIFAR:
        label = f"{name} {flag}"
        if given.only and not any(text in label for text in given.only):
            continue
        path = str(given.zoo / "models" / f"{name}.onnx")
        options = replace(Options(), samples=3000, data=DataOptions(mean=_MEAN, std=_STD), engine=_ONE_THREAD)
        start = time.perf_counter()
        result = onnxprune.prune(path, data=given.data / "cifar10_calib.npz", options=options, **budget)
        taken, report = time.perf_counter() - start, result.report
        assert result.model is not None
        assert report.timing is not None
        seconds = _once(path, inputs[:3000])
        before, after = _answers(path, inputs), _answers(result.model, inputs)
        rows.append(
            [
                label,
                f"{report.macs.ratio:.2f}x",
                f"{report.timing.ratio:.2f}x [{report.timing.ratio_low:.2f}, {report.timing.ratio_high:.2f}]",
                f"{100 * (before == labels).mean():.2f}",
                f"{100 * (after == labels).mean():.2f}",
                f"{100 * (after == before).mean():.1f}",
                f"{report.seconds['probe'] / seconds:.1f}",
                f"{taken / seconds:.1f}",
            ]
        )
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    header = ["command", "MACs", "time, 1 thread", "top-1 of 10 000 before", "after", "agreement"]
    print(table([*header, "planning, passes", "run, passes"], rows))


def _vdsr(given: argparse.Namespace) -> None:
    path = str(given.zoo / "models" / "sr_vdsr.onnx")
    options = replace(Options(), engine=_ONE_THREAD)
    result = onnxprune.prune(path, data=given.data / "sr_calib_x2_y.npz", macs=0.33, options=options)
    report = result.report
    assert result.model is not None
    assert report.timing is not None
    cells: list[object] = ["sr_vdsr --macs 33%", f"{report.macs.ratio:.2f}x", f"{report.timing.ratio:.2f}x"]
    cells += [f"{psnr(given.data, model):.2f}" for model in (path, result.model)]
    print(machine(), "\n")
    print(table(["command", "MACs", "time, 1 thread", "PSNR on Set5 x2, dB, before", "after"], [cells]))


def _once(path: str, inputs: Array) -> float:
    """Seconds of one pass of onnxruntime."""
    start = time.perf_counter()
    for _ in run_model(path, inputs):
        pass
    return time.perf_counter() - start


_TASKS: tuple[tuple[str, str, DataOptions, Any], ...] = (
    ("det_ultraface_rfb320", "photos", DataOptions(mean=_HALF[0], std=_HALF[1], resize=(240, 320)), measures.faces),
    ("det_yunet_n_dynamic", "photos", DataOptions(scale=1.0, color="bgr", resize=(256, 320)), measures.yunet),
    ("seg_deeplabv3_mnv2_dm05", "photos", DataOptions(resize=(513, 513)), measures.voc),
    ("seg_meet", "photos", DataOptions(resize=(144, 256)), measures.meet),
    (
        "ocr_ppocrv4_rec",
        "text_lines_calib",
        DataOptions(mean=(0.5,) * 3, std=(0.5,) * 3, color="bgr", resize=(48, 320)),
        measures.ocr,
    ),
)
_TASK_PHOTOS = 300


def _tasks(given: argparse.Namespace) -> None:
    os.environ["ZOO_DATA"] = str(given.data)
    rows: list[list[object]] = []
    for name, folder, data, measure in _TASKS:
        if given.only and name not in given.only:
            continue
        options = replace(Options(bench=False), samples=given.samples or _TASK_PHOTOS, data=data, evaluate=measure)
        path = given.zoo / "models" / f"{name}.onnx"
        try:
            report = onnxprune.prune(path, data=given.data / folder, macs="1.3x", options=options).report
        except OnnxPruneError as error:
            rows.append([name, "", str(error), "", ""])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
            continue
        assert report.evaluation is not None
        told = [
            f"{output.name}: "
            + (f"agreement {output.top1_agreement:.3f}, " if output.top1_agreement is not None else "")
            + f"error {output.relative_error:.2f}"
            for output in report.divergence[:3]
        ]
        value = f"{report.evaluation.before:.1f} -> {report.evaluation.after:.1f}"
        rows.append([name, f"{report.macs.ratio:.2f}x", value, "; ".join(told), "DAMAGED" if report.damaged else ""])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    print(table(["network", "MACs", "own measure", "the tool's numbers", "said"], rows))


def main() -> None:
    """Run one of the parts."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=("accuracy", "cifar", "vdsr", "tasks"))
    parser.add_argument("--only", nargs="*", help="rows whose names contain one of these texts")
    parser.add_argument("--samples", type=int, help="inputs of `tasks`")
    parser.add_argument("--keep", type=Path, help="folder to write the results to")
    given = parser.parse_args()
    {"accuracy": _accuracy, "cifar": _cifar, "vdsr": _vdsr, "tasks": _tasks}[given.part](given)


if __name__ == "__main__":
    main()
