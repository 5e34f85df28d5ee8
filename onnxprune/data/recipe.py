"""Resolving options, a preset and the numbers stored with the images into one preprocessing recipe.

Each number comes from the first of these that has it: its own option, the preset, the file, the default
(scale 1/255, mean 0, std 1). Every choice that the caller did not make leaves a note.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.data.images import MOST_PIXELS
from onnxprune.data.preprocess import Preprocessing
from onnxprune.data.presets import CROP, PRESETS, short_side
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import OPEN_SIDE, format_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.data.images import ImageSource
    from onnxprune.data.layout import ImageInput
    from onnxprune.data.preprocess import Size
    from onnxprune.data.presets import Preset
    from onnxprune.options.data import Color, DataOptions

__all__ = ["natural_size", "resolve"]


WAY_OUT = "add --resize H W, or --resize N --crop H W"


def resolve(
    target: ImageInput, options: DataOptions, stored: DataOptions, images: ImageSource
) -> tuple[Preprocessing, list[str]]:
    """Resolve the preprocessing that turns `images` into values of `target`.

    Args:
        target: the model's input.
        options: the caller's options.
        stored: mean, std and scale stored with the images; `options` overrides them.
        images: all images; their sizes after the preprocessing are checked.

    Returns:
        The recipe, and one note for each choice that the caller did not make.

    Raises:
        UsageError: options contradict each other or the model.
        DataError: an image cannot be brought to the model's size, or the sizes differ.
    """
    notes: list[str] = []
    preset = PRESETS[options.preset] if options.preset else None
    channels = target.channels or (1 if options.color == "gray" else 3)
    if target.channels is None:
        notes.append(f"the model leaves the number of channels open: {channels} assumed")
    color = _color(options, preset, channels)
    scale, mean, std = _numbers(target, options, preset, stored, channels, color, notes)
    resize, crop = _geometry(target, options, preset, images, notes)
    recipe = Preprocessing(
        resize=resize,
        crop=crop,
        color=color,
        channels=channels,
        layout=target.layout,
        scale=scale,
        mean=mean,
        std=std,
        dtype=target.spec.dtype,
        pad=options.pad_value if options.resize_mode == "fit" else None,
    )
    _check_sizes(recipe, target, images)
    return recipe, notes + _color_notes(recipe, images)


def natural_size(target: ImageInput, options: DataOptions) -> Size:
    """Return (H, W) in pixels as the model and the options fix it; `OPEN_SIDE` for a side that neither fixes."""
    size = (OPEN_SIDE, OPEN_SIDE)
    exact = options.crop or (options.resize if options.resize and len(options.resize) == 2 else None)
    if exact:
        size = _pair(exact)
    elif options.preset and PRESETS[options.preset].crops:
        size = _preset_size(target)
    elif options.resize:
        size = _pair(options.resize)
    return target.height or size[0], target.width or size[1]


def _color(options: DataOptions, preset: Preset | None, channels: int) -> Color:
    if channels == 1:
        if options.color in ("rgb", "bgr"):
            raise UsageError(f"--color {options.color}: the model takes one channel, expected --color gray or none")
        return "gray"
    return options.color or (preset.color if preset else None) or "rgb"


def _numbers(
    target: ImageInput,
    options: DataOptions,
    preset: Preset | None,
    stored: DataOptions,
    channels: int,
    color: Color,
    notes: list[str],
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Resolve scale, mean and std; the last two have one number per channel, in the order of `color`."""
    dtype = target.spec.dtype
    if dtype.kind in "iu" and np.can_cast(np.uint8, dtype):
        _check_untouched(target, options, notes)
        return 1.0, (0.0,) * channels, (1.0,) * channels
    if dtype.kind != "f":
        raise DataError(
            f"{target.spec}: images can be given to float inputs and to integers that hold 0..255: give model-ready "
            f"{dtype} arrays"
        )
    scale, mean, std = stored.scale, stored.mean, stored.std
    if preset:
        scale, mean, std = (
            preset.scale,
            _reordered(preset.mean, preset, color),
            _reordered(preset.std, preset, color),
        )
    elif any(number is not None for number in (scale, mean, std)):
        notes.append("mean, std or scale stored with the images used, unless an option overrides them")
    elif options.mean is None and options.std is None and options.scale is None:
        notes.append("no --preset or --mean/--std given: scaled to 0..1")
    scale = options.scale or scale or 1 / 255
    mean = _each(options.mean or mean or (0.0,), channels, "mean")
    std = _each(options.std or std or (1.0,), channels, "std")
    if options.mean and options.scale is None and max(abs(number) for number in mean) > 255 * scale * 1.01:
        raise UsageError(
            f"--mean {format_numbers(options.mean)} lies outside the scaled pixels, expected "
            f"0..{255 * scale:g} (mean and std are in units of pixel * scale): add --scale 1, or divide "
            f"mean and std by 255"
        )
    return scale, mean, std


