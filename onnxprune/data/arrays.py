"""One array for a model of one input: pixels to preprocess, or model-ready values.

uint8 values are pixels. Floats are model-ready, unless the caller (or the file) asks for preprocessing; then they are
pixels, too, and their range is checked. Other values must have the model's dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.calibration import ImageCalibration, TensorCalibration, check_labels, describe
from onnxprune.data.images import ArrayImages
from onnxprune.data.layout import CHANNEL_AXIS, channels_last, image_input
from onnxprune.data.recipe import resolve
from onnxprune.data.spec import format_shape
from onnxprune.data.tensors import check_finite, check_tensor, chunks, fits
from onnxprune.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.data.archive import Archive
    from onnxprune.data.calibration import Calibration
    from onnxprune.data.layout import ImageInput
    from onnxprune.data.preprocess import Preprocessing
    from onnxprune.data.spec import InputSpec
    from onnxprune.options.data import DataOptions

__all__ = ["expect_images", "open_array", "ready", "refuse_options"]


def open_array(
    array: NDArray[Any],
    spec: InputSpec,
    archive: Archive,
    options: DataOptions,
    source: str,
    kind: str,
    notes: list[str],
) -> Calibration:
    """Open an array for a model of one input.

    Args:
        array: (n, ...), in memory or mapped.
        spec: the model's input.
        archive: labels and recipe stored with the array.
        options: the caller's preprocessing options.
        source: name of the array in errors and in the description.
        kind: kind of source, for the description.
        notes: notes that the description begins with.

    Raises:
        UsageError: the options do not fit the model.
        DataError: the array does not fit the model and the options.
    """
    asked = options.given() + tuple(f"the stored {flag[2:]}" for flag in archive.recipe.given())
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(
            f"{source}: shape {format_shape(array.shape)}, expected at least one sample along the first axis for {spec}"
        )
    if not _holds_pixels(array, spec, bool(asked)):
        if asked:
            raise DataError(
                f"{source}: {array.dtype} values, expected uint8 pixels or floats to apply "
                f"{', '.join(asked)} to: cast them"
            )
        array, more = _in_layout(array, spec, options, source)
        return ready((spec,), {spec.name: array}, archive, source, kind, notes + more)
    target = expect_images(spec, options, source)
    check_finite(array, source)
    view = channels_last(array, source)
    images = ArrayImages(view, source)
    recipe, more = resolve(target, options, archive.recipe, images)
    if array.dtype.kind == "f":
        _check_pixels(array, recipe, options.scale or archive.recipe.scale, asked, spec, source)
        more.append(f"float values taken as pixels because of {', '.join(asked)}")
    return ImageCalibration(
        inputs=(spec.name,),
        images=images,
        recipe=recipe,
        description=describe(source, kind, len(view), recipe.describe(), notes + more),
        labels=check_labels(archive.labels, len(view), source),
    )


def ready(
    specs: tuple[InputSpec, ...],
    tensors: dict[str, NDArray[Any]],
    archive: Archive,
    source: str,
    kind: str,
    notes: list[str],
) -> TensorCalibration:
    """Wrap checked model-ready values, one array (n, ...) per input."""
    count = len(tensors[specs[0].name])
    return TensorCalibration(
        specs=specs,
        tensors=tensors,
        description=describe(source, kind, count, None, [*notes, "values taken as model-ready"]),
        labels=check_labels(archive.labels, count, source),
    )


def expect_images(spec: InputSpec, options: DataOptions, source: str) -> ImageInput:
    """Interpret `spec` as an image input.

    Raises:
        UsageError: the shape does not tell the layout.
        DataError: `spec` takes no images.
    """
    target = image_input(spec, options)
    if target is None:
        raise DataError(
            f"{source}: images, but {spec} takes none (four axes, 1 or 3 channels): "
            f"give model-ready {spec.dtype} arrays as .npy or .npz"
        )
    return target


def refuse_options(options: DataOptions, source: str) -> None:
    """Refuse preprocessing options for model-ready values.

    Raises:
        UsageError: a preprocessing option is given.
    """
    if options.given():
        raise UsageError(
            f"{source}: values are taken as model-ready, expected no {' '.join(options.given())}: drop it, "
            f"or give images as a folder, an array or .npz"
        )


def _holds_pixels(array: NDArray[Any], spec: InputSpec, asked: bool) -> bool:
    if array.dtype == np.uint8:
        return asked or spec.dtype != np.uint8 or not fits(array.shape, spec)
    return array.dtype.kind == "f" and asked


def _in_layout(
    array: NDArray[Any], spec: InputSpec, options: DataOptions, source: str
) -> tuple[NDArray[Any], list[str]]:
    """Check model-ready values, and transpose images from the other layout; return the values and notes."""
    fitting = fits(array.shape, spec)
    target = None
    if array.ndim == 4 and (options.layout or not fitting):
        target = image_input(spec, options)
    if target is not None:
        axis = CHANNEL_AXIS[target.layout]
        turned = np.moveaxis(array, 4 - axis, axis)
        as_it_is = fitting and array.shape[axis] in (1, 3)
        if not as_it_is and turned.shape[axis] in (1, 3) and fits(turned.shape, spec):
            check_tensor(turned, spec, source)
            return turned, [f"transposed to {target.layout}"]
    check_tensor(array, spec, source)
    return array, []


def _check_pixels(
    array: NDArray[Any],
    recipe: Preprocessing,
    scale: float | None,
    asked: tuple[str, ...],
    spec: InputSpec,
    source: str,
) -> None:
    """Check that floats are pixels 0..255, unless the caller gave the scale or the recipe leaves pixels unchanged."""
    if spec.dtype.kind != "f":
        raise DataError(f"{source}: {array.dtype} values, expected uint8 pixels for {spec}: round and cast them")
    if scale is not None or recipe.passes_pixels:
        return
    low = min(float(chunk.min()) for _, chunk in chunks(array))
    high = max(float(chunk.max()) for _, chunk in chunks(array))
    if low >= 0 and 1 < high <= 255:
        return
    fitting = f"add --scale {255 * recipe.scale:g}" if low >= 0 and high <= 1 else "give their factor with --scale"
    raise DataError(
        f"{source}: float values {low:g}..{high:g}, expected pixels 0..255 for {', '.join(asked)} "
        f"(scale {recipe.scale:g}): {fitting}, or drop the preprocessing if they are model-ready"
    )
