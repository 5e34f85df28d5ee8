"""Sample the sites that read a tensor: moments, and raw samples where the fit needs them.

The inputs (patches) come from the network compressed so far, the target outputs from the original. In front of a
residual sum the target is the original's sum minus the compressed network's shortcut, so that the branch corrects the
error of the shortcut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.engine.capture import answers, output_extents, patches
from onnxprune.engine.frontier import Batch, Frontier
from onnxprune.graph.channels.sites import Site, matrix
from onnxprune.graph.model.net import Net
from onnxprune.options.solve import RefitOptions
from onnxprune.solve.moments import Moments
from onnxprune.solve.problem import Regression, Samples
from onnxprune.steps.fit_order import FitStep, Target
from onnxprune.steps.prepare import Prepared
from onnxprune.steps.statistics import Reservoir, SiteMeter, channel_of_column

Array = np.ndarray[Any, Any]
Indices = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

Rows = tuple[Array, Array, Array | None]
"""Patches (n, columns), target outputs (n, outputs), and the part of these that a shortcut brings, if any."""

__all__ = ["Sampled", "State", "regressions_of", "sample_step"]

_ROWS_PER_COLUMN = 10


_RELU_ROWS = 16384  # raw samples per site, or `_ROWS_PER_COLUMN` per column if those are more


@dataclass(frozen=True, eq=False)
class State:
    """Compression so far: current network, surviving units, and the two activation frontiers."""

    net: Net
    alive: Mask
    original: Frontier
    current: Frontier


@dataclass(frozen=True)
class Sampled:
    """Moments and raw samples of a site, one entry per group of a grouped conv; `samples` is None if not needed."""

    moments: tuple[Moments, ...]
    samples: tuple[Samples, ...] | None


def sample_step(
    run: Prepared, state: State, step: FitStep, later: set[str], options: RefitOptions
) -> dict[str, Sampled]:
    """Gather moments and, if the fit needs them, raw samples of the sites of a step; return them by name."""
    meters: dict[str, SiteMeter] = {}
    pools: dict[str, Reservoir] = {}
    images = sum(batch.real for batch in run.batches)
    limits: dict[str, int] = {}
    columns: dict[str, int] = {}
    targets: dict[str, list[Target]] = defaultdict(list)
    for target in step.targets:
        targets[target.site.name].append(target)
    for site in step.sites:
        weight, _ = matrix(state.net, site)
        meters[site.name] = SiteMeter(weight.shape[0], weight.shape[2], weight.shape[1])
        columns[site.name] = weight.shape[2]
        if options.refit == "auto" and targets[site.name][0].activation is not None:
            limits[site.name] = _pool_rows(run.room.samples // len(step.sites), weight.shape)
    wanted = {target.tensor for target in step.targets}
    reached = 1 + max(run.order.made[name] for name in wanted)
    with (
        state.original.moving(run.net, reached, wanted, later) as move_original,
        state.current.moving(state.net, step.cut) as move_current,
    ):
        for number, batch in enumerate(run.batches):
            run.progress("compress", number, len(run.batches))
            reference, now = move_original(number), move_current(number)
            for name, uses in targets.items():
                rows = [_rows(run, state, target, batch, (reference, now), columns[name]) for target in uses]
                halves = np.concatenate([run.halves(batch, len(x)) for x, _, _ in rows])
                x, y, offset = _joined(rows)
                meters[name].add(x, y if offset is None else y - offset, halves)
                if name in limits:
                    pool = pools.setdefault(name, Reservoir(limits[name], images * (len(x) // batch.real)))
                    pool.add(x, y, halves, offset)
            del reference, now  # before the next ones are made
    run.progress("compress", len(run.batches), len(run.batches))
    found = {}
    for name, uses in targets.items():
        samples, activation = None, uses[0].activation
        if name in pools and activation is not None:
            samples = _split(replace(pools[name].finish(), activation=activation), meters[name])
        found[name] = Sampled(meters[name].finish(), samples)
    return found


def _joined(rows: Sequence[Rows]) -> Rows:
    """Join the rows of all nodes that share weights; a node without a shortcut has a shortcut of zeros."""
    if len(rows) == 1:
        return rows[0]
    x, y, offset = zip(*rows, strict=True)
    added = None
    if any(part is not None for part in offset):
        added = np.concatenate(
            [np.zeros_like(of) if part is None else part for of, part in zip(y, offset, strict=True)]
        )
    return np.concatenate(x), np.concatenate(y), added


def _pool_rows(room: int, weight: Sequence[int]) -> int:
    """Return the number of raw samples to hold in `room` bytes for a site of weight (groups, outputs, columns)."""
    groups, outputs, columns = weight
    fitting = room // (4 * groups * (columns + 2 * outputs))
    return max(1, min(fitting, max(_RELU_ROWS, _ROWS_PER_COLUMN * columns)))


def _rows(
    run: Prepared,
    state: State,
    target: Target,
    batch: Batch,
    tensors: tuple[Mapping[str, Array], Mapping[str, Array]],
    columns: int,
) -> Rows:
    """Sample patches (n, columns), target outputs (n, outputs left), and the shortcut's part of the targets, if any.

    Args:
        run: the prepared run.
        state: compression so far.
        target: target of a site at one node.
        batch: the batch.
        tensors: tensors of the original and of the compressed network for the batch.
        columns: columns of the site now.
    """
    (reference, now), site = tensors, target.use
    images = batch.frames(len(now[site.source]))
    source = now[site.source][: len(images)]
    where = run.positions.draw(images, output_extents(site, source.shape), columns)
    y = answers(reference[target.tensor][: len(images)], where, site.channel_axis)
    y = y[:, run.channels.alive_slots(site.output_axis, state.alive)]
    offset = None
    if target.shortcut is not None:
        offset = answers(now[target.shortcut][: len(images)], where, site.channel_axis)
    return patches(source, site, where), y, offset


def _split(samples: Samples, meter: SiteMeter) -> tuple[Samples, ...]:
    """Split the samples of a grouped conv by group."""
    groups = samples.x.shape[1] // meter.columns
    if groups == 1:
        return (samples,)
    parts = []
    for index in range(groups):
        x = samples.x[:, index * meter.columns : (index + 1) * meter.columns]
        outputs = slice(index * meter.outputs, (index + 1) * meter.outputs)
        offset = None if samples.offset is None else samples.offset[:, outputs]
        parts.append(replace(samples, x=x, y=samples.y[:, outputs], offset=offset))
    return tuple(parts)


def regressions_of(net: Net, site: Site, moments: tuple[Moments, ...]) -> list[Regression]:
    """Make one regression per group of a grouped conv; every input channel is a unit."""
    weight, bias = matrix(net, site)
    unit = channel_of_column(site, weight.shape[2])
    parts = bias.reshape(weight.shape[0], -1)
    return [Regression(gathered, weight[index], parts[index], unit) for index, gathered in enumerate(moments)]
