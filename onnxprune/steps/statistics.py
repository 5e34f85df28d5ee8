"""Gathering moments and raw samples of one site, by group of a grouped conv."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.solve import Moments, MomentsBuilder, Samples

if TYPE_CHECKING:
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.channels.sites import Site

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Reservoir", "SiteMeter", "channel_of_column", "unit_of_column"]


class SiteMeter:
    """Accumulator of the second moments of one site: ``groups`` regressions with ``columns`` and ``outputs`` each."""

    def __init__(self, groups: int, columns: int, outputs: int) -> None:
        self.columns, self.outputs = columns, outputs
        self._builders = [MomentsBuilder(columns, outputs) for _ in range(groups)]

    def add(self, x: Array, y: Array | None, halves: Indices) -> None:
        """Add rows x (n, groups * columns), y (n, groups * outputs) or None, halves (n,) of 0 and 1."""
        for half in (0, 1):
            chosen = halves == half
            if not chosen.any():
                continue
            rows, wanted = x[chosen], None if y is None else y[chosen]
            for index, builder in enumerate(self._builders):
                part = slice(index * self.columns, (index + 1) * self.columns)
                answer = None
                if wanted is not None:
                    answer = wanted[:, index * self.outputs : (index + 1) * self.outputs]
                builder.add(rows[:, part], answer, half)

    def finish(self) -> tuple[Moments, ...]:
        """Return the moments, one per group; nothing can be added afterwards."""
        return tuple(builder.finish() for builder in self._builders)


class Reservoir:
    """Bounded number of raw samples, spread evenly over all rows."""

    def __init__(self, limit: int, expected: int) -> None:
        """Prepare to keep up to ``limit`` of ``expected`` rows."""
        self._limit, self._expected, self._seen, self._kept = limit, max(expected, 1), 0, 0
        self._rows: list[Array] = []

    def add(self, x: Array, y: Array, halves: Indices, offset: Array | None) -> None:
        """Add rows, of which an even share is kept; the arrays are the fields of `Samples`. Rows beyond the expected
        number are ignored."""
        parts = [x, y, halves] if offset is None else [x, y, halves, offset]
        numbers = np.arange(self._seen, self._seen + len(x), dtype=np.int64)
        self._seen += len(x)
        if self._expected > self._limit:
            share = numbers * self._limit // self._expected
            chosen = np.flatnonzero(share != (numbers - 1) * self._limit // self._expected)
            parts = [part[chosen] for part in parts]
        if not self._rows:
            most = min(self._limit, self._expected)
            self._rows = [np.empty((most, *part.shape[1:]), part.dtype) for part in parts]
        place = slice(self._kept, min(self._kept + len(parts[0]), len(self._rows[0])))
        for rows, part in zip(self._rows, parts, strict=True):
            rows[place] = part[: place.stop - place.start]
        self._kept = place.stop

    def finish(self) -> Samples:
        """Return all rows that were kept."""
        x, y, halves, *offset = (rows[: self._kept] for rows in self._rows)
        self._rows = []
        return Samples(x, y, halves, offset[0] if offset else None)


def unit_of_column(channels: ChannelMap, site: Site, group: ChannelGroup, alive: Mask, columns: int) -> Indices:
    """Return for each column of a site the index of its channel in the group, or -1."""
    units = channels.unit_of_slots(site.input_axis, group, alive)
    return np.repeat(units, columns // max(len(units), 1))


def channel_of_column(site: Site, columns: int) -> Indices:
    """Return for each column the index of its input channel; a channel of a Conv has one column per kernel element."""
    kernel = int(np.prod(site.window.kernel)) if site.window is not None else 1
    return np.arange(columns, dtype=np.int64) // kernel
