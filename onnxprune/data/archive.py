"""Reading NumPy files, treated as hostile: no pickles, no decompression bombs, a one-line error for any defect.

Besides the images, an ``.npz`` may hold ``labels`` (one integer per sample), and ``mean``, ``std`` and ``scale`` (the
preprocessing of the images, unless an option overrides it).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.lib.npyio import NpzFile

from onnxprune.data.files import reading
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Archive", "read_archive", "read_array"]

RECIPE = ("mean", "std", "scale")
EXTRAS = frozenset({"labels", *RECIPE})

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"

BOMB_BYTES = 1 << 30
BOMB_RATIO = 200
"""A member that unpacks to more than `BOMB_BYTES` and to more than `BOMB_RATIO` times its size is refused:
images compress by a factor of a few, zeros by a thousand."""


@dataclass(frozen=True)
class Archive:
    """Content of a NumPy file for the model.

    Attributes:
        arrays: one array by the name of each model input.
        labels: labels as stored, unchecked; None if absent.
        recipe: mean, std and scale as stored; each None if absent.
        ignored: names of the arrays that were not read.
    """

    arrays: dict[str, NDArray[Any]]
    labels: NDArray[Any] | None = None
    recipe: DataOptions = field(default_factory=DataOptions)
    ignored: tuple[str, ...] = ()


def read_archive(path: Path, inputs: Sequence[str]) -> Archive:
    """Read the arrays for `inputs` from an ``.npy`` (mapped, not read) or ``.npz`` file.

    From an ``.npz``: the arrays named like the inputs; else, for a model of one input, ``images``; else the only array.

    Raises:
        DataError: the file cannot be read, is a bomb, or does not hold these arrays.
    """
    with _opened(path) as loaded:
        if isinstance(loaded, NpzFile):
            return _read_members(path, loaded, inputs)
    if len(inputs) != 1:
        raise DataError(f"{path}: one array, but the model has inputs {_names(inputs)}: give an .npz with one for each")
    return Archive({inputs[0]: loaded})


def read_array(path: Path, key: str) -> NDArray[Any]:
    """Read the array of an ``.npy`` file, or the one named `key` of an ``.npz`` file.

    Raises:
        DataError: the file cannot be read, is a bomb, or does not hold the array.
    """
    with _opened(path) as loaded:
        if not isinstance(loaded, NpzFile):
            return loaded
        if key not in loaded.files:
            raise DataError(f"{path}: holds {_names(loaded.files) or 'nothing'}, expected an array {key!r}")
        return _member(path, loaded, key)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile[Any] | NDArray[Any]]:
    with reading(path, "a NumPy file"):
        stream = path.open("rb")
    with stream:
        with reading(path, "a NumPy file"):
            loaded = _load(path, stream)
        yield loaded


def _load(path: Path, stream: BinaryIO) -> NpzFile[Any] | NDArray[Any]:
    """Load by the first bytes of the file: numpy.load takes any unknown content for a pickle."""
    magic = stream.read(len(NPY_MAGIC))
    stream.seek(0)
    if magic.startswith(ZIP_MAGIC):
        return cast("NpzFile[Any]", np.load(stream, allow_pickle=False))
    if magic == NPY_MAGIC:
        return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    raise DataError(f"{path}: neither an .npy nor an .npz file inside: save it with numpy.save or numpy.savez")


def _read_members(path: Path, file: NpzFile[Any], inputs: Sequence[str]) -> Archive:
    wanted = _choose(path, file.files, inputs)
    extras = [key for key in file.files if key in EXTRAS and key not in wanted.values()]
    found = {key: _member(path, file, key) for key in (*wanted.values(), *extras)}
    recipe = {key: found[key] for key in RECIPE if key in extras}
    return Archive(
        arrays={name: found[key] for name, key in wanted.items()},
        labels=found["labels"] if "labels" in extras else None,
        recipe=_stored_recipe(path, recipe),
        ignored=tuple(key for key in file.files if key not in found),
    )


def _choose(path: Path, keys: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """Choose the key of each input."""
    if set(inputs) <= set(keys):
        return {name: name for name in inputs}
    arrays = [key for key in keys if key not in EXTRAS]
    if len(inputs) == 1 and ("images" in arrays or len(arrays) == 1):
        return {inputs[0]: "images" if "images" in arrays else arrays[0]}
    expected = _names(inputs) if len(inputs) > 1 else f"{_names(inputs)}, 'images', or a single array"
    raise DataError(f"{path}: arrays {_names(keys) or 'none'}, expected {expected}: rename or remove some")


def _member(path: Path, file: NpzFile[Any], key: str) -> NDArray[Any]:
    with reading(path, "a NumPy file"):
        members = [info for info in (file.zip.infolist() if file.zip else ()) if info.filename in (f"{key}.npy", key)]
        if len(members) > 1:
            raise DataError(f"{path}: {key!r} is in it {len(members)} times: save it again with numpy.savez")
        member = members[0] if members else None
        if member and member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * member.compress_size:
            raise DataError(
                f"{path}: {key!r} unpacks from {member.compress_size} to {member.file_size} bytes and counts "
                f"as a decompression bomb: save it as .npy"
            )
        # Typed as an array, but a member without an array's header comes back as bytes.
        array = cast("object", file[key])
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {key!r} is not a NumPy array: save it with numpy.savez")
    return array


def _stored_recipe(path: Path, stored: dict[str, NDArray[Any]]) -> DataOptions:
    numbers: dict[str, tuple[float, ...]] = {}
    for key, array in stored.items():
        if array.dtype.kind not in "fiu" or array.size not in ((1,) if key == "scale" else (1, 3)):
            raise DataError(f"{path}: {key!r} is {array.dtype} {array.shape}, expected one number, or one per channel")
        numbers[key] = tuple(float(number) for number in array.ravel())
    try:
        return DataOptions(
            mean=numbers.get("mean"),
            std=numbers.get("std"),
            scale=numbers["scale"][0] if "scale" in numbers else None,
        )
    except UsageError as error:
        raise DataError(f"{path}: stored recipe: {error}".replace("--", "")) from error


def _names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
