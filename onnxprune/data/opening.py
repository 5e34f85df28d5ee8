"""Opening any kind of source as a :class:`Calibration`: one function per kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnxprune.data.archive import Archive, read_archive
from onnxprune.data.arrays import expect_images, open_array, ready, refuse_options
from onnxprune.data.calibration import Calibration, ImageCalibration, TensorCalibration, describe
from onnxprune.data.images import scan_folder
from onnxprune.data.layout import image_input
from onnxprune.data.recipe import natural_size, resolve
from onnxprune.data.samples import read_samples, sample_files
from onnxprune.data.spec import InputSpec
from onnxprune.data.synthetic import SyntheticCalibration, SyntheticImages
from onnxprune.data.tensors import check_tensor, collect
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import OPEN_SIDE, SYNTHETIC, DataOptions

if TYPE_CHECKING:
    from onnxprune.data.preprocess import Preprocessing

__all__ = ["SYNTHETIC", "CalibrationSource", "SupportsGetNext", "open_calibration"]

WARNING = (
    "NO CALIBRATION DATA: synthetic inputs were used, as requested, so the accuracy on real inputs is unknown "
    "and may be much worse: pass --data with a few hundred real inputs"
)


@runtime_checkable
class SupportsGetNext(Protocol):
    """Reader with the interface of onnxruntime's CalibrationDataReader."""

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        """Return the next arrays by input name; None at the end."""


CalibrationSource: TypeAlias = (
    str
    | os.PathLike[str]
    | NDArray[Any]
    | Mapping[str, NDArray[Any]]
    | SupportsGetNext
    | Iterable[NDArray[Any] | Mapping[str, NDArray[Any]]]
    | None
)


def open_calibration(
    source: CalibrationSource,
    inputs: Sequence[InputSpec],
    options: DataOptions,
    *,
    model_path: Path | None = None,
    seed: int = 0,
    synthetic_count: int = 512,
) -> Calibration:
    """Open calibration inputs, and check everything that needs no decoding of every image.

    Args:
        source: a folder of images, or of ``.npy`` or ``.npz`` samples; an ``.npy`` or ``.npz`` file; an array; a dict
            of arrays; an object with ``get_next``; an iterable of arrays or dicts (consumed, and kept in memory); the
            text ``synthetic`` for synthetic inputs; None for ``<model>.calib.npz`` next to the model.
        inputs: the model's inputs, at least one.
        options: preprocessing of pixels: of image files, of uint8 arrays, and of float arrays if any option is given.
            Dicts, readers and iterables are model-ready and must have none.
        model_path: path of the model, next to which ``<model>.calib.npz`` is looked for; None: nowhere.
        seed: seed of synthetic inputs, 0 or more.
        synthetic_count: number of synthetic inputs.

    Raises:
        UsageError: an option is missing, or does not fit the model or the kind of source.
        DataError: no source was given and there is no file next to the model, a file cannot be read, or values do not
            fit the model.
    """
    if not inputs:
        raise ValueError("expected at least one model input")
    specs = tuple(inputs)
    if source is None:
        return _file(_beside(model_path), specs, options, ["found beside the model"])
    if isinstance(source, str) and source == SYNTHETIC:
        return _synthetic(specs, options, seed, synthetic_count)
    if isinstance(source, str | os.PathLike):
        return _path(Path(source), specs, options)
    if isinstance(source, np.ndarray):
        if len(specs) > 1:
            raise DataError(f"array: the model has {len(specs)} inputs, expected a dict with {_names(specs)}")
        return open_array(source, specs[0], Archive({}), options, "array", "array", [])
    if isinstance(source, Mapping):
        return _items([source], specs, options, type(source).__name__, "dict")
    if isinstance(source, SupportsGetNext):
        return _items(_drain(source), specs, options, type(source).__name__, "reader")
    if isinstance(source, Iterable):
        return _items(source, specs, options, type(source).__name__, "iterable")
    raise UsageError(
        f"data is a {type(source).__name__}, expected a path, an array, a dict, an iterable, or an object with get_next"
    )


def _beside(model_path: Path | None) -> Path:
    """Find ``<model>.calib.npz`` next to the model.

    Raises:
        DataError: there is no such file.
    """
    found = model_path.with_suffix(".calib.npz") if model_path else None
    if found is None or not found.exists():
        looked = f", and {found} does not exist" if found else ""
        raise DataError(
            f"no inputs were given{looked}: pass real inputs with --data FOLDER, or --data synthetic for synthetic "
            "ones, with which the accuracy on real inputs is unknown"
        )
    return found


