"""Channel axis of rank-four shapes: of the model's input, and of an array of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.spec import format_shape
from onnxprune.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.data.spec import InputSpec
    from onnxprune.options.data import DataOptions, Layout

__all__ = ["CHANNEL_AXIS", "ImageInput", "channels_last", "image_input"]

CHANNEL_AXIS: dict[Layout, int] = {"nchw": 1, "nhwc": 3}


@dataclass(frozen=True)
class ImageInput:
    """Model input that takes images.

    Attributes:
        spec: the input.
        layout: order of its axes.
        channels: number of channels, 1 or 3; None if the model leaves it open.
        height: height in pixels; None if the model leaves it open.
        width: width in pixels; None if the model leaves it open.
    """

    spec: InputSpec
    layout: Layout
    channels: int | None
    height: int | None
    width: int | None


def image_input(spec: InputSpec, options: DataOptions) -> ImageInput | None:
    """Interpret `spec` as an image input; None if it cannot be one (not four axes, or neither 1 nor 3 channels).

    Raises:
        UsageError: the shape fits both layouts, or contradicts ``--layout``.
    """
    if len(spec.shape) != 4:
        return None
    fitting: list[Layout] = [layout for layout, axis in CHANNEL_AXIS.items() if spec.shape[axis] in (1, 3)]
    if options.layout is not None:
        channels = spec.shape[CHANNEL_AXIS[options.layout]]
        if channels not in (1, 3, None) and fitting:
            raise UsageError(
                f"--layout {options.layout} makes {channels} channels of {spec}, expected 1 or 3: use "
                f"--layout {fitting[0]}"
            )
        return _image_input(spec, options.layout) if channels in (1, 3, None) else None
    if len(fitting) == 1:
        return _image_input(spec, fitting[0])
    if not fitting and None not in (spec.shape[1], spec.shape[3]):
        return None
    raise UsageError(f"{spec}: the shape does not tell which axis is the channels: add --layout nchw or --layout nhwc")


def channels_last(array: NDArray[Any], source: str) -> NDArray[Any]:
    """View an array of images as (n, H, W, C).

    Args:
        array: (n, H, W), (n, C, H, W) or (n, H, W, C), with C 1 or 3.
        source: name of the array in errors.

    Raises:
        DataError: none or two of these layouts fit.
    """
    shape = format_shape(array.shape)
    wanted = "expected (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, or gray (N, H, W)"
    if 0 in array.shape:
        raise DataError(f"{source}: shape {shape} holds no pixels, {wanted}")
    if array.ndim == 3:
        if array.shape[0] == 3 or array.shape[2] in (1, 3):
            raise DataError(
                f"{source}: shape {shape} may be one image or several gray ones, {wanted}: "
                f"add the missing axis (array[None] for one image, array[..., None] for gray ones)"
            )
        return array[..., np.newaxis]
    fitting: list[Layout] = [
        layout for layout, axis in CHANNEL_AXIS.items() if array.ndim == 4 and array.shape[axis] in (1, 3)
    ]
    if len(fitting) == 1:
        return np.moveaxis(array, 1, 3) if fitting == ["nchw"] else array
    problem = "fits both (N, H, W, C) and (N, C, H, W)" if fitting else "is no array of images"
    advice = "give model-ready float data" if fitting else "transpose or reshape the array"
    raise DataError(f"{source}: shape {shape} {problem}, {wanted}: {advice}")


def _image_input(spec: InputSpec, layout: Layout) -> ImageInput:
    channel = CHANNEL_AXIS[layout]
    height, width = (axis for axis in (1, 2, 3) if axis != channel)
    return ImageInput(spec, layout, spec.shape[channel], spec.shape[height], spec.shape[width])
