"""Inputs of a model: name, shape and type of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Hash", "InputSpec", "format_shape"]


@dataclass(frozen=True)
class InputSpec:
    """Name, shape and dtype of one input of the model.

    Attributes:
        name: name of the input in the graph.
        shape: extent of each axis, axis 0 being the batch; None, or a number below 1, is dynamic.
        dtype: element type that the model takes.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        extents = tuple(int(extent) if extent and extent > 0 else None for extent in self.shape)
        object.__setattr__(self, "shape", extents)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __str__(self) -> str:
        return f"input {self.name!r} {format_shape(('N', *self.shape[1:]))} {self.dtype}"


def format_shape(shape: tuple[object, ...]) -> str:
    """Format a shape for messages: ``(N, 3, ?, ?)``."""
    return "(" + ", ".join("?" if extent is None else str(extent) for extent in shape) + ")"


class Hash(Protocol):
    """Common interface of hashlib's objects."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