def _path(path: Path, specs: tuple[InputSpec, ...], options: DataOptions) -> Calibration:
    try:
        if path.is_dir():
            return _folder(path, specs, options)
        there = path.exists()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not there:
        raise DataError(f"{path}: no such file or folder, expected an image folder, .npy or .npz")
    if not path.is_file() or path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"{path}: expected an image folder, .npy or .npz: give the folder that holds the images")
    return _file(path, specs, options, [])


def _folder(path: Path, specs: tuple[InputSpec, ...], options: DataOptions) -> Calibration:
    files = sample_files(path)
    if files:
        refuse_options(options, f"{path} of arrays")
        arrays, unreadable = read_samples(files, specs, skip_unreadable=options.skip_unreadable)
        return ready(specs, arrays, Archive({}), str(path), "folder of arrays", _left_out(unreadable))
    if len(specs) > 1:
        raise DataError(
            f"{path}: a folder, but the model has inputs {_names(specs)}: give an .npz with one array for each, or a "
            "folder with such a file for each sample"
        )
    target = expect_images(specs[0], options, str(path))
    images = scan_folder(path, skip_unreadable=options.skip_unreadable)
    recipe, notes = resolve(target, options, DataOptions(), images)
    notes = [*notes, *_left_out(images.unreadable)]
    description = describe(str(path), "folder", len(images), recipe.describe(), notes)
    description["skipped_files"] = images.skipped
    return ImageCalibration(inputs=(specs[0].name,), images=images, recipe=recipe, description=description)


def _left_out(unreadable: Sequence[str]) -> list[str]:
    return [f"{len(unreadable)} unreadable files left out, the first: {unreadable[0]}"] if unreadable else []


def _file(path: Path, specs: tuple[InputSpec, ...], options: DataOptions, notes: list[str]) -> Calibration:
    archive = read_archive(path, [spec.name for spec in specs])
    kind = path.suffix.lower().removeprefix(".")
    if archive.ignored:
        notes = [*notes, f"arrays not used: {', '.join(archive.ignored)}"]
    if len(specs) == 1:
        return open_array(archive.arrays[specs[0].name], specs[0], archive, options, str(path), kind, notes)
    refuse_options(options, str(path))
    for spec in specs:
        check_tensor(archive.arrays[spec.name], spec, f"{path} [{spec.name}]")
    counts = {len(array) for array in archive.arrays.values()}
    if len(counts) > 1:
        raise DataError(f"{path}: {sorted(counts)} samples, expected one number for all of {_names(specs)}")
    if archive.recipe.given():
        notes = [*notes, "mean, std and scale in the file not used: several inputs are taken as model-ready"]
    return ready(specs, archive.arrays, archive, str(path), kind, notes)


def _items(
    items: Iterable[object], specs: tuple[InputSpec, ...], options: DataOptions, source: str, kind: str
) -> TensorCalibration:
    refuse_options(options, source)
    return ready(specs, collect(items, specs, source), Archive({}), source, kind, [])


def _synthetic(specs: tuple[InputSpec, ...], options: DataOptions, seed: int, count: int) -> SyntheticCalibration:
    if seed < 0 or count < 1:
        raise UsageError(f"expected a seed of 0 or more and a positive count, found {seed} and {count}")
    notes: list[str] = []
    if Path(SYNTHETIC).exists():
        notes.append(f"there is a file or folder {SYNTHETIC!r}, which was not read: --data ./{SYNTHETIC} reads it")
    shapes: dict[str, tuple[int, ...]] = {}
    images: dict[str, tuple[SyntheticImages, Preprocessing]] = {}
    for spec in specs:
        target = image_input(spec, options)
        if target is not None:
            size = natural_size(target, options)
            made = SyntheticImages(count, size, seed)
            recipe, more = resolve(target, replace(options, resize=size, crop=None), DataOptions(), made)
            images[spec.name] = made, recipe
            notes += more
        elif spec.dtype.kind != "f":
            raise DataError(
                f"--data synthetic: expected images or float inputs, found {spec}: pass real inputs with --data"
            )
        else:
            shapes[spec.name] = tuple(extent or OPEN_SIDE for extent in spec.shape[1:])
            notes.append(f"{spec.name!r}: 1/f noise of unit variance")
        if None in spec.shape[1:]:
            notes.append(f"{spec.name!r}: the model leaves sizes open: {OPEN_SIDE} assumed unless an option gives one")
    first = next((recipe.describe() for _, recipe in images.values()), None)
    description = describe("synthetic", "synthetic", count, first, notes)
    description["warning"] = WARNING
    description["seed"] = seed
    return SyntheticCalibration(
        specs=specs, shapes=shapes, images=images, count=count, seed=seed, description=description
    )


def _drain(reader: SupportsGetNext) -> Iterator[Mapping[str, NDArray[Any]]]:
    while (item := reader.get_next()) is not None:
        yield item


def _names(specs: Sequence[InputSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
