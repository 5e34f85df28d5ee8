"""What every source of calibration inputs becomes: model-ready batches by index."""

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
    from onnxprune.data.options import InputSpec
    from onnxprune.data.preprocess import Preprocessing

__all__ = ["Calibration", "Hash", "ImageCalibration", "TensorCalibration"]


class Hash(Protocol):
    """What hashlib's objects have in common."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""


class Calibration(Protocol):
    """Calibration inputs of one model, read when they are asked for."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in its order."""

    @property
    def description(self) -> dict[str, object]:
        """For the report, JSON-able: source, kind, count, preprocessing, notes; ``warning`` if synthetic."""

    @property
    def synthetic(self) -> bool:
        """True if the inputs were made up."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(n,) int64 class of each sample, where the file has ``labels``."""

    def __len__(self) -> int:
        """Number of samples."""

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Samples as the model takes them.

        Args:
            indices: at least one, each in 0..len - 1; repeats are allowed.

        Returns:
            Per input, (len(indices), ...) of the model's dtype and layout, C-contiguous; the caller's to
            change.

        Raises:
            DataError: a file cannot be decoded.
            IndexError: an index is out of range.
            ValueError: `indices` is empty.
        """

    def digest(self) -> str:
        """Sha256 in hex of content and preprocessing; names, sizes and times stand for a folder's content."""


@dataclass(frozen=True, kw_only=True)
class ImageCalibration:
    """Images through a recipe, for a model of one input. See :class:`Calibration`."""

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
    """Values that need no preparation, in memory or mapped from a file. See :class:`Calibration`.

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
        """Names of the model's inputs."""
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
    """The indices as a list.

    Raises:
        IndexError: one is not in 0..count - 1.
        ValueError: there is none.
    """
    chosen = [int(index) for index in indices]
    if not chosen:
        raise ValueError("expected at least one index")
    if min(chosen) < 0 or max(chosen) >= count:
        raise IndexError(f"expected indices in 0..{count - 1}, found {min(chosen)}..{max(chosen)}")
    return chosen


def check_labels(labels: NDArray[Any] | None, count: int, source: str) -> NDArray[np.int64] | None:
    """Labels as (count,) int64; None if there are none.

    Raises:
        DataError: another shape, or no integers.
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
    """A description; `preprocessing` is None where values are model-ready."""
    return {"source": source, "kind": kind, "count": count, "preprocessing": preprocessing, "notes": notes}
