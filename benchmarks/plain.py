"""The plain command, no budget: how fast a network gets within one point, on inputs that nobody fitted.

``onnxprune MODEL -o RESULT --data PHOTOS`` and the preprocessing, on six networks. What is lost is measured on test
data that the tool does not see, by a measure of each network's own; the speed-up is the one that the run reports.

Run: ``python benchmarks/plain.py --data FOLDER``, with ``--only TEXT`` for some of the networks.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measures
import numpy as np
import onnx
import onnxruntime
from common import arguments, machine, table, top1
from deployed import NETWORKS
from zoo_models import psnr

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.errors import OnnxPruneError
from onnxprune.options.engine import EngineOptions

_CIFAR = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Model = onnx.ModelProto | str


@dataclass(frozen=True)
class Network:
    """A network, the inputs that it is calibrated on, and a measure on others, in words."""

    name: str
    inputs: str
    data: DataOptions
    words: str
    measure: Callable[[Path, Model], float]


def _cifar(folder: Path, model: Model) -> float:
    with np.load(folder / "cifar10_test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    values = (images.astype(np.float32) / 255 - np.array(_CIFAR[0], np.float32)) / np.array(_CIFAR[1], np.float32)
    return top1(model, np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32), labels)


def _imagenet(folder: Path, model: Model) -> float:
    inputs, labels = NETWORKS["imagenet_mobilenet_v2"].tests(folder)
    return top1(model, inputs, labels)


def _own(measure: Callable[[measures.Run], float]) -> Callable[[Path, Model], float]:
    """A measure of ``measures.py``, of a network that onnxruntime runs."""

    def found(_: Path, model: Model) -> float:
        loadable = model if isinstance(model, str) else model.SerializeToString()
        session = onnxruntime.InferenceSession(loadable, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return measure(lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True)))

    return found


_HALF = DataOptions(mean=(0.5,) * 3, std=(0.5,) * 3, color="bgr", resize=(48, 320))
_YUNET = DataOptions(scale=1.0, color="bgr", resize=(256, 320))
_NETWORKS = (
    Network("cifar10_resnet56", "cifar10_calib.npz", DataOptions(mean=_CIFAR[0], std=_CIFAR[1]), "top-1", _cifar),
    Network("imagenet_mobilenet_v2", "photos", NETWORKS["imagenet_mobilenet_v2"].data, "top-1", _imagenet),
    Network("det_yunet_n_dynamic", "photos", _YUNET, "faces found", _own(measures.yunet)),
    Network("seg_meet", "photos", DataOptions(resize=(144, 256)), "IoU", _own(measures.meet)),
    Network("ocr_ppocrv4_rec", "text_lines_calib", _HALF, "100 - character error rate", _own(measures.ocr)),
    Network("sr_vdsr", "sr_calib_x2_y.npz", DataOptions(), "PSNR, dB", psnr),
)


def _row(network: Network, given: argparse.Namespace) -> list[object]:
    path = str(given.zoo / "models" / f"{network.name}.onnx")
    options = replace(Options(), data=network.data, samples=given.samples, engine=EngineOptions(threads=given.threads))
    before, start = network.measure(given.data, path), time.perf_counter()
    try:
        result = onnxprune.prune(path, data=given.data / network.inputs, options=options)
    except OnnxPruneError as error:
        minutes = (time.perf_counter() - start) / 60
        return [network.name, network.words, f"{before:.2f}", "", "", f"{minutes:.1f}", str(error)]
    minutes = (time.perf_counter() - start) / 60
    assert result.model is not None
    assert result.report.timing is not None
    timing = result.report.timing
    faster = f"{timing.ratio:.2f}x [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]"
    after = network.measure(given.data, result.model)
    said = " ".join(warning.split(":")[0] for warning in result.report.warnings)
    return [network.name, network.words, f"{before:.2f}", f"{after:.2f}", faster, f"{minutes:.1f}", said]


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", help="networks whose names contain one of these texts")
    parser.add_argument("--samples", type=int, default=1000, help="inputs at most")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    given = parser.parse_args()
    os.environ["ZOO_DATA"] = str(given.data)
    rows: list[list[Any]] = []
    for network in _NETWORKS:
        if given.only and not any(text in network.name for text in given.only):
            continue
        rows.append(_row(network, given))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    print(table(["network", "measure", "before", "after", "speed-up, measured", "minutes", "said"], rows))


if __name__ == "__main__":
    main()
