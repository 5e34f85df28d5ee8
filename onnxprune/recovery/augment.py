"""Other views of inputs that are images: mirrored, shifted with what lies beyond the edge reflected, two mixed.

The original is asked about every one of them, so none needs a label that fits (Beyer et al., "Knowledge distillation: a
good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.data import InputSpec
from onnxprune.data.layout import CHANNEL_AXIS, image_input
from onnxprune.errors import UsageError
from onnxprune.options.data import DataOptions

Array = np.ndarray[Any, Any]

__all__ = ["Augmentation", "augmentation_for"]

_SHIFT = 8  # at most an eighth of the side


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of inputs.

    Attributes:
        text: for the report.
        name: of the input that holds images; None: nothing is done.
        channel: its axis of channels.
    """

    text: str
    name: str | None = None
    channel: int = 1

    def __call__(self, feeds: Mapping[str, Array], generator: np.random.Generator) -> dict[str, Array]:
        """Views of a batch, of the same shapes and types."""
        if self.name is None:
            return dict(feeds)
        images = np.moveaxis(feeds[self.name], self.channel, 1)
        views = _mixed(_shifted(_mirrored(images, generator), generator), generator)
        return {**feeds, self.name: np.ascontiguousarray(np.moveaxis(views, 1, self.channel))}


def augmentation_for(specs: Sequence[InputSpec], options: DataOptions, *, wanted: bool = True) -> Augmentation:
    """Choose the augmentation that fits a model's inputs."""
    if not wanted:
        return Augmentation("none, as asked")
    if len(specs) > 1:
        return Augmentation(f"none: the model has {len(specs)} inputs, which belong together")
    image = None
    with suppress(UsageError):  # it may be either layout: then nothing can be mirrored
        image = image_input(specs[0], options)
    if image is None:
        return Augmentation("none: the input is no image")
    return Augmentation("mirrored, shifted, mixed", specs[0].name, CHANNEL_AXIS[image.layout])


def _mirrored(images: Array, generator: np.random.Generator) -> Array:
    """Half of them, left to right."""
    turned = generator.random(len(images)) < 0.5
    return np.where(turned[:, None, None, None], images[..., ::-1], images)


def _shifted(images: Array, generator: np.random.Generator) -> Array:
    """Each by its own distance."""
    height, width = images.shape[2:]
    most = height // _SHIFT, width // _SHIFT
    pads = [(0, 0), (0, 0), *((side, side) for side in most)]
    large = np.pad(images, pads, mode="reflect")
    views = np.empty_like(images)
    for place, view in enumerate(views):
        top, left = (int(generator.integers(0, 2 * side + 1)) for side in most)
        view[...] = large[place, :, top : top + height, left : left + width]
    return views


def _mixed(images: Array, generator: np.random.Generator) -> Array:
    """Half of them with another one."""
    share = np.where(generator.random(len(images)) < 0.5, generator.random(len(images)), 1.0)[:, None, None, None]
    views = share * images + (1 - share) * images[generator.permutation(len(images))]
    views = np.rint(views) if images.dtype.kind in "iu" else views
    return np.asarray(views, images.dtype)
