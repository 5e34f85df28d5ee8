"""Inputs, images and files that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from onnxprune.data import Calibration, InputSpec
from onnxprune.options.data import DataOptions

FLOAT = np.dtype(np.float32)
NO_OPTIONS = DataOptions()


def nchw(height: int | None = 8, width: int | None = 8, channels: int = 3, dtype: object = np.float32) -> InputSpec:
    return InputSpec("x", (None, channels, height, width), np.dtype(dtype))


def nhwc(height: int | None = 8, width: int | None = 8, channels: int = 3, dtype: object = np.float32) -> InputSpec:
    return InputSpec("x", (None, height, width, channels), np.dtype(dtype))


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_image(path: Path, height: int = 8, width: int = 8, *, seed: int = 0, gray: bool = False) -> np.ndarray:
    """Write a random image without loss; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(height, width, seed=seed) if gray else pixels(height, width, 3, seed=seed)
    Image.fromarray(array).save(path)
    return array


def notes(calibration: Calibration) -> str:
    return " | ".join(calibration.description["notes"])
