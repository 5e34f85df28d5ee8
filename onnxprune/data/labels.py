"""Reading labels from a file or a sequence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.archive import read_array
from onnxprune.data.calibration import check_labels
from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["read_labels"]

_MOST_TEXT = 100  # bytes of text for a label: an integer, and room around it


def read_labels(source: str | os.PathLike[str] | Sequence[int] | NDArray[Any], count: int) -> NDArray[np.int64]:
    """Read one class per sample: (count,) int64.

    Args:
        source: integers, or a ``.npy``, an ``.npz`` with ``labels``, or a text file with one integer per line.
        count: number of samples.

    Raises:
        DataError: the file cannot be read, or does not hold `count` integers.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _checked(np.asarray(source), count, "labels")
    path = Path(source)
    if path.suffix.lower() in (".npy", ".npz"):
        return _checked(read_array(path, "labels"), count, str(path))
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected labels: one integer per line, .npy or .npz")
        if path.stat().st_size > _MOST_TEXT * (count + 1):
            raise DataError(f"{path}: {path.stat().st_size} bytes are too many for {count} labels")
        values = np.array([int(line) for line in path.read_text(encoding="utf-8").split()], dtype=np.int64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: holds no labels, expected one integer per line, .npy or .npz: {error}") from error
    return _checked(values, count, str(path))


def _checked(labels: NDArray[Any], count: int, source: str) -> NDArray[np.int64]:
    checked = check_labels(labels, count, source)
    if checked is None:
        raise DataError(f"{source}: no labels")
    return checked