def _check_untouched(target: ImageInput, options: DataOptions, notes: list[str]) -> None:
    asked = [flag for flag in options.given() if flag in ("--mean", "--std", "--scale")]
    if asked:
        raise UsageError(f"{target.spec}: the model takes unscaled pixels: drop {' '.join(asked)}")
    notes.append(f"the model takes {target.spec.dtype}: pixels are not scaled")


def _reordered(numbers: tuple[float, ...], preset: Preset, color: Color) -> tuple[float, ...]:
    """Reorder a preset's numbers to the channels of `color`: if ``--color`` swaps red and blue, so are the numbers."""
    swapped = {preset.color, color} == {"rgb", "bgr"}
    return numbers[::-1] if swapped else numbers


def _each(numbers: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if len(numbers) == 1:
        return tuple(float(number) for number in numbers * channels)
    if len(numbers) != channels:
        raise UsageError(
            f"{name} has {len(numbers)} numbers ({format_numbers(numbers)}), the model takes {channels} "
            f"channels: give --{name} with one number per channel, or one for all"
        )
    return tuple(float(number) for number in numbers)


def _geometry(
    target: ImageInput, options: DataOptions, preset: Preset | None, images: ImageSource, notes: list[str]
) -> tuple[int | Size | None, Size | None]:
    """Resolve resize and crop."""
    if options.resize_mode == "fit":
        return _fit_size(target, options), None
    size = (target.height, target.width) if target.height and target.width else None
    crop = _pair(options.crop) if options.crop else None
    resize: int | Size | None = None
    if options.resize:
        resize = options.resize[0] if len(options.resize) == 1 else _pair(options.resize)
    crops = preset is not None and preset.crops
    if resize is None and crop is None:
        wanted = _preset_size(target) if crops else size
        if wanted is None or all(images.size(index) == wanted for index in range(len(images))):
            if crops:
                notes.append(f"images are {_format(wanted)} already: the preset's resize and crop left out")
            return None, None
        if crops:
            return short_side(wanted), wanted
        notes.append(f"resized to the model's {_format(wanted)}, proportions not kept")
        return wanted, None
    if crops and resize is None and crop is not None:
        return short_side(crop), crop
    if isinstance(resize, int) and crop is None and (crops or size is not None):
        crop = _preset_size(target) if crops else size
        notes.append(f"centre crop to {_format(crop)} after --resize {resize}")
    return resize, crop


def _fit_size(target: ImageInput, options: DataOptions) -> Size:
    """Return the (H, W) that images are fitted into."""
    size = _pair(options.resize) if options.resize else (target.height, target.width)
    if size[0] is None or size[1] is None:
        raise UsageError(f"--resize-mode fit: {target.spec} leaves its size open: add --resize H W")
    return size[0], size[1]


def _preset_size(target: ImageInput) -> Size:
    """Return the (H, W) crop of a cropping preset: the model's size; `CROP` if the model leaves it open."""
    return target.height or target.width or CROP, target.width or target.height or CROP


def _check_sizes(recipe: Preprocessing, target: ImageInput, images: ImageSource) -> None:
    first = None
    for index in range(len(images)):
        own = images.size(index)
        if math.prod(recipe.resized(own)) > MOST_PIXELS:
            raise DataError(
                f"{images.name(index)}: {_format(own)} becomes {_format(recipe.resized(own))}, expected "
                f"at most {MOST_PIXELS} pixels: remove it, or give --resize H W"
            )
        try:
            size = recipe.output_size(own)
        except ValueError:
            raise DataError(
                f"{images.name(index)}: {_format(recipe.resized(own))}, smaller than the crop "
                f"{_format(recipe.crop)}: add or enlarge --resize"
            ) from None
        first = first or size
        if size != first:
            raise DataError(
                f"{images.name(index)} is {_format(size)} but {images.name(0)} is {_format(first)}, "
                f"expected one size: {WAY_OUT}"
            )
        if any(want and have != want for have, want in zip(size, (target.height, target.width), strict=True)):
            raise DataError(
                f"{images.name(index)}: {_format(size)} after resize and crop, expected "
                f"{_format((target.height, target.width))} for {target.spec}: {WAY_OUT}"
            )


def _color_notes(recipe: Preprocessing, images: ImageSource) -> list[str]:
    gray = sum(images.gray(index) for index in range(len(images)))
    if recipe.channels == 3 and gray:
        return [f"{gray} gray images repeated to 3 channels"]
    if recipe.color == "gray" and gray < len(images):
        return [f"{len(images) - gray} colour images reduced to luma"]
    return []


def _pair(size: tuple[int, ...]) -> Size:
    return size[0], size[-1]


def _format(size: Sequence[int | None] | None) -> str:
    """Format a size as ``HxW`` for errors and notes; ``?`` for an open side."""
    return "x".join("?" if side is None else str(side) for side in size or ())
