"""Error curves of groups by number of channels, and of layers by form, before anything is changed.

Statistics of the original network give a removal order and a held-out curve for each group, the held-out errors of the
forms of each layer, and by trials the sensitivity of the network's outputs to both.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import KINDS, Kind
from onnxprune.planning.candidates import Candidates
from onnxprune.planning.sensitivity import PredictedErrors, Sensitivity
from onnxprune.solve import held_out_curve, removal_order, select
from onnxprune.steps.fit_order import early_groups, last_sites
from onnxprune.steps.form_curves import FormOptions, form_curves
from onnxprune.steps.sensitivity import Trials
from onnxprune.steps.statistics import Need, gathered, group_problems, parts_of, site_problems

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnxprune.cache import Checkpoint, Saved
    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.options.solve import SelectOptions
    from onnxprune.solve import Regression
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Curves", "Ranking", "error_curves"]


@dataclass(frozen=True)
class Ranking:
    """Removal order and error curve of a group, before anything is removed.

    Attributes:
        order: (size,) int64 channels, first removed first: found on all samples if the group must be selected before
            the first step, else equal to `first_order`.
        first_order: (size,) int64, removal order found on the first half of the samples.
        curve: (size + 1,) float64, relative held-out error of all consumers together by number of removed channels,
            the others refitted.
        count: number of channels that a selector without a budget keeps; else None.
    """

    order: Array
    first_order: Array
    curve: Array
    count: int | None = None

    def kept(self, count: int) -> Indices:
        """Return the channels that are removed last, (count,) int64 sorted."""
        return np.sort(self.order[len(self.order) - count :])


@dataclass(frozen=True)
class Curves:
    """Errors before anything is changed.

    Attributes:
        rankings: per group name.
        candidates: forms and their errors, per name of a site that may be decomposed.
        sensitivity: sensitivity of groups and sites; empty if it was not measured.
    """

    rankings: Mapping[str, Ranking]
    candidates: Mapping[str, Candidates]
    sensitivity: Sensitivity

    @property
    def errors(self) -> PredictedErrors:
        """Errors that a plan trades for cost."""
        curves = {name: ranking.curve for name, ranking in self.rankings.items()}
        return PredictedErrors(curves, self.candidates, self.sensitivity)

    def belong_to(self, groups: Collection[str], sites: Collection[str]) -> bool:
        """Tell whether these are the curves of exactly these groups and sites, by their names."""
        return set(self.rankings) == set(groups) and set(self.candidates) == set(sites)


def error_curves(
    run: Prepared,
    groups: Sequence[ChannelGroup],
    shapes: Mapping[str, LayerShape] | None = None,
    *,
    sensitivity: bool = False,
) -> Curves:
    """Measure the error curves of groups and of the forms of sites, or take them from the cache.

    Args:
        run: the prepared run.
        groups: groups to rank.
        shapes: shapes of the sites that may be decomposed, by name.
        sensitivity: also measure by trials how errors change the network's outputs.
    """
    shapes = shapes or {}
    asked = FormOptions.of(run.options) if shapes else None
    names = tuple(group.name for group in groups), tuple(shapes)
    checkpoint = run.cache.checkpoint("curves", run.options.select, names, asked, sensitivity)
    found = _load(checkpoint, groups, tuple(shapes))
    if found is None:
        trials = Trials(run, len(groups) + len(KINDS) * len(shapes)) if sensitivity else None
        with trials or nullcontext():
            found = _measured(run, groups, shapes, trials)
        _save(checkpoint, found)
    if not sensitivity:
        return found
    sites = last_sites(run.net, run.order, run.channels)
    last = sites.union(group.name for group in groups if sites.issuperset(group.consumers))
    return replace(found, sensitivity=replace(found.sensitivity, last=last))


def _measured(
    run: Prepared, groups: Sequence[ChannelGroup], shapes: Mapping[str, LayerShape], trials: Trials | None
) -> Curves:
    rankings: dict[str, Ranking] = {}
    candidates: dict[str, Candidates] = {}
    groups_damage: dict[str, float] = {}
    sites_damage: dict[str, dict[Kind, float]] = {}
    needs = [Need(group.name, group.consumers, group) for group in groups] + [Need(name, (name,)) for name in shapes]
    needs.sort(key=lambda need: min(run.order.index(name) for name in need.sites))
    beforehand = {group.name for group in early_groups(run.channels, groups)}
    parts = list(parts_of(run, needs))
    label, done = "rank channels and forms" if shapes else "rank channels", 0
    for index, part in enumerate(parts):
        moments = gathered(run, part, index, len(parts))
        for place, need in enumerate(part):
            run.progress(label, done, len(needs))
            if need.group is not None:
                asked = group_problems(run, need.group, moments)
                order_needed = need.name in beforehand
                ranking = _rank(need.group, asked, run.options.select, beforehand=order_needed)
                rankings[need.name] = ranking
                if trials is not None and need.group.size > 1:
                    groups_damage[need.name] = trials.group(need.group, ranking.first_order, ranking.curve, asked)
            else:
                problems = site_problems(run, need.name, moments[need.name])
                found = form_curves(problems, shapes[need.name], FormOptions.of(run.options))
                candidates[need.name] = found
                if trials is not None:
                    sites_damage[need.name] = trials.site(need.name, found, problems)
            for name in need.sites:
                if all(name not in other.sites for other in part[place + 1 :]):
                    del moments[name]
            done += 1
    run.progress(label, len(needs), len(needs))
    return Curves(
        {group.name: rankings[group.name] for group in groups},
        {name: candidates[name] for name in shapes},
        Sensitivity(groups_damage, sites_damage),
    )


def _rank(
    group: ChannelGroup, asked: Mapping[str, Sequence[Regression]], options: SelectOptions, *, beforehand: bool
) -> Ranking:
    problems = [problem for regressions in asked.values() for problem in regressions]
    count = None
    if options.selector == "lasso" and options.lasso == "fixed":
        count = max(1, len(select(problems, group.size, None, options).kept))
    by_half = [removal_order([problem.half(half) for problem in problems], group.size, options) for half in (0, 1)]
    curve = held_out_curve(problems, (by_half[0], by_half[1]))
    order = removal_order(problems, group.size, options) if beforehand else by_half[0]
    return Ranking(order, by_half[0], curve, count)


def _save(checkpoint: Checkpoint, curves: Curves) -> None:
    arrays: dict[str, Array] = {}
    for position, ranking in enumerate(curves.rankings.values()):
        arrays[f"order.{position}"], arrays[f"curve.{position}"] = ranking.order, ranking.curve
        arrays[f"first.{position}"] = ranking.first_order
    for position, found in enumerate(curves.candidates.values()):
        arrays[f"forms.{position}"], arrays[f"errors.{position}"] = found.parts, found.error
    damage = curves.sensitivity
    facts = {
        "counts": [ranking.count for ranking in curves.rankings.values()],
        "groups": dict(damage.groups),
        "sites": {name: dict(kinds) for name, kinds in damage.sites.items()},
    }
    checkpoint.save("curves", arrays, facts)


def _load(checkpoint: Checkpoint, groups: Sequence[ChannelGroup], sites: Sequence[str]) -> Curves | None:
    """Load the curves of an earlier run; None if there are none for these groups and sites."""
    saved = checkpoint.load("curves")
    try:
        return None if saved is None else _read(saved, groups, sites)
    except (KeyError, ValueError, TypeError):
        return None


def _read(saved: Saved, groups: Sequence[ChannelGroup], sites: Sequence[str]) -> Curves:
    arrays, facts = saved.arrays, saved.facts
    rankings = {}
    for position, (group, count) in enumerate(zip(groups, facts["counts"], strict=True)):
        order, first, curve = (arrays[f"{name}.{position}"] for name in ("order", "first", "curve"))
        if order.shape != (group.size,) or first.shape != order.shape or curve.shape != (group.size + 1,):
            raise ValueError("curves of other groups")
        rankings[group.name] = Ranking(order, first, curve, count)
    candidates = {
        name: Candidates(arrays[f"forms.{position}"], arrays[f"errors.{position}"])
        for position, name in enumerate(sites)
    }
    return Curves(rankings, candidates, Sensitivity(facts["groups"], facts["sites"]))
