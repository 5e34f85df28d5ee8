"""Fit of one step: sample the sites that read a tensor, select its channels, refit or factorise the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.planning.assignment import Assignment
from onnxprune.solve import Regression, kept_columns, refit, select
from onnxprune.steps.factorise import factorise
from onnxprune.steps.sample import State, regressions_of, sample_step
from onnxprune.steps.statistics import unit_of_column

if TYPE_CHECKING:
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.graph.edit.decompose import Chain
    from onnxprune.options.solve import RefitOptions
    from onnxprune.solve import Samples, Solution
    from onnxprune.steps.fit_order import FitStep
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Fitted", "SiteOutcome", "fit_step"]


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


def fit_step(run: Prepared, state: State, step: FitStep, later: set[str], assignment: Assignment) -> Fitted:
    """Sample the sites of one step, select its channels and fit its weights, without changing the network.

    Args:
        run: the prepared run.
        state: compression so far.
        step: sites and groups to fit.
        later: target tensors of later steps in the original network, which must be kept.
        assignment: assignment to carry out; channels are selected for a group that has only a number.
    """
    options, forms = run.options.refit, assignment.forms
    sampled = sample_step(run, state, step, later, options)
    problems = {site.name: regressions_of(state.net, site, sampled[site.name].moments) for site in step.sites}
    columns = {name: np.arange(len(regressions[0].unit), dtype=np.int64) for name, regressions in problems.items()}
    kept: dict[str, Indices] = {}
    alive = state.alive
    for group in step.groups:
        there = (name for name in group.consumers if name in problems)  # not in a residual branch that is removed
        here = {name: _restricted(run, problems[name], name, group, alive, columns[name]) for name in there}
        count = assignment.counts[group.name]
        if group.name in assignment.selected:
            kept[group.name] = assignment.selected[group.name]
        elif count == group.size:
            kept[group.name] = np.arange(group.size, dtype=np.int64)
        else:
            asked = [regression for regressions in here.values() for regression in regressions]
            kept[group.name] = select(asked, group.size, count, run.options.select).kept
        for name, regressions in here.items():
            columns[name] = columns[name][kept_columns(regressions[0], kept[group.name])]
        alive = alive.copy()
        alive[np.delete(group.units, kept[group.name])] = False
    weights: dict[str, tuple[Array, Array]] = {}
    outcomes: dict[str, SiteOutcome] = {}
    chains: dict[str, Chain] = {}
    for site in step.sites:
        name, samples = site.name, sampled[site.name].samples
        if name in forms:
            plain = _possible(options, samples)
            found, chains[name] = factorise(site, problems[name], columns[name], forms[name], plain, samples)
            solutions = [_told(solution, options, plain) for solution in found]
        else:
            solutions = _refit(problems[name], columns[name], options, samples)
        weights[name] = (
            np.stack([solution.weight for solution in solutions]),
            np.concatenate([solution.bias for solution in solutions]),
        )
        outcomes[name] = _outcome(solutions, problems[name], len(columns[name]))
    return Fitted(kept, weights, outcomes, chains)


def _restricted(
    run: Prepared,
    problems: Sequence[Regression],
    name: str,
    group: ChannelGroup,
    alive: Mask,
    columns: Indices,
) -> list[Regression]:
    """Restrict regressions to the remaining columns; the group's channels are the units."""
    unit = unit_of_column(run.channels, run.channels.sites[name], group, alive, len(columns))
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
