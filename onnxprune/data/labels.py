"""Reading labels from a file or a sequence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.calibration import check_labels
from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["read_labels"]


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
    try:
        if path.suffix.lower() == ".npy":
            return _checked(np.load(path, allow_pickle=False), count, str(path))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                if "labels" not in archive.files:
                    raise DataError(f"{path}: holds {', '.join(archive.files)}, expected an array 'labels'")
                return _checked(archive["labels"], count, str(path))
        values = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: holds no labels, expected one integer per line, .npy or .npz: {error}") from error
    return _checked(np.array(values, dtype=np.int64), count, str(path))


def _checked(labels: NDArray[Any], count: int, source: str) -> NDArray[np.int64]:
    checked = check_labels(labels, count, source)
    if checked is None:
        raise DataError(f"{source}: no labels")
    return checked
