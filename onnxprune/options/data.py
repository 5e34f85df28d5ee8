"""Options of the data: the model's inputs, and the preprocessing of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from onnxprune.errors import UsageError

__all__ = ["OPEN_SIDE", "SYNTHETIC", "Color", "DataOptions", "Layout", "PresetName", "ResizeMode"]

PresetName = Literal["imagenet", "imagenet-tf", "caffe", "cifar10", "none"]
Color = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
ResizeMode = Literal["stretch", "fit"]

OPEN_SIDE = 64
"""Side in pixels of synthetic images if neither the model nor an option gives one."""
SYNTHETIC = "synthetic"
"""Source name that asks for synthetic inputs; a folder of that name is ``./synthetic``."""
_PAD = 114.0
LARGEST_SIDE = 16384
"""Longest image side in pixels that ``--resize`` and ``--crop`` accept."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Preprocessing of images into the values that the model expects: (pixel * scale - mean) / std.

    Raises:
        UsageError: a value cannot be used (a std of zero, three sizes, a negative crop ...).
    """

    preset: PresetName | None = None
    """Named recipe; the options below override its parts."""

    mean: tuple[float, ...] | None = None
    """Subtrahend after scaling: one value, or one per channel in the model's order; default 0 or the preset's."""

    std: tuple[float, ...] | None = None
    """Divisor applied last: one value, or one per channel in the model's order; default 1 or the preset's."""

    scale: float | None = None
    """Factor on the pixels 0..255, before mean and std; default 1/255 or the preset's."""

    resize: tuple[int, ...] | None = None
    """Bilinear resize, in pixels: N for the short side, or H W; default the preset's, or the model's size."""

    crop: tuple[int, ...] | None = None
    """Centre crop after the resize, in pixels: N for a square, or H W; default the preset's, or the model's size."""

    resize_mode: ResizeMode = "stretch"
    """stretch: to H W whatever the proportions; fit: proportions kept, padded around the centre (letterbox)."""

    pad_value: float = _PAD
    """Pixel value 0..255 of the padding of --resize-mode fit."""

    color: Color | None = None
    """Order of the channels that the model takes; default rgb or the preset's, gray for a model of one channel."""

    layout: Layout | None = None
    """Layout of the model's input; needed only if the shape does not tell."""

    skip_unreadable: bool = False
    """Leave out files of a folder that cannot be read; a note says how many."""

    def __post_init__(self) -> None:
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"--scale must be a positive number, found {self.scale}")
        if self.mean is not None:
            _check_channels("--mean", self.mean)
        if self.std is not None:
            _check_channels("--std", self.std)
            if min(self.std) <= 0:
                raise UsageError(f"--std must be positive, found {format_numbers(self.std)}")
        if self.resize_mode not in get_args(ResizeMode):
            raise UsageError(f"--resize-mode must be {' or '.join(get_args(ResizeMode))}, found {self.resize_mode!r}")
        if self.resize_mode == "fit" and self.crop is not None:
            raise UsageError("--resize-mode fit pads to the size: leave --crop out")
        if self.resize_mode == "fit" and self.resize is not None and len(self.resize) != 2:
            raise UsageError("--resize-mode fit takes --resize H W, or the model's own size")
        if not 0 <= self.pad_value <= 255:
            raise UsageError(f"--pad-value must be within 0 and 255, found {self.pad_value:g}")
        if self.pad_value != _PAD and self.resize_mode != "fit":
            raise UsageError("--pad-value does nothing without --resize-mode fit: leave it out")
        for flag, size in (("--resize", self.resize), ("--crop", self.crop)):
            if size is not None and (len(size) not in (1, 2) or not 1 <= min(size) <= max(size) <= LARGEST_SIDE):
                raise UsageError(
                    f"{flag} takes N or H W, each from 1 to {LARGEST_SIDE} pixels, "
                    f"found {format_numbers(size) or 'nothing'}"
                )

    def given(self) -> tuple[str, ...]:
        """Return the flags of the preprocessing options given; ``--layout`` describes the model and does not count."""
        fields = ("preset", "mean", "std", "scale", "resize", "crop", "color")
        given = tuple(f"--{field}" for field in fields if getattr(self, field) is not None)
        return (*given, "--resize-mode") if self.resize_mode != "stretch" else given


def format_numbers(numbers: tuple[float, ...]) -> str:
    """Format numbers as typed after a flag."""
    return " ".join(f"{number:g}" for number in numbers)


def _check_channels(flag: str, values: tuple[float, ...]) -> None:
    if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
        raise UsageError(f"{flag} takes one number or three, found {format_numbers(values) or 'nothing'}")
