"""Fit of one step: sample the sites that read a tensor, select its channels, refit the weights.

The inputs (patches) come from the network compressed so far, the target outputs from the original. In front of a
residual sum the target is the original's sum minus the compressed network's shortcut, so that the branch corrects the
error of the shortcut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.capture import answers, output_extents, patches
from onnxprune.engine.frontier import Frontier
from onnxprune.graph.channels.sites import matrix
from onnxprune.solve import Regression, kept_columns, refit, select
from onnxprune.steps.chains import fit_chain
from onnxprune.steps.room import Room
from onnxprune.steps.statistics import Reservoir, SiteMeter, channel_of_column, unit_of_column

if TYPE_CHECKING:
    from onnxprune.graph.channels.forms import Form
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.edit.decompose import Chain
    from onnxprune.graph.model.net import Net
    from onnxprune.options.solve import RefitOptions, SelectOptions
    from onnxprune.solve import Moments, Samples, Solution
    from onnxprune.steps.fit_order import Step, Target
    from onnxprune.steps.workload import Workload

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Fitted", "Sampled", "SiteOutcome", "State", "fit_step", "regressions_of", "sample_step"]

_ROWS_PER_COLUMN = 10
_RELU_ROWS = 16384  # raw samples per site, or `_ROWS_PER_COLUMN` per column if those are more


@dataclass(frozen=True)
class SiteOutcome:
    """Quality of the fit of a site.

    Attributes:
        error: relative squared error of its output over all samples.
        held_error: relative squared error on one half of the samples after a fit to the other, mean of both ways.
        samples: number of rows.
        columns: number of unknowns per output.
        status: "ok", or remarks for the report.
    """

    error: float
    held_error: float
    samples: int
    columns: int
    status: str = "ok"


@dataclass(frozen=True)
class Fitted:
    """Result of one step.

    Attributes:
        kept: channels to keep per group, (k,) int64 sorted.
        weights: per site its weights (groups, outputs, columns) and bias; for a decomposed site the product of its
            factors.
        outcomes: quality of the fit per site.
        chains: factors per decomposed site.
    """

    kept: Mapping[str, Indices]
    weights: Mapping[str, tuple[Array, Array]]
    outcomes: Mapping[str, SiteOutcome]
    chains: Mapping[str, Chain]


@dataclass(frozen=True, eq=False)
class State:
    """Compression so far: current network, surviving units, and the two activation frontiers."""

    net: Net
    alive: Mask
    original: Frontier
    current: Frontier


def fit_step(
    work: Workload,
    state: State,
    step: Step,
    later: set[str],
    keep: Mapping[str, int],
    settled: Mapping[str, Indices],
    forms: Mapping[str, Form],
    select_options: SelectOptions,
    refit_options: RefitOptions,
) -> Fitted:
    """Sample the sites of one step, select its channels and fit its weights, without changing the network.

    Args:
        work: the original network and the inputs.
        state: compression so far.
        step: sites and groups to fit.
        later: target tensors of later steps in the original network, which must be kept.
        keep: number of channels to keep, per group name.
        settled: channels to keep, for the groups that are selected already.
        forms: forms of the sites to decompose.
        select_options: options of the selection of the other groups.
        refit_options: options of the refit.
    """
    sampled = sample_step(work, state, step, later, refit_options)
    problems = {
        target.site.name: regressions_of(state.net, target.site, sampled[target.site.name].moments)
        for target in step.targets
    }
    columns = {name: np.arange(len(regressions[0].unit), dtype=np.int64) for name, regressions in problems.items()}
    kept: dict[str, Indices] = {}
    alive = state.alive
    for group in step.groups:
        there = (name for name in group.consumers if name in problems)  # not in a residual branch that is removed
        here = {name: _restricted(work, problems[name], name, group, alive, columns[name]) for name in there}
        if group.name in settled:
            kept[group.name] = settled[group.name]
        elif keep[group.name] == group.size:
            kept[group.name] = np.arange(group.size, dtype=np.int64)
        else:
            asked = [regression for regressions in here.values() for regression in regressions]
            kept[group.name] = select(asked, group.size, keep[group.name], select_options).kept
        for name, regressions in here.items():
            columns[name] = columns[name][kept_columns(regressions[0], kept[group.name])]
        alive = alive.copy()
        alive[np.delete(group.units, kept[group.name])] = False
    weights: dict[str, tuple[Array, Array]] = {}
    outcomes: dict[str, SiteOutcome] = {}
    chains: dict[str, Chain] = {}
    for target in step.targets:
        name, samples = target.site.name, sampled[target.site.name].samples
        if name in forms:
            plain = _possible(refit_options, samples)
            found, chains[name] = fit_chain(target.site, problems[name], columns[name], forms[name], plain, samples)
            solutions = [_told(solution, refit_options, plain) for solution in found]
        else:
            solutions = _refit(problems[name], columns[name], refit_options, samples)
        weights[name] = (
            np.stack([solution.weight for solution in solutions]),
            np.concatenate([solution.bias for solution in solutions]),
        )
        outcomes[name] = _outcome(solutions, problems[name], len(columns[name]))
    return Fitted(kept, weights, outcomes, chains)


@dataclass(frozen=True)
class Sampled:
    """Moments and raw samples of a site, one entry per group of a grouped conv; `samples` is None if not needed."""

    moments: tuple[Moments, ...]
    samples: tuple[Samples, ...] | None


def sample_step(work: Workload, state: State, step: Step, later: set[str], options: RefitOptions) -> dict[str, Sampled]:
    """Gather moments and, if the fit needs them, raw samples of the sites of a step; return them by name."""
    meters: dict[str, SiteMeter] = {}
    pools: dict[str, Reservoir] = {}
    images = sum(batch.real for batch in work.batches)
    limits: dict[str, int] = {}
    columns: dict[str, int] = {}
    for target in step.targets:
        weight, _ = matrix(state.net, target.site)
        meters[target.site.name] = SiteMeter(weight.shape[0], weight.shape[2], weight.shape[1])
        columns[target.site.name] = weight.shape[2]
        if options.refit == "auto" and target.activation is not None:
            limits[target.site.name] = _pool_rows(Room(work.memory).samples // len(step.targets), weight.shape)
    wanted = {target.tensor for target in step.targets}
    reached = 1 + max(work.order.made[name] for name in wanted)
    with (
        state.original.moving(work.net, reached, wanted, later) as move_original,
        state.current.moving(state.net, step.cut) as move_current,
    ):
        for number, batch in enumerate(work.batches):
            work.progress("compress", number, len(work.batches))
            reference, now = move_original(number), move_current(number)
            for target in step.targets:
                x, y, offset = _rows(work, state.alive, step, target, number, reference, now, columns[target.site.name])
                halves = work.halves(batch, len(x))
                meters[target.site.name].add(x, y if offset is None else y - offset, halves)
                name = target.site.name
                if name in limits:
                    pool = pools.setdefault(name, Reservoir(limits[name], images * (len(x) // batch.real)))
                    pool.add(x, y, halves, offset)
            del reference, now  # before the next ones are made
    work.progress("compress", len(work.batches), len(work.batches))
    found = {}
    for target in step.targets:
        name, samples = target.site.name, None
        if name in pools and target.activation is not None:
            rows = replace(pools[name].finish(), activation=target.activation)
            samples = _split(rows, meters[name])
        found[name] = Sampled(meters[name].finish(), samples)
    return found


def _pool_rows(room: int, weight: Sequence[int]) -> int:
    """Return the number of raw samples to hold in `room` bytes for a site of weight (groups, outputs, columns)."""
    groups, outputs, columns = weight
    fitting = room // (4 * groups * (columns + 2 * outputs))
    return max(1, min(fitting, max(_RELU_ROWS, _ROWS_PER_COLUMN * columns)))


def _rows(
    work: Workload,
    alive: Mask,
    step: Step,
    target: Target,
    number: int,
    reference: Mapping[str, Array],
    now: Mapping[str, Array],
    columns: int,
) -> tuple[Array, Array, Array | None]:
    """Sample patches (n, columns), target outputs (n, outputs left), and the shortcut's part of the targets, if any."""
    batch, site = work.batches[number], target.site
    source = now[step.source][: batch.real]
    where = work.positions.draw(batch.samples[: batch.real], output_extents(site, source.shape), columns)
    y = answers(reference[target.tensor][: batch.real], where, site.channel_axis)
    y = y[:, work.channels.alive_slots(site.output_axis, alive)]
    offset = None
    if target.shortcut is not None:
        offset = answers(now[target.shortcut][: batch.real], where, site.channel_axis)
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


