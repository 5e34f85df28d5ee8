"""Folders of model-ready samples: one ``.npy``, or one ``.npz`` with an array for each input, a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.archive import read_archive
from onnxprune.data.images import EXTENSIONS, walk
from onnxprune.data.tensors import collect
from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from onnxprune.data.spec import InputSpec

__all__ = ["read_samples", "sample_files"]

_ARRAYS = frozenset({".npy", ".npz"})


def sample_files(folder: Path) -> tuple[Path, ...]:
    """Return the ``.npy`` and ``.npz`` files of a folder and its subfolders, in order; none where there are images."""
    files = []
    for path in walk(folder):
        kind = "" if path.name.startswith(".") else path.suffix.lower()
        if kind in EXTENSIONS:
            return ()
        if kind in _ARRAYS and path.is_file():
            files.append(path)
    return tuple(sorted(files))


def read_samples(
    files: Sequence[Path], specs: Sequence[InputSpec], *, skip_unreadable: bool = False
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Read samples and stack them.

    Args:
        files: the files, each with one sample or a batch of them for every input.
        specs: the model's inputs.
        skip_unreadable: leave out files that cannot be read, or do not fit the model.

    Returns:
        Per input, (n, ...) of the spec's dtype; and the errors of the files that were left out, one line each.

    Raises:
        DataError: a file cannot be read, or does not fit the model or the other files; or none is left.
    """
    found: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in specs}
    unreadable: list[str] = []
    for path in files:
        try:
            arrays = collect([read_archive(path, list(found)).arrays], specs, str(path))
            for name, array in arrays.items():
                first = found[name][0] if found[name] else array
                if array.shape[1:] != first.shape[1:]:
                    raise DataError(f"{path}: shape {array.shape[1:]}, but {files[0]} has {first.shape[1:]}")
        except DataError as error:
            if not skip_unreadable:
                raise
            unreadable.append(str(error))
            continue
        for name, array in arrays.items():
            found[name].append(array)
    if not found[specs[0].name]:
        raise DataError(f"{files[0].parent}: none of {len(files)} files can be read, the first: {unreadable[0]}")
    return {name: np.concatenate(arrays) for name, arrays in found.items()}, tuple(unreadable)
