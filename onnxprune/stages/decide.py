"""Decide: from a budget or a plan file to what every group keeps and how every layer is carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.graph.forms import DENSE, Form, Unit
from onnxprune.note import Note
from onnxprune.plan import RECIPES, Choice, allocate, search
from onnxprune.stages.choose import eligible_sites
from onnxprune.stages.latency import Bench
from onnxprune.stages.probe import Probed, load_probed, probe, save_probed
from onnxprune.stages.steps import early_groups
from onnxprune.stages.survey import SurveyOptions

if TYPE_CHECKING:
    from onnxprune.graph.channels import ChannelGroup
    from onnxprune.graph.cost import CostModel
    from onnxprune.graph.forms import LayerShape
    from onnxprune.options import Options
    from onnxprune.plan import Plan
    from onnxprune.report.started import Inputs
    from onnxprune.stages.cache import Cache
    from onnxprune.stages.workload import Workload

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Decision", "counted", "decide"]

_MOST_CORRECTIONS = 8
_TOLERANCE = 0.03  # of the asked speed-up


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Attributes:
        keep: channels to keep, per group name.
        kept: which ones, where that is settled.
        forms: per site that is not to stay dense.
        notes: what was asked for and is not done.
    """

    keep: dict[str, int]
    kept: dict[str, Indices]
    forms: dict[str, Form]
    notes: tuple[Note, ...] = ()


def counted(options: Options) -> Unit:
    """The cost in force: what must get less."""
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
    """Follow the plan, or find one.

    Args:
        work: the original and the inputs.
        cost: of it, with clocks where latency is the cost in force.
        groups: those that may lose channels.
        skipped: why others may not, by name.
        plan: what to do; None: what the budget allows.
        options: see there.
        inputs: of the network.
        cache: for what the probe finds.

    Raises:
        PlanError: the plan does not fit, or the budget is out of reach.
    """
    if plan is not None:
        return _followed(work, cost, groups, skipped, plan, options)
    shapes = _shapes(work, cost, options)
    probed = _probed(work, groups, shapes, options, cache)
    notes: tuple[Note, ...] = ()
    if options.budget.kind == "latency":
        keep, forms, notes = _by_latency(work, cost, probed, options, inputs, cache)
    else:
        keep, forms = _found(cost, probed, options)
    kept = {
        group.name: np.sort(probed.rankings[group.name].order[group.size - keep[group.name] :])
        for group in early_groups(work.channels, groups)
    }
    return Decision(keep, kept, forms, notes)


def _followed(
    work: Workload,
    cost: CostModel,
    groups: Sequence[ChannelGroup],
    skipped: Mapping[str, str],
    plan: Plan,
    options: Options,
) -> Decision:
    here = plan.renamed(work.channels)
    keep, kept = here.resolve(work.channels)
    for group in work.channels.prunable:
        if group.name in skipped and keep.get(group.name, group.size) < group.size:
            raise PlanError(f"the plan takes channels of '{group.name}', but {skipped[group.name]}")
    asked = here.resolve_forms(work.channels)
    eligible = {s.name for s in eligible_sites(work.net, work.channels, work.forbidden, (), options.exclude)}
    for name in asked:
        if name not in eligible:
            why = work.forbidden.get(name, "it is depthwise, or --exclude names it")
            raise PlanError(f"the plan decomposes '{name}', but {why}")
    forms = cost.settled(keep, asked, counted(options))
    waiting = [g for g in early_groups(work.channels, groups) if g.name in keep and g.name not in kept]
    rankings = probe(work, waiting, options.select).rankings if waiting else {}
    for group in waiting:
        kept[group.name] = np.sort(rankings[group.name].order[group.size - keep[group.name] :])
    return Decision(keep, kept, forms, tuple(_declined(asked, forms)))


def _declined(asked: Mapping[str, Form], forms: Mapping[str, Form]) -> list[Note]:
    """What the plan asks for that would cost more than doing without."""
    notes = []
    for name, form in asked.items():
        done = forms.get(name, DENSE)
        if done.dense:
            notes.append(Note(name, "stays one layer: decomposed as planned it would cost no less"))
        elif done != form and form.spatial is not None and form.channel is not None:
            left = "H and P are" if done.spatial is not None else "V and H are"
            notes.append(Note(name, f"{left} one conv: apart they would cost no less"))
    return notes


