"""Preprocessing of pixels into the values that the model expects: resize, crop, colour, scale and shift, layout.

value = (pixel * scale - mean) / std, with mean and std in units of pixel * scale and in the order of the
channels that the model sees. Sizes are rounded as in torchvision: the long side is truncated, the offset of the centre
crop rounded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from onnxprune.options.data import Color, Layout

__all__ = ["Preprocessing", "Size"]

Size = tuple[int, int]
"""Height and width, in pixels."""

LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 weights of R, G, B."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resolved preprocessing recipe.

    Attributes:
        resize: short side in pixels, or (H, W), or None to keep the size; bilinear with antialiasing.
        crop: (H, W) in pixels of a centre crop after the resize; None for no crop.
        color: order of the channels; ``gray`` is luma, repeated if `channels` is 3.
        channels: number of the model's input channels, 1 or 3.
        layout: layout of the model's input.
        scale: factor on the pixels.
        mean: one number per channel, in units of pixel * scale.
        std: one number per channel, in units of pixel * scale.
        pad: pixel value around images that keep their proportions in `resize`, which is (H, W) then; None: they do not.
        dtype: element type of the result; unless it is a float, scale, mean and std must be 1, 0 and 1.

    Raises:
        ValueError: the numbers of channels differ, or scaled values do not fit `dtype`.
    """

    resize: int | Size | None
    crop: Size | None
    color: Color
    channels: int
    layout: Layout
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[Any]
    pad: float | None = None

    def __post_init__(self) -> None:
        if not self.channels == len(self.mean) == len(self.std):
            raise ValueError(f"{self.channels} channels, {len(self.mean)} means, {len(self.std)} stds")
        if self.dtype.kind != "f" and not self.passes_pixels:
            raise ValueError(f"scaled values do not fit {self.dtype}")

    @property
    def passes_pixels(self) -> bool:
        """True if values are pixels: scale 1, mean 0, std 1."""
        return self.scale == 1 and not any(self.mean) and all(std == 1 for std in self.std)

    def describe(self) -> dict[str, object]:
        """Return the recipe as JSON-able values, for the report."""
        return {**asdict(self), "dtype": str(self.dtype)}

    def resized(self, size: Size) -> Size:
        """Return the size of an image of `size` after the resize, before the crop."""
        if self.resize is None:
            return size
        if not isinstance(self.resize, int):
            return self.resize
        short = min(size)
        height, width = (self.resize if side == short else self.resize * side // short for side in size)
        return height, width

    def output_size(self, size: Size) -> Size:
        """Return the size of an image of `size` after resize and crop.

        Raises:
            ValueError: the crop is larger than the image.
        """
        resized = self.resized(size)
        if self.crop is None:
            return resized
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(f"a crop of {self.crop} does not fit into {resized}")
        return self.crop

    def apply(self, images: Iterable[NDArray[Any]]) -> NDArray[Any]:
        """Prepare images for the model.

        Args:
            images: each (H, W, 1) or (H, W, 3) in RGB, uint8 or float, in pixel units; or one (n, H, W, C) array.

        Returns:
            (n, C, H, W) or (n, H, W, C) by `layout`, of `dtype`, C-contiguous.

        Raises:
            ValueError: there is no image, a crop is larger than its image, or the sizes after the crop
                differ.
        """
        return np.ascontiguousarray(np.stack([self._prepared(image) for image in images]))

    def _prepared(self, image: NDArray[Any]) -> NDArray[Any]:
        size = (image.shape[0], image.shape[1])
        if self.pad is None:
            pixels = self._colored(_cropped(_resized(image, self.resized(size)), self.output_size(size)))
        else:
            pixels = self._colored(_fitted(image, self.resized(size), self.pad))
        # The rounding of float64 is below that of any element type a model takes; whole planes are fastest.
        values = np.array(pixels.transpose(2, 0, 1), dtype=np.float64, order="C")
        values *= self.scale
        values -= np.reshape(self.mean, (-1, 1, 1))
        values /= np.reshape(self.std, (-1, 1, 1))
        prepared = values.astype(self.dtype)
        return prepared if self.layout == "nchw" else prepared.transpose(1, 2, 0)

    def _colored(self, image: NDArray[Any]) -> NDArray[Any]:
        if self.color == "gray" and image.shape[2] == 3:
            image = _luma(image)
        if image.shape[2] != self.channels:
            image = np.repeat(image, self.channels, axis=2)
        return image[:, :, ::-1] if self.color == "bgr" else image


def _luma(image: NDArray[Any]) -> NDArray[Any]:
    """Convert (H, W, 3) RGB to (H, W, 1) luma of the image's dtype; integers are rounded."""
    values = image.astype(np.float64) @ LUMA
    rounded = values if image.dtype.kind == "f" else np.rint(values)
    return np.asarray(rounded[:, :, np.newaxis], dtype=image.dtype)


def _resized(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resize bilinearly with antialiasing, one channel at a time: Pillow's float modes hold one channel."""
    if image.shape[:2] == size:
        return image
    mode = np.uint8 if image.dtype == np.uint8 else np.float32
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=mode)) for plane in np.moveaxis(image, 2, 0)]
    scaled = [plane.resize((size[1], size[0]), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in scaled], axis=2)


def _fitted(image: NDArray[Any], size: Size, pad: float) -> NDArray[Any]:
    """Resize to the largest size of the same proportions within ``size``, and pad around the centre (letterbox)."""
    factor = min(side / own for side, own in zip(size, image.shape[:2], strict=True))
    inner = tuple(min(max(round(factor * own), 1), side) for own, side in zip(image.shape[:2], size, strict=True))
    scaled = _resized(image, (inner[0], inner[1]))
    top, left = ((side - own) // 2 for side, own in zip(size, inner, strict=True))
    fitted = np.full((*size, image.shape[2]), pad, dtype=scaled.dtype)
    fitted[top : top + inner[0], left : left + inner[1]] = scaled
    return fitted


def _cropped(image: NDArray[Any], crop: Size) -> NDArray[Any]:
    top = round((image.shape[0] - crop[0]) / 2)
    left = round((image.shape[1] - crop[1]) / 2)
    return image[top : top + crop[0], left : left + crop[1]]
