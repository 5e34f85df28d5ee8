"""Statistics of layers: second moments and raw samples of what each reads, and the regressions on them.

One pass over the calibration inputs gathers the moments of many layers; those of their outputs follow in closed form.
Layers whose moments do not fit in memory together take several passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import moves
from onnxprune.engine.capture import output_extents, patches
from onnxprune.engine.frontier import Frontier
from onnxprune.engine.store import TensorStore
from onnxprune.graph.channels.sites import matrix
from onnxprune.solve import Moments, MomentsBuilder, Samples
from onnxprune.solve.problem import Regression
from onnxprune.steps.prepare import Prepared
from onnxprune.steps.room import moment_bytes, solving_bytes

if TYPE_CHECKING:
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.channels.sites import Site

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = [
    "Need",
    "Reservoir",
    "SiteMeter",
    "channel_of_column",
    "gathered",
    "group_problems",
    "parts_of",
    "site_problems",
    "unit_of_column",
]


_MOST_RETURNED = 128 << 20  # bytes returned by one run; more gain nothing


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


@dataclass(frozen=True)
class Need:
    """Group, or site (``group`` is None), with the names of the sites whose moments it needs."""

    name: str
    sites: tuple[str, ...]
    group: ChannelGroup | None = None


def parts_of(run: Prepared, needs: Sequence[Need]) -> Iterable[list[Need]]:
    """Split the needs into parts whose moments fit in memory together with the arrays of solving one of them."""
    part: list[Need] = []
    held: dict[str, int] = {}
    solving = 0
    for need in needs:
        shapes = {name: matrix(run.net, run.channels.sites[name])[0].shape for name in need.sites}
        needed = {name: moment_bytes(shape, answered=False) for name, shape in shapes.items()}
        most = max(solving, solving_bytes(shapes.values()))
        if part and sum({**held, **needed}.values()) + most > run.room.solving:
            yield part
            part, held, most = [], {}, solving_bytes(shapes.values())
        part.append(need)
        held.update(needed)
        solving = most
    if part:
        yield part


def gathered(run: Prepared, needs: Sequence[Need], index: int, passes: int) -> dict[str, tuple[Moments, ...]]:
    """Gather the moments of the inputs of the needs' sites in one pass over the data, pass `index` of `passes`."""
    sites = {name: run.channels.sites[name] for need in needs for name in need.sites}
    meters = {}
    for name, site in sites.items():
        weight, _ = matrix(run.net, site)
        meters[name] = SiteMeter(weight.shape[0], weight.shape[2], 0)
    uses = [(name, use) for name, site in sites.items() for use in site.uses]
    sources = dict.fromkeys(use.source for _, use in uses)
    label = "sample activations" if passes == 1 else f"sample activations ({index + 1} of {passes})"
    room = run.room
    # The outputs of a run are held twice for a moment: by the engine, and as our arrays.
    returned = min(room.running // 2, _MOST_RETURNED) // len(run.batches[0].samples)
    planned = moves(run.order, run.network.sizes, sources, returned)
    total = len(planned) * len(run.batches)
    with TensorStore(room.held, run.scratch) as store:
        frontier = Frontier("original", run.engine, run.order, run.inputs.calibration, run.batches, store)
        for place, move in enumerate(planned):
            here = [(name, use) for name, use in uses if use.source in move.sources]
            with frontier.moving(run.net, move.cut, move.sources) as advance:
                for number in range(len(run.batches)):
                    run.progress(label, place * len(run.batches) + number, total)
                    tensors = advance(number)
                    for name, use in here:
                        _add(run, meters[name], use, tensors[use.source], number)
                    if move is planned[-1]:
                        for name in tensors:
                            store.drop((frontier.name, number, name))
                    del tensors  # before the next ones are made
    run.progress(label, total, total)
    return {name: meter.finish() for name, meter in meters.items()}


def _add(run: Prepared, meter: SiteMeter, site: Site, source: Array, number: int) -> None:
    batch = run.batches[number]
    images = batch.frames(len(source))
    where = run.positions.draw(images, output_extents(site, source.shape), meter.columns)
    x = patches(source[: len(images)], site, where)
    meter.add(x, None, run.halves(batch, len(x)))


def group_problems(
    run: Prepared, group: ChannelGroup, moments: Mapping[str, tuple[Moments, ...]]
) -> dict[str, list[Regression]]:
    """Make the regressions of a group's consumers on their own outputs, by name; units are the group's channels."""
    alive = run.channels.all_alive()
    found: dict[str, list[Regression]] = {}
    for name in group.consumers:
        site = run.channels.sites[name]
        found[name] = [
            replace(problem, unit=unit_of_column(run.channels, site, group, alive, len(problem.unit)))
            for problem in site_problems(run, name, moments[name])
        ]
    return found


def site_problems(run: Prepared, name: str, moments: Sequence[Moments]) -> list[Regression]:
    """Make the regressions of a site on its own output, one per group of a grouped conv; units are input channels."""
    site = run.channels.sites[name]
    weight, bias = matrix(run.net, site)
    unit, parts = channel_of_column(site, weight.shape[2]), bias.reshape(weight.shape[0], -1)
    return [
        Regression(gathered.with_response(weight[part], parts[part]), weight[part], parts[part], unit)
        for part, gathered in enumerate(moments)
    ]
