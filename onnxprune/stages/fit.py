"""One step: sample the sites that read a tensor, select the channels on it, fit the weights.

The patches come from the network as compressed so far, the answers that they should give from the original one. In
front of a residual sum the wanted answer is the original sum less what the compressed network's shortcut brings to
it, so that the branch puts the shortcut's error right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.sites import matrix
from onnxprune.runtime.capture import answers, output_extents, patches
from onnxprune.runtime.frontier import Frontier
from onnxprune.solve import Regression, kept_columns, refit, select
from onnxprune.stages.chains import fit_chain
from onnxprune.stages.gather import Reservoir, SiteMeter, channel_of_column, unit_of_column
from onnxprune.stages.room import Room

if TYPE_CHECKING:
    from onnxprune.graph.channels import ChannelGroup
    from onnxprune.graph.decompose import Chain
    from onnxprune.graph.forms import Form
    from onnxprune.graph.net import Net
    from onnxprune.graph.sites import Site
    from onnxprune.solve import Moments, RefitOptions, Samples, SelectOptions, Solution
    from onnxprune.stages.steps import Step, Target
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Fitted", "Sampled", "SiteOutcome", "State", "fit_step", "regressions_of", "sample_step"]

_ROWS_PER_COLUMN = 10
_RELU_ROWS = 16384  # or ten a column if those are more


@dataclass(frozen=True)
class SiteOutcome:
    """How well a site was fitted.

    Attributes:
        error: relative, over all samples, of what it answers now.
        held_error: the same on the half of the images that it was not fitted on, mean of both ways.
        samples: rows.
        columns: unknowns an output.
        status: "ok", or what a reader should know.
    """

    error: float
    held_error: float
    samples: int
    columns: int
    status: str = "ok"


@dataclass(frozen=True)
class Fitted:
    """One step's result.

    Attributes:
        kept: channels per group.
        weights: per site its weights (groups, outputs, columns) and bias; of a decomposed one, what its factors make.
        outcomes: per site.
        chains: the factors, per decomposed site.
    """

    kept: Mapping[str, Indices]
    weights: Mapping[str, tuple[Array, Array]]
    outcomes: Mapping[str, SiteOutcome]
    chains: Mapping[str, Chain]


@dataclass(frozen=True, eq=False)
class State:
    """How far the compression is: the network and the units left in it, and where both networks stand."""

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
    """Sample, select and fit what belongs to one step; nothing is applied.

    Args:
        work: the original network and the inputs.
        state: how far the compression is.
        step: what to fit.
        later: tensors of the original network that later steps aim at: they stay held.
        keep: channels to keep, per group name.
        settled: which ones, where that is settled.
        forms: of the sites that are to be decomposed.
        select_options: for the other groups.
        refit_options: how weights are fitted.
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
        there = (name for name in group.consumers if name in problems)  # and not in a branch that goes whole
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
    """What was sampled of a site: one entry a group of a grouped conv."""

    moments: tuple[Moments, ...]
    samples: tuple[Samples, ...] | None


def sample_step(work: Workload, state: State, step: Step, later: set[str], options: RefitOptions) -> dict[str, Sampled]:
    """Moments and, where the fit needs them, raw samples of the sites of a step, by name."""
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
    """Raw samples to hold, in so many bytes, for a site whose weight is (groups, outputs, columns)."""
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
    """Patches (n, columns), the original's answers (n, outputs left), and the shortcut's part of them, if any."""
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
    """Samples of a grouped conv, group by group."""
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
    """One regression a group of a grouped conv, every input channel a unit of its own."""
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
    """The regressions on the columns that are still there, with the group's channels as units."""
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
    """What can be done: behind an activation that cannot be seen through, linear."""
    return replace(options, refit="linear") if options.refit == "auto" and samples is None else options


def _told(solution: Solution, asked: RefitOptions, done: RefitOptions) -> Solution:
    if asked.refit == done.refit:
        return solution
    return replace(solution, status=_joined(solution.status, "no ReLU, Clip or LeakyRelu behind it: linear"))


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
