"""Find the assignment for a budget, or read it from a plan file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import DENSE
from onnxprune.note import Note
from onnxprune.planning import Assignment, Explanation, explain, search
from onnxprune.steps.curves import error_curves
from onnxprune.steps.eligible import eligible_sites
from onnxprune.steps.fit_order import early_groups
from onnxprune.steps.time_plans import plan_by_latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.options.run import Options
    from onnxprune.planning import Plan
    from onnxprune.planning.cost import CostModel
    from onnxprune.steps.curves import Curves
    from onnxprune.steps.prepare import Prepared

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Decided", "curves_of", "decide", "shapes_of"]


@dataclass(frozen=True)
class Decided:
    """Assignment to carry out, and how it was found.

    Attributes:
        assignment: channels per group and form per layer; the channels are chosen for the groups that must be selected
            before the first step.
        notes: requests that are not carried out, and residual branches that are removed.
        explanation: reasons of the plan; None without an allocation.
    """

    assignment: Assignment
    notes: tuple[Note, ...] = ()
    explanation: Explanation | None = None


def curves_of(run: Prepared) -> Curves:
    """Measure the error curves that a plan for the budget of the options needs."""
    shapes = shapes_of(run)
    return error_curves(run, _groups(run), shapes, sensitivity=_weighed(run.options, shapes))


def decide(run: Prepared, plan: Plan | None = None, curves: Curves | None = None, *, roughly: bool = False) -> Decided:
    """Resolve a given plan, or find one for the budget of the options.

    Args:
        run: the prepared run; its cost model has clocks if the budget limits latency.
        plan: plan to carry out; None to find one for the budget.
        curves: error curves of the same network, perhaps on another picture; None, or curves of other groups or
            layers: they are measured.
        roughly: time plans for a latency budget less often, see `plan_by_latency`.

    Raises:
        PlanError: the plan does not fit the model, or the original is within the budget already.
        OutOfReachError: no plan meets the budget.
    """
    if plan is not None:
        return _followed(run, plan)
    if run.whole:
        return Decided(Assignment())
    options, groups = run.options, _groups(run)
    droppable = tuple(sorted(run.eligible.branches & {g.name for g in groups})) if options.drop_branches else ()
    if curves is None or not curves.belong_to({g.name for g in groups}, shapes_of(run)):
        curves = curves_of(run)
    notes: tuple[Note, ...] = ()
    if options.budget.kind == "latency":
        found, notes = plan_by_latency(run, curves, droppable, roughly=roughly)
    else:
        found = _found(run, curves, droppable)
    gone = [run.cost.branches[name] for name in found.removed]
    early = early_groups(run.channels, groups, gone)
    kept = {group.name: curves.rankings[group.name].kept(found.counts[group.name]) for group in early}
    explained = None
    if options.budget.kind not in ("keep-ratio", "selector"):  # else the counts were given, or found by the selector
        unit, align = options.budget.unit, options.alignment
        explained = explain(run.cost, curves.errors, found, unit, align, droppable)
    return Decided(found.selecting(kept), (*notes, *_dropped(run.cost, found)), explained)


def _followed(run: Prepared, plan: Plan) -> Decided:
    cost, channels, options = run.cost, run.channels, run.options
    listed = plan.renamed(channels).assignment(channels)
    for group in channels.prunable:
        if group.name in run.eligible.skipped and listed.counts.get(group.name, group.size) < group.size:
            raise PlanError(f"the plan removes channels of '{group.name}', but {run.eligible.skipped[group.name]}")
    for name in (name for name in listed.channels if name in listed.removed - run.eligible.branches):
        held = "--include or --exclude keeps a layer of its residual branch" if name in cost.branches else ""
        why = held or "they are in no residual branch that may be removed"
        raise PlanError(f"the plan keeps none of the channels of '{name}': {why}")
    forbidden = run.network.forbidden
    sites = {site.name for site in eligible_sites(run.net, channels, forbidden, (), options.exclude)}
    for name in listed.forms:
        if name not in sites:
            why = forbidden.get(name, "it is depthwise or a ConvTranspose, or --exclude names it")
            raise PlanError(f"the plan decomposes '{name}', but {why}")
    tidy = cost.without_inner(listed)
    asked = cost.simplified(tidy, options.budget.unit)
    gone = [cost.branches[name] for name in asked.removed]
    early = early_groups(channels, run.eligible.groups, gone)
    waiting = [g for g in early if g.name in asked.channels and g.name not in asked.selected]
    rankings = error_curves(run, waiting).rankings if waiting else {}
    kept = {group.name: rankings[group.name].kept(asked.counts[group.name]) for group in waiting}
    inner = [
        Note(name, "is removed with its residual branch, whatever number of channels the plan keeps")
        for name in tidy.counts
        if tidy.counts[name] != listed.counts[name]
    ]
    return Decided(asked.selecting(kept), (*_dropped(cost, asked), *inner, *_declined(cost, tidy, asked)))


def _dropped(cost: CostModel, assignment: Assignment) -> list[Note]:
    """Note which residual branches are removed."""
    names = [name for name in assignment.channels if name in assignment.removed]
    told = f"{len(names)} of {len(cost.branches)} are removed whole: the branches of {', '.join(names)}"
    return [Note("residual branches", told)] if names else []


def _declined(cost: CostModel, asked: Assignment, done: Assignment) -> list[Note]:
    """Note the planned forms that are not carried out, because a simpler form costs no more or the layer is removed."""
    notes = []
    for name, form in asked.forms.items():
        if not any(cost.layer_axes(name, asked)):
            notes.append(Note(name, "is removed with its residual branch, whatever its planned form"))
            continue
        left, remarks = done.forms.get(name, DENSE), []
        if left.dense and not form.dense:
            remarks.append("is kept as one layer: decomposed as planned it would cost no less")
        elif form.spatial is not None and form.channel is not None and None in (left.spatial, left.channel):
            pair = "H and P are" if left.spatial is not None else "V and H are"
            remarks.append(f"{pair} one conv: two convs would cost no less")
        if remarks:
            notes.append(Note(name, "; ".join(remarks)))
    return notes


def _groups(run: Prepared) -> Sequence[ChannelGroup]:
    """Return the groups that may lose channels."""
    return run.eligible.groups if run.options.uses.prune else ()


def shapes_of(run: Prepared) -> dict[str, LayerShape]:
    """Return the shapes of the sites whose forms are to be considered, by name."""
    uses, layers = run.options.uses, run.cost.layers
    if not (uses.spatial or uses.channel):
        return {}
    shapes = {site.name: layers[site.name].shape for site in run.eligible.sites if site.name in layers}
    return {name: shape for name, shape in shapes.items() if shape is not None and (uses.channel or shape.axes())}


def _weighed(options: Options, shapes: Mapping[str, LayerShape]) -> bool:
    """Return True if errors are weighted by sensitivity."""
    asked = options.sensitivity and options.budget.kind not in ("selector", "keep-ratio")
    return asked and (bool(shapes) or options.allocation == "greedy")


def _found(run: Prepared, curves: Curves, droppable: tuple[str, ...]) -> Assignment:
    rankings, options = curves.rankings, run.options
    if options.budget.kind == "selector":
        return Assignment({name: ranking.count or len(ranking.order) for name, ranking in rankings.items()})
    errors = curves.errors.weighted
    if not (errors.curves or errors.candidates):
        return Assignment()
    return search(
        run.cost,
        errors,
        run.limit,
        allocation=options.allocation,
        align=options.alignment,
        droppable=droppable,
    )
