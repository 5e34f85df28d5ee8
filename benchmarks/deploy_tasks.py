"""Networks of `deploy.py` that are no ImageNet classifiers: their inputs, and what a person would measure.

Each is judged by its own measure, on inputs that no command gets:

=====================  ===========================================================================
ocr_ppocrv4_rec        per cent of characters read as the original does, on 150 lines
det_ultraface_rfb320   photos of six with the same faces as the original finds (IoU above one half)
seg_meet               intersection over union with the original's mask, per cent, on 78 photos
sr_vdsr                PSNR on Set5, dB
cifar10_resnet56       top-1 of 10 000 test images, agreement and KL against the original
=====================  ===========================================================================
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measures
import numpy as np
import onnx
from deployed import nchw
from zoo_models import psnr

from onnxprune import DataOptions

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

__all__ = ["TASKS", "Task", "data_of"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = DataOptions(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resize=(240, 320))


@dataclass(frozen=True)
class Task:
    """A network, its calibration data, its budgets, and the measure of its results.

    Attributes:
        name: of the model in the zoo.
        sources: folders or an archive of the data that the command gets.
        data: preprocessing.
        shape: of the input that is timed.
        measure: function from the arguments, the original and a model to the cells of a row: the task's measure, and
            what else is known.
        budgets: of the plain command.
        samples: most inputs; None: the default.
    """

    name: str
    sources: tuple[str, ...]
    data: DataOptions
    shape: tuple[int, ...]
    measure: Callable[[argparse.Namespace, Model, Model], tuple[str, str]]
    budgets: tuple[Mapping[str, float], ...]
    samples: int | None = None

    def feed(self) -> Array:
        """An input to time."""
        return np.random.default_rng(0).standard_normal(self.shape).astype(np.float32)


@contextmanager
def data_of(task: Task, given: argparse.Namespace) -> Iterator[str]:
    """The archive, or a folder of links to the images of all sources but those to measure on."""
    first = given.data / task.sources[0]
    if first.is_file():
        yield str(first)
        return
    with TemporaryDirectory() as folder:
        for source in task.sources:
            kept = set(measures.measured_photos(given.data / source)) if source == "photos" else set()
            for path in (given.data / source).iterdir():
                if path.suffix in (".jpg", ".png", ".webp") and path not in kept:
                    (Path(folder) / path.name).symlink_to(path.resolve())
        yield folder


def _runner(model: Model) -> Run:
    session = measures.session_of(model)
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def _per_cent(measure: Callable[[Run], float]) -> Callable[[argparse.Namespace, Model, Model], tuple[str, str]]:
    """A measure of `measures.py`, whose reference is the original."""

    def measured(given: argparse.Namespace, original: Model, model: Model) -> tuple[str, str]:
        os.environ["ZOO_DATA"] = str(given.data)
        measure(_runner(original))
        return f"{measure(_runner(model)):.1f} %", ""

    return measured


def _faces(given: argparse.Namespace, original: Model, model: Model) -> tuple[str, str]:
    os.environ["ZOO_DATA"] = str(given.data)
    wanted, found = (measures.ultraface_boxes(_runner(one)) for one in (original, model))
    same = [_same(a, b) for a, b in zip(wanted, found, strict=True)]
    return f"{sum(same)} of {len(same)}", "faces: " + " ".join(str(len(boxes)) for boxes in found)


def _same(wanted: Array, found: Array) -> bool:
    """Tell whether two lists of boxes (n, 4) hold the same faces."""
    if len(wanted) != len(found):
        return False
    rest = list(found)
    for box in wanted:
        overlaps = [measures.overlap(box, other) for other in rest]
        if not overlaps or max(overlaps) < 0.5:
            return False
        del rest[int(np.argmax(overlaps))]
    return True


def _super_resolution(given: argparse.Namespace, original: Model, model: Model) -> tuple[str, str]:
    return f"{psnr(given.data, model):.2f} dB", ""


def _cifar(given: argparse.Namespace, original: Model, model: Model) -> tuple[str, str]:
    archives = [np.load(given.data / f"cifar10_{part}.npz") for part in ("test", "test_b")]
    pixels = np.concatenate([archive["images"] for archive in archives])
    labels = np.concatenate([archive["labels"] for archive in archives])
    inputs = nchw(_MEAN, _STD, 1 / 255)(pixels)
    wanted, found = (measures.log_scores(measures.session_of(one), inputs) for one in (original, model))
    kl = (np.exp(wanted) * (wanted - found)).sum(1).mean()
    agreement = 100 * (wanted.argmax(1) == found.argmax(1)).mean()
    return f"{100 * (found.argmax(1) == labels).mean():.2f} %", f"{agreement:.1f} / {kl:.3f}"


def _speedups(*speedups: float) -> tuple[Mapping[str, float], ...]:
    return tuple({"speedup": speedup} for speedup in speedups)


TASKS = (
    Task(
        "ocr_ppocrv4_rec",
        ("text_lines_calib",),
        DataOptions(mean=(0.5,) * 3, std=(0.5,) * 3, color="bgr", resize=(48, 320)),
        (1, 3, 48, 320),
        _per_cent(measures.ocr),
        _speedups(1.25, 1.5, 2.0, 3.0),
    ),
    Task(
        "det_ultraface_rfb320",
        ("faces_calib", "photos"),
        _HALF,
        (1, 3, 240, 320),
        _faces,
        _speedups(1.25, 1.5, 2.0),
        1000,
    ),
    Task(
        "seg_meet",
        ("faces_calib", "photos"),
        DataOptions(resize=(144, 256)),
        (1, 144, 256, 3),
        _per_cent(measures.meet),
        _speedups(1.25, 1.5, 2.0),
        1000,
    ),
    Task(
        "sr_vdsr",
        ("sr_calib_x2_y.npz",),
        DataOptions(),
        (1, 1, 128, 128),
        _super_resolution,
        _speedups(1.5, 2.0, 3.0),
    ),
    Task(
        "cifar10_resnet56",
        ("cifar10_calib.npz",),
        DataOptions(mean=_MEAN, std=_STD),
        (1, 3, 32, 32),
        _cifar,
        (*_speedups(1.5, 2.0, 3.0), {"macs": 1 / 2}, {"macs": 1 / 3}, {"macs": 1 / 4}),
        3000,
    ),
)