def _shapes(work: Workload, cost: CostModel, options: Options) -> dict[str, LayerShape]:
    """Shapes of the sites whose forms are to be surveyed."""
    uses = RECIPES[options.recipe]
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
    # What takes no fewer MACs is no faster: forms are told apart by MACs and error, and chosen by the cost in force.
    unit: Unit = "params" if counted(options) == "params" else "macs"
    surveyed = SurveyOptions(RECIPES[options.recipe], options.align, unit, options.refit.basis)
    weighed = options.sensitivity and options.budget.kind not in ("selector", "keep-ratio")
    weighed = weighed and (bool(shapes) or options.allocation == "greedy")
    asked = (options.select, options.include, options.exclude, options.recipe)
    depends = (*asked, surveyed if shapes else None, weighed)
    checkpoint = cache.checkpoint("probe", *depends)
    found = load_probed(checkpoint, groups, tuple(shapes))
    if found is None:
        found = probe(work, groups, options.select, shapes, surveyed, sensitivity=weighed)
        save_probed(checkpoint, found)
    return found


def _found(cost: CostModel, probed: Probed, options: Options) -> tuple[dict[str, int], dict[str, Form]]:
    rankings = probed.rankings
    if options.budget.kind == "selector":
        return {name: ranking.count or len(ranking.order) for name, ranking in rankings.items()}, {}
    curves = probed.sensitivity.curves({name: ranking.curve for name, ranking in rankings.items()})
    candidates = probed.sensitivity.candidates(probed.candidates)
    if not (curves or candidates):
        return {}, {}
    if not candidates:
        return allocate(cost, curves, options.budget, allocation=options.allocation, align=options.align), {}
    choice = search(cost, curves, candidates, options.budget, allocation=options.allocation, align=options.align)
    return choice.keep, choice.forms


def _by_latency(
    work: Workload, cost: CostModel, probed: Probed, options: Options, inputs: Inputs, cache: Cache
) -> tuple[dict[str, int], dict[str, Form], tuple[Note, ...]]:
    """Plan by the clocks, time a network of the planned sizes, and plan anew until the asked speed-up is met."""
    curves = probed.sensitivity.curves({name: ranking.curve for name, ranking in probed.rankings.items()})
    candidates = probed.sensitivity.candidates(probed.candidates)
    bench = Bench(work, cost, inputs, options)
    asked = bench.before_ms / options.budget.ms if options.budget.ms is not None else 1 / options.budget.fraction
    if asked <= 1:
        raise PlanError(f"{options.budget.text}: the original takes {bench.before_ms:.3g} ms, that is fast enough")
    tried: list[_Tried] = []
    wanted = asked
    for number in range(_MOST_CORRECTIONS):
        work.progress("time plans", number, _MOST_CORRECTIONS)
        budget = replace(options.budget, fraction=1 / wanted)
        try:
            choice = search(cost, curves, candidates, budget, allocation=options.allocation, align=options.align)
        except PlanError as error:
            reached = max((one.reached for one in tried), default=None)
            if reached is None:
                raise
            so_far = f"a plan was measured at {reached:.2f}x, and"
            raise PlanError(f"{options.budget.text}: {so_far} more is out of reach of this recipe: {error}") from error
        predicted = cost.latency({}) / cost.latency(choice.keep, choice.forms)
        tried.append(_Tried(choice, predicted, bench.faster(choice.keep, choice.forms)))
        if asked <= tried[-1].reached <= asked * (1 + _TOLERANCE):
            break
        wanted *= asked * (1 + _TOLERANCE / 2) / tried[-1].reached
    work.progress("time plans", _MOST_CORRECTIONS, _MOST_CORRECTIONS)
    enough = [one for one in tried if one.reached >= asked * (1 - _TOLERANCE)]
    if not enough:
        most = max(one.reached for one in tried)
        raise PlanError(
            f"{options.budget.text} is out of reach: the fastest of {len(tried)} plans was {most:.2f}x faster"
        )
    best = min(enough, key=lambda one: one.reached)
    told = f"{len(tried)} plans timed: the one taken is {best.reached:.2f}x faster, predicted {best.predicted:.2f}x"
    return best.choice.keep, best.choice.forms, (Note("latency", told),)


@dataclass(frozen=True)
class _Tried:
    """A plan, how much faster it should be and how much faster it is."""

    choice: Choice
    predicted: float
    reached: float