def _restricted(
    work: Workload,
    problems: Sequence[Regression],
    name: str,
    group: ChannelGroup,
    alive: Mask,
    columns: Indices,
) -> list[Regression]:
    """Restrict regressions to the remaining columns; the group's channels are the units."""
    unit = unit_of_column(work.channels, work.channels.sites[name], group, alive, len(columns))
    whole = len(columns) == len(problems[0].unit)
    return [
        Regression(
            problem.moments if whole else problem.moments.columns(columns),
            problem.weight[:, columns],
            problem.bias,
            unit,
        )
        for problem in problems
    ]


def _refit(
    problems: Sequence[Regression],
    columns: Indices,
    options: RefitOptions,
    samples: tuple[Samples, ...] | None,
) -> list[Solution]:
    plain = _possible(options, samples)
    found = [
        refit(problem, columns, plain, None if samples is None else samples[index])
        for index, problem in enumerate(problems)
    ]
    return [_told(solution, options, plain) for solution in found]


def _possible(options: RefitOptions, samples: tuple[Samples, ...] | None) -> RefitOptions:
    """Fall back to a linear refit if the activation is not piecewise linear."""
    return replace(options, refit="linear") if options.refit == "auto" and samples is None else options


def _told(solution: Solution, asked: RefitOptions, done: RefitOptions) -> Solution:
    if asked.refit == done.refit:
        return solution
    return replace(solution, status=_joined(solution.status, "no ReLU, Clip or LeakyRelu follows: linear refit"))


def _joined(status: str, remark: str) -> str:
    return remark if status == "ok" else f"{status}; {remark}"


def _outcome(solutions: Sequence[Solution], problems: Sequence[Regression], columns: int) -> SiteOutcome:
    remarks = dict.fromkeys(solution.status for solution in solutions if solution.status != "ok")
    power = np.array([problem.moments.total.power.sum() for problem in problems])
    share = power / power.sum() if power.sum() > 0 else np.full(len(power), 1 / len(power))
    return SiteOutcome(
        error=float(share @ [solution.error for solution in solutions]),
        held_error=float(share @ [(s.error_even + s.error_odd) / 2 for s in solutions]),
        samples=problems[0].moments.count,
        columns=columns,
        status="; ".join(remarks) or "ok",
    )
