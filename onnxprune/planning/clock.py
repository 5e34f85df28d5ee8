"""Latency of layers in milliseconds at any number of channels: linear interpolation between measured sizes.

The nodes between two layers, such as activations that the engine does not fuse, run over the channels of the first
one: their time is in proportion to these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.interpolate import RegularGridInterpolator

    from onnxprune.graph.channels.forms import Parts

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Number = int | float | np.ndarray[Any, Any]

__all__ = ["Clock", "Grid", "marks"]

_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_STEP = 8  # engines process 8 or 16 channels at a time


def marks(most: int) -> tuple[int, ...]:
    """Return the numbers of channels to measure at, up to `most`."""
    found = {max(1, round(share * most / _STEP) * _STEP) for share in _SHARES}
    return tuple(sorted({size for size in found if size < most} | {most}))


@dataclass(frozen=True)
class Grid:
    """Milliseconds (n, m) at n numbers of input channels and m numbers of output channels."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: Array

    @classmethod
    def measured(cls, inputs: int, outputs: int, ms: Callable[[int, int], float]) -> Grid:
        """Measure at all marks up to these numbers of channels; `ms` returns the milliseconds at one pair."""
        rows, columns = marks(inputs), marks(outputs)
        return cls(rows, columns, np.array([[ms(i, o) for o in columns] for i in rows]))

    def at(self, inputs: Number, outputs: Number) -> Array:
        """Interpolate at broadcast numbers of channels; beyond the measured range, the nearest end counts."""
        (top, bottom), (left, right) = ((marked[0], marked[-1]) for marked in (self.inputs, self.outputs))
        wanted = np.broadcast_arrays(np.clip(inputs, top, bottom), np.clip(outputs, left, right))
        found = self._between(np.stack(wanted, axis=-1))
        return np.asarray(found, dtype=np.float64).reshape(wanted[0].shape)

    @cached_property
    def _between(self) -> RegularGridInterpolator:
        from scipy.interpolate import RegularGridInterpolator  # only for budgets in time

        rows, columns, ms = (np.array(marked, dtype=np.float64) for marked in (self.inputs, self.outputs, self.ms))
        if len(rows) == 1:
            rows, ms = np.append(rows, rows + 1), np.repeat(ms, 2, axis=0)
        if len(columns) == 1:
            columns, ms = np.append(columns, columns + 1), np.repeat(ms, 2, axis=1)
        return RegularGridInterpolator((rows, columns), ms)


@dataclass(frozen=True)
class Clock:
    """Latency of one layer in all of its forms; channels are counted over all groups of a grouped conv.

    Attributes:
        dense: the layer, or the conv in front of P.
        pairs: per kernel axis, the conv along it (V or H) and the conv along the other axes.
        last: the conv P; None if the layer has none.
        groups: number of groups of a grouped conv.
        behind: milliseconds for each output channel of the nodes behind the layer that are no layers.
    """

    dense: Grid
    pairs: tuple[tuple[Grid, Grid], ...] = ()
    last: Grid | None = None
    groups: int = 1
    behind: float = 0.0

    def ms(self, parts: Parts, inputs: Number, outputs: Number) -> Array:
        """Return the milliseconds of each form, given by its parts; inputs and outputs as for `LayerShape.costs`."""
        spatial, first, channel, inputs, outputs = np.broadcast_arrays(
            parts[0] * self.groups,
            parts[1],
            parts[2] * self.groups,
            np.multiply(inputs, self.groups),
            outputs,
        )
        narrow = np.where(channel == 0, outputs, channel)
        found = np.where(spatial == 0, self.dense.at(inputs, narrow), 0.0)
        for axis, (front, back) in enumerate(self.pairs):
            pair = front.at(inputs, spatial) + back.at(spatial, narrow)
            found = np.where((spatial > 0) & (first == axis), pair, found)
        if self.last is not None:
            found = found + np.where(channel > 0, self.last.at(channel, outputs), 0.0)
        return np.asarray(found + self.behind * outputs, dtype=np.float64)
