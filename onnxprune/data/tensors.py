"""Model-ready values: checked, never scaled; and stacking the samples of readers and iterables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.spec import format_shape
from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from onnxprune.data.spec import InputSpec

__all__ = ["check_finite", "check_tensor", "collect", "fits"]

CHUNK_BYTES = 1 << 25


def fits(shape: tuple[int, ...], spec: InputSpec) -> bool:
    """Check that `shape`, batch first, has the rank and the fixed extents of `spec`; any batch size fits."""
    return len(shape) == len(spec.shape) and all(
        want in (None, have) for have, want in zip(shape[1:], spec.shape[1:], strict=True)
    )


def check_tensor(array: NDArray[Any], spec: InputSpec, source: str) -> None:
    """Check that `array` can be fed to `spec` without a change other than a cast that keeps its values.

    Floats cast to floats and integers to integers whose range holds every value. Integers never cast to floats: for a
    float input they are likely pixels that nobody has scaled.

    Raises:
        DataError: shape, dtype or a value does not fit; the message names `source`.
    """
    if not fits(array.shape, spec) or 0 in array.shape:
        raise DataError(
            f"{source}: shape {format_shape(array.shape)}, expected "
            f"{format_shape(('N', *spec.shape[1:]))} for input {spec.name!r}: reshape, resize or transpose it"
        )
    floats = array.dtype.kind == spec.dtype.kind == "f"
    integers = array.dtype.kind in "iu" and spec.dtype.kind in "iu"
    if not (floats or integers or array.dtype == spec.dtype) or array.dtype.kind in "OV":
        raise DataError(
            f"{source}: {array.dtype} for input {spec.name!r}, which takes {spec.dtype}: "
            f"prepare the values and cast them to {spec.dtype}"
        )
    check_finite(array, source)
    _check_range(array, spec, source)


def check_finite(array: NDArray[Any], source: str) -> None:
    """Check floats for NaN and infinity; other dtypes pass unchecked.

    Raises:
        DataError: a value is not finite; the message names `source` and the first such sample (index on axis 0).
    """
    if array.dtype.kind != "f":
        return
    for start, chunk in chunks(array):
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{source}: sample {start + int(np.argmin(finite))} holds NaN or infinity, "
                f"expected finite values: repair or remove it"
            )


def chunks(array: NDArray[Any]) -> Iterable[tuple[int, NDArray[Any]]]:
    """Yield pieces of about 32 MiB along axis 0, each with the index of its first sample."""
    step = max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def collect(items: Iterable[object], specs: Sequence[InputSpec], source: str) -> dict[str, NDArray[Any]]:
    """Consume samples and stack them.

    Args:
        items: each an array (for a model of one input) or a dict with exactly the model's inputs. The rank of an array
            tells one sample (no batch axis) from a batch.
        specs: the model's inputs.
        source: name of the items in errors.

    Returns:
        Per input, (n, ...) of the spec's dtype, checked against the spec.

    Raises:
        DataError: there is no item, or one has another type, other names, or a shape, dtype or value that does not fit;
            the message names its index.
    """
    batches: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in specs}
    for index, item in enumerate(items):
        where = f"{source}: item {index}"
        arrays = _by_name(item, specs, where)
        batch = {spec.name: _with_batch(arrays[spec.name], spec, where) for spec in specs}
        if len({len(array) for array in batch.values()}) != 1:
            counts = ", ".join(f"{name!r} {len(array)}" for name, array in batch.items())
            raise DataError(f"{where}: different numbers of samples ({counts}), expected one number for all inputs")
        for spec in specs:
            array = batch[spec.name]
            check_tensor(array, spec, where)
            first = batches[spec.name][0] if batches[spec.name] else array
            if array.shape[1:] != first.shape[1:]:
                raise DataError(
                    f"{where}: shape {format_shape(array.shape[1:])} without the batch, but item 0 has "
                    f"{format_shape(first.shape[1:])}, expected one shape for input {spec.name!r}"
                )
            # A reader may reuse one buffer for all items.
            batches[spec.name].append(array.astype(spec.dtype, copy=True))
    if not batches[specs[0].name]:
        raise DataError(f"{source}: no samples, expected at least two: an exhausted reader must be rewound first")
    return {name: np.concatenate(arrays) for name, arrays in batches.items()}


def _by_name(item: object, specs: Sequence[InputSpec], where: str) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in specs]
    if not isinstance(item, Mapping):
        if len(specs) > 1:
            raise DataError(f"{where}: one {type(item).__name__}, expected a dict with inputs {names}")
        item = {names[0]: item}
    if set(item) != set(names):
        raise DataError(f"{where}: names {sorted(map(str, item))}, expected exactly the model's inputs {names}")
    found = {}
    for name in names:
        value = item[name]
        if not hasattr(value, "__array__"):
            raise DataError(
                f"{where}: a {type(value).__name__} for input {name!r}, expected an array (or a dict of arrays)"
            )
        found[name] = np.asarray(value)
    return found


def _with_batch(array: NDArray[Any], spec: InputSpec, where: str) -> NDArray[Any]:
    if array.ndim not in (len(spec.shape), len(spec.shape) - 1):
        raise DataError(
            f"{where}: shape {format_shape(array.shape)}, expected a sample {format_shape(spec.shape[1:])} "
            f"or a batch {format_shape(('N', *spec.shape[1:]))} for input {spec.name!r}"
        )
    return array if array.ndim == len(spec.shape) else array[np.newaxis]


def _check_range(array: NDArray[Any], spec: InputSpec, source: str) -> None:
    """Check that a narrowing cast to the dtype of `spec` keeps every value."""
    if np.can_cast(array.dtype, spec.dtype, "safe"):
        return
    limits = np.finfo(spec.dtype) if spec.dtype.kind == "f" else np.iinfo(spec.dtype)
    for start, chunk in chunks(array):
        low, high = chunk.min(), chunk.max()
        if low < limits.min or high > limits.max:
            raise DataError(
                f"{source}: values {low}..{high} from sample {start} on do not fit {spec.dtype} of input {spec.name!r}"
            )
