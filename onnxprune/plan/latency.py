"""What layers take, in milliseconds, at any number of channels: linear between the sizes that were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxprune.graph.forms import Forms

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Number = int | float | np.ndarray[Any, Any]

__all__ = ["Clock", "Grid", "marks"]

_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_STEP = 8  # engines work on so many channels at a time, or on twice as many


def marks(most: int) -> tuple[int, ...]:
    """Numbers of channels to measure at, out of `most`."""
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
        """Over all marks up to these numbers."""
        rows, columns = marks(inputs), marks(outputs)
        return cls(rows, columns, np.array([[ms(i, o) for o in columns] for i in rows]))

    def at(self, inputs: Number, outputs: Number) -> Array:
        """Broadcast; beyond the ends the nearest end."""
        rows, columns, ms = (np.array(marked, dtype=np.float64) for marked in (self.inputs, self.outputs, self.ms))
        if len(rows) == 1:
            rows, ms = np.append(rows, rows + 1), np.repeat(ms, 2, axis=0)
        if len(columns) == 1:
            columns, ms = np.append(columns, columns + 1), np.repeat(ms, 2, axis=1)
        wanted = np.broadcast_arrays(np.clip(inputs, rows[0], rows[-1]), np.clip(outputs, columns[0], columns[-1]))
        found = RegularGridInterpolator((rows, columns), ms)(np.stack(wanted, axis=-1))
        return np.asarray(found, dtype=np.float64).reshape(wanted[0].shape)


@dataclass(frozen=True)
class Clock:
    """One layer in all of its forms; channels of all groups of a grouped conv together.

    ``dense``: the layer, or what stands in front of P. ``pairs``: per kernel axis, the conv that takes it and the one
    that takes the others. ``last``: P.
    """

    dense: Grid
    pairs: tuple[tuple[Grid, Grid], ...] = ()
    last: Grid | None = None
    groups: int = 1

    def ms(self, forms: Forms, inputs: Number, outputs: Number) -> Array:
        """Of each form, see `LayerShape.costs`."""
        spatial, first, channel, inputs, outputs = np.broadcast_arrays(
            forms.spatial * self.groups,
            forms.first,
            forms.channel * self.groups,
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
        return np.asarray(found, dtype=np.float64)
