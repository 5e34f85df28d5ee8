"""Decide from a budget or a plan file which channels every group keeps and which form every layer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import DENSE, Form
from onnxprune.note import Note
from onnxprune.options.budget import Unit
from onnxprune.planning import Choice, Explanation, explain, search
from onnxprune.steps.bench import machine
from onnxprune.steps.curves import Probed, load_probed, probe, save_probed
from onnxprune.steps.eligible import eligible_branches, eligible_sites
from onnxprune.steps.fit_order import early_groups, last_sites
from onnxprune.steps.form_curves import SurveyOptions
from onnxprune.steps.time_plans import plan_by_latency

if TYPE_CHECKING:
    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.options.run import Options
    from onnxprune.planning import Plan
    from onnxprune.planning.cost import CostModel
    from onnxprune.steps.cache import Cache
    from onnxprune.steps.workload import Inputs, Workload

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Decision", "counted", "decide", "shapes_of", "survey_options"]


@dataclass(frozen=True)
class Decision:
    """Plan to carry out.

    Attributes:
        keep: number of channels to keep, per group name.
        kept: channels to keep, (k,) int64 sorted, for the groups that are selected already.
        forms: form per site that is decomposed.
        notes: requests that are not carried out, and residual branches that are removed.
        explanation: reasons of the plan; None without an allocation.
    """

    keep: dict[str, int]
    kept: dict[str, Indices]
    forms: dict[str, Form]
    notes: tuple[Note, ...] = ()
    explanation: Explanation | None = None


def counted(options: Options) -> Unit:
    """Return the cost that the budget limits: MACs, parameters or latency."""
    return options.budget.unit


def decide(
    work: Workload,
    cost: CostModel,
    groups: Sequence[ChannelGroup],
    skipped: Mapping[str, str],
    plan: Plan | None,
    options: Options,
    inputs: Inputs,
    cache: Cache,
) -> Decision:
    """Resolve a given plan, or find one for the budget.

    Args:
        work: the original and the inputs.
        cost: cost model of the original, with clocks if the budget limits latency.
        groups: groups that may lose channels.
        skipped: reasons why other groups may not, by name.
        plan: plan to carry out; None to find one for the budget.
        options: budget, allocation, selection and sensitivity.
        inputs: inputs of the network.
        cache: storage of the probe's results.

    Raises:
        PlanError: the plan does not fit the model, or the original is within the budget already.
        OutOfReachError: no plan meets the budget.
    """
    if plan is not None:
        return _followed(work, cost, groups, skipped, plan, options)
    shapes = shapes_of(work, cost, options)
    droppable = _droppable(work, cost, groups, options)
    probed = _probed(work, groups, shapes, options, cache)
    notes: tuple[Note, ...] = ()
    if options.budget.kind == "latency":
        spread = options.budget, options.alignment, options.allocation, droppable
        depends = (*spread, *machine(work.engine, options))
        checkpoint = cache.checkpoint("plan", *_asked(options, shapes), *depends)
        keep, forms, notes = plan_by_latency(work, cost, probed, options, inputs, checkpoint, droppable)
    else:
        keep, forms = _found(cost, probed, options, droppable)
    gone = [cost.branches[name] for name, count in keep.items() if count == 0]
    kept = {
        group.name: np.sort(probed.rankings[group.name].order[group.size - keep[group.name] :])
        for group in early_groups(work.channels, groups, gone)
    }
    explained = _explained(cost, probed, Choice(keep, forms), options, droppable)
    return Decision(keep, kept, forms, (*notes, *_dropped(cost, keep)), explained)


def _followed(
    work: Workload,
    cost: CostModel,
    groups: Sequence[ChannelGroup],
    skipped: Mapping[str, str],
    plan: Plan,
    options: Options,
) -> Decision:
    here = plan.renamed(work.channels)
    listed, kept = here.resolve(work.channels)
    keep = cost.tidied(listed)
    kept = {name: indices for name, indices in kept.items() if keep[name] == listed[name]}
    for group in work.channels.prunable:
        if group.name in skipped and keep.get(group.name, group.size) < group.size:
            raise PlanError(f"the plan removes channels of '{group.name}', but {skipped[group.name]}")
    may_go = eligible_branches(work.channels, cost.branches.values(), options.include, options.exclude)
    for name in (name for name, count in listed.items() if count == 0 and name not in may_go):
        held = "--include or --exclude keeps a layer of its residual branch" if name in cost.branches else ""
        why = held or "they are in no residual branch that may be removed"
        raise PlanError(f"the plan keeps none of the channels of '{name}': {why}")
    asked = here.resolve_forms(work.channels)
    eligible = {s.name for s in eligible_sites(work.net, work.channels, work.forbidden, (), options.exclude)}
    for name in asked:
        if name not in eligible:
            why = work.forbidden.get(name, "it is depthwise or a ConvTranspose, or --exclude names it")
            raise PlanError(f"the plan decomposes '{name}', but {why}")
    forms = cost.settled(keep, asked, counted(options))
    gone = [cost.branches[name] for name, count in keep.items() if count == 0]
    first = early_groups(work.channels, groups, gone)
    waiting = [g for g in first if g.name in keep and g.name not in kept]
    rankings = probe(work, waiting, options.select).rankings if waiting else {}
    for group in waiting:
        kept[group.name] = np.sort(rankings[group.name].order[group.size - keep[group.name] :])
    inner = [
        Note(name, "is removed with its residual branch, whatever number of channels the plan keeps")
        for name in keep
        if keep[name] != listed[name]
    ]
    return Decision(keep, kept, forms, (*_dropped(cost, keep), *inner, *_declined(cost, keep, asked, forms)))


def _dropped(cost: CostModel, keep: Mapping[str, int]) -> list[Note]:
    """Note which residual branches are removed."""
    names = [name for name, count in keep.items() if count == 0]
    told = f"{len(names)} of {len(cost.branches)} are removed whole: the branches of {', '.join(names)}"
    return [Note("residual branches", told)] if names else []


def _declined(
    cost: CostModel, keep: Mapping[str, int], asked: Mapping[str, Form], forms: Mapping[str, Form]
) -> list[Note]:
    """Note the planned forms that are not carried out, because a simpler form costs no more or the layer is removed."""
    notes = []
    for name, form in asked.items():
        if not any(cost.layer_axes(name, keep)):
            notes.append(Note(name, "is removed with its residual branch, whatever its planned form"))
            continue
        done, remarks = forms.get(name, DENSE), []
        if done.dense and not form.dense:
            remarks.append("is kept as one layer: decomposed as planned it would cost no less")
        elif form.spatial is not None and form.channel is not None and None in (done.spatial, done.channel):
            left = "H and P are" if done.spatial is not None else "V and H are"
            remarks.append(f"{left} one conv: two convs would cost no less")
        if remarks:
            notes.append(Note(name, "; ".join(remarks)))
    return notes


def shapes_of(work: Workload, cost: CostModel, options: Options) -> dict[str, LayerShape]:
    """Return the shapes of the sites whose forms are to be surveyed, by name."""
    uses = options.uses
    if not (uses.spatial or uses.channel):
        return {}
    sites = eligible_sites(work.net, work.channels, work.forbidden, options.include, options.exclude)
    shapes = {site.name: cost.layers[site.name].shape for site in sites if site.name in cost.layers}
    return {name: shape for name, shape in shapes.items() if shape is not None and (uses.channel or shape.axes())}


def _probed(
    work: Workload,
    groups: Sequence[ChannelGroup],
    shapes: Mapping[str, LayerShape],
    options: Options,
    cache: Cache,
) -> Probed:
    surveyed, weighed = survey_options(options), _weighed(options, shapes)
    checkpoint = cache.checkpoint("probe", *_asked(options, shapes))
    found = load_probed(checkpoint, groups, tuple(shapes))
    if found is None:
        found = probe(work, groups, options.select, shapes, surveyed, sensitivity=weighed)
        save_probed(checkpoint, found)
    return replace(found, sensitivity=replace(found.sensitivity, last=_last(work, groups))) if weighed else found


def _last(work: Workload, groups: Sequence[ChannelGroup]) -> frozenset[str]:
    """Return the names of the sites behind which no other site is fitted, and of the groups that only they consume."""
    sites = last_sites(work.net, work.order, work.channels)
    return sites.union(group.name for group in groups if sites.issuperset(group.consumers))


def survey_options(options: Options) -> SurveyOptions:
    """Return the options of the survey of forms."""
    # A form with no fewer MACs is no faster: forms are compared by MACs and error, and chosen by the budget's cost.
    unit: Unit = "params" if counted(options) == "params" else "macs"
    return SurveyOptions(options.uses, options.alignment, unit, options.refit.basis)


def _weighed(options: Options, shapes: Mapping[str, LayerShape]) -> bool:
    """Return True if errors are weighted by sensitivity."""
    asked = options.sensitivity and options.budget.kind not in ("selector", "keep-ratio")
    return asked and (bool(shapes) or options.allocation == "greedy")


def _asked(options: Options, shapes: Mapping[str, LayerShape]) -> tuple[object, ...]:
    """Return everything that the probe depends on besides the model and the inputs, as the key of its checkpoint."""
    surveyed = survey_options(options) if shapes else None
    return options.select, options.include, options.exclude, options.recipe_used, surveyed, _weighed(options, shapes)


def _droppable(work: Workload, cost: CostModel, groups: Sequence[ChannelGroup], options: Options) -> tuple[str, ...]:
    """Return the groups of the residual branches that may be removed, sorted by name."""
    if not options.drop_branches:
        return ()
    found = eligible_branches(work.channels, cost.branches.values(), options.include, options.exclude)
    return tuple(sorted(found & {group.name for group in groups}))


def _explained(
    cost: CostModel, probed: Probed, choice: Choice, options: Options, droppable: Sequence[str]
) -> Explanation | None:
    """Explain a plan; None if its counts were given, or found by the selector."""
    if options.budget.kind in ("keep-ratio", "selector"):
        return None
    curves = {name: ranking.curve for name, ranking in probed.rankings.items()}
    unit = counted(options)
    return explain(cost, curves, probed.candidates, probed.sensitivity, choice, unit, options.alignment, droppable)


def _found(
    cost: CostModel, probed: Probed, options: Options, droppable: Sequence[str]
) -> tuple[dict[str, int], dict[str, Form]]:
    rankings = probed.rankings
    if options.budget.kind == "selector":
        return {name: ranking.count or len(ranking.order) for name, ranking in rankings.items()}, {}
    curves = probed.sensitivity.curves({name: ranking.curve for name, ranking in rankings.items()})
    candidates = probed.sensitivity.candidates(probed.candidates)
    if not (curves or candidates):
        return {}, {}
    budget, allocation, align = options.budget, options.allocation, options.alignment
    choice = search(cost, curves, candidates, budget, allocation=allocation, align=align, droppable=droppable)
    return choice.keep, choice.forms
