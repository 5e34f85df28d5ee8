"""scikit-learn's digits as the data files of ``models/`` hold them.

A data file is an ``.npz`` with ``images`` (N, 16, 16, 1) uint8 and its own recipe, ``scale``, ``mean`` and
``std``, each (1,) float32: a net sees (pixel * scale - mean) / std, as NCHW. A test file has ``labels``, (N,)
int64, as well.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SIZE", "Digits", "load", "npz_bytes", "prepare"]

SIZE = 16
TEST_IMAGES = 500

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Digits:
    """What the two data files hold, and the training labels, (N,) int64, which no file holds."""

    calibration: Arrays
    training_labels: npt.NDArray[np.int64]
    test: Arrays


def load(seed: int) -> Digits:
    """Enlarge the digits and split them, every class in the same proportion."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([_enlarge(image) for image in small])[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    training, test, training_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=seed
    )
    unit = training / 255
    recipe = {
        "scale": np.array([1 / 255], np.float32),
        "mean": np.array([round(float(unit.mean()), 4)], np.float32),
        "std": np.array([round(float(unit.std()), 4)], np.float32),
    }
    return Digits(
        calibration={"images": training, **recipe},
        training_labels=training_labels,
        test={"images": test, "labels": test_labels, **recipe},
    )


def prepare(data: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Turn a data file's images into what a net sees, (N, 1, 16, 16), by the file's own recipe."""
    values = (data["images"] * data["scale"] - data["mean"]) / data["std"]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Return the contents of a compressed ``.npz`` file; numpy puts no time stamps into it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _enlarge(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
