"""Calibration inputs as model-ready batches by index: the common interface of all sources."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnxprune.data.images import ImageSource
    from onnxprune.data.preprocess import Preprocessing
    from onnxprune.data.spec import InputSpec

__all__ = ["Calibration", "ImageCalibration", "TensorCalibration"]


class Calibration(Protocol):
    """Calibration inputs of one model, read on demand."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in the model's order."""

    @property
    def description(self) -> dict[str, object]:
        """JSON-able record for the report: source, kind, count, preprocessing, notes; ``warning`` if synthetic."""

    @property
    def synthetic(self) -> bool:
        """True if the inputs are synthetic."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,) int64; None if the source has no ``labels``."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Read samples and prepare them for the model.

        Args:
            indices: at least one, each in 0..len - 1; repeats are allowed.

        Returns:
            Per input, (len(indices), ...) of the model's dtype and layout, C-contiguous; the caller may change it.

        Raises:
            DataError: a file cannot be decoded.
            IndexError: an index is out of range.
            ValueError: `indices` is empty.
        """

    def digest(self) -> str:
        """Return the SHA-256 in hex of content and preprocessing; for a folder, of names, sizes and times of files."""


@dataclass(frozen=True, kw_only=True)
class ImageCalibration:
    """Images and their preprocessing, for a model of one input; a :class:`Calibration`."""

    inputs: tuple[str, ...]
    images: ImageSource
    recipe: Preprocessing
    description: dict[str, object]
    labels: NDArray[np.int64] | None = None
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Decode and prepare the images at `indices`."""
        chosen = check_indices(indices, len(self))
        return {self.inputs[0]: self.recipe.apply(self.images.read(index) for index in chosen)}

    def digest(self) -> str:
        """Sha256 in hex; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(["images", self.inputs, self.recipe.describe()]).encode())
        self.images.update(digest)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TensorCalibration:
    """Model-ready values, in memory or mapped from a file; a :class:`Calibration`.

    Attributes:
        specs: the model's inputs.
        tensors: per input, (n, ...) in the model's layout, of a dtype that casts to the model's.
    """

    specs: tuple[InputSpec, ...]
    tensors: dict[str, NDArray[Any]]
    description: dict[str, object]
    labels: NDArray[np.int64] | None = None
    synthetic: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in the model's order."""
        return tuple(spec.name for spec in self.specs)

    def __len__(self) -> int:
        return len(self.tensors[self.specs[0].name])

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Copy the samples at `indices`."""
        chosen = check_indices(indices, len(self))
        return {
            spec.name: np.ascontiguousarray(self.tensors[spec.name][chosen].astype(spec.dtype)) for spec in self.specs
        }

    def digest(self) -> str:
        """Sha256 in hex; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(b"tensors")
        for spec in self.specs:
            tensor = self.tensors[spec.name]
            digest.update(json.dumps([spec.name, str(spec.dtype), tensor.shape]).encode())
            for sample in tensor:
                digest.update(np.asarray(sample, dtype=spec.dtype).tobytes())
        return digest.hexdigest()


def check_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return the indices as a list, checked.

    Raises:
        IndexError: an index is not in 0..count - 1.
        ValueError: `indices` is empty.
    """
    chosen = [int(index) for index in indices]
    if not chosen:
        raise ValueError("expected at least one index")
    if min(chosen) < 0 or max(chosen) >= count:
        raise IndexError(f"expected indices in 0..{count - 1}, found {min(chosen)}..{max(chosen)}")
    return chosen


def check_labels(labels: NDArray[Any] | None, count: int, source: str) -> NDArray[np.int64] | None:
    """Return the labels as (count,) int64, checked; None for None.

    Raises:
        DataError: the shape is not (count,), or the dtype is not an integer.
    """
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{source}: labels are {labels.dtype} {labels.shape}, expected one integer for each of {count} samples"
        )
    return labels.astype(np.int64)


def describe(
    source: str, kind: str, count: int, preprocessing: dict[str, object] | None, notes: list[str]
) -> dict[str, object]:
    """Make the description of a source for the report; `preprocessing` is None for model-ready values."""
    return {"source": source, "kind": kind, "count": count, "preprocessing": preprocessing, "notes": notes}
