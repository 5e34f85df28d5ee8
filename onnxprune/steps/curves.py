"""Probe of the original network: removal order of each group's channels, forms of each layer, and their errors.

One pass over the calibration inputs gathers the second moments of the inputs of each consumer; those of its outputs
follow in closed form. If the moments of all consumers do not fit in memory together, several passes gather them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import moves
from onnxprune.engine.capture import output_extents, patches
from onnxprune.engine.frontier import Frontier
from onnxprune.engine.store import TensorStore
from onnxprune.graph.channels.forms import Forms
from onnxprune.graph.channels.sites import matrix
from onnxprune.planning.candidates import KINDS, Candidates, Kind
from onnxprune.planning.sensitivity import Sensitivity
from onnxprune.solve import Regression, held_out_curve, removal_order, select
from onnxprune.steps.fit_order import early_groups
from onnxprune.steps.form_curves import survey
from onnxprune.steps.room import Room, moment_bytes, solving_bytes
from onnxprune.steps.sensitivity import Trials
from onnxprune.steps.statistics import SiteMeter, channel_of_column, unit_of_column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.graph.channels.sites import Site
    from onnxprune.options.solve import SelectOptions
    from onnxprune.solve import Moments
    from onnxprune.steps.checkpoint import Checkpoint
    from onnxprune.steps.form_curves import SurveyOptions
    from onnxprune.steps.workload import Workload

    Array = np.ndarray[Any, Any]

__all__ = [
    "Job",
    "Probed",
    "Ranking",
    "gathered",
    "group_problems",
    "load_probed",
    "parts_of",
    "probe",
    "save_probed",
    "site_problems",
]

_MOST_RETURNED = 128 << 20  # bytes returned by one run; more gain nothing


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


@dataclass(frozen=True)
class Probed:
    """Results of the probe, before anything is changed.

    Attributes:
        rankings: per group name.
        candidates: forms and their errors, per name of a site that may be decomposed.
        sensitivity: sensitivity of groups and sites; empty if it was not requested.
    """

    rankings: dict[str, Ranking]
    candidates: dict[str, Candidates]
    sensitivity: Sensitivity


def probe(
    work: Workload,
    groups: Sequence[ChannelGroup],
    options: SelectOptions,
    shapes: Mapping[str, LayerShape] | None = None,
    survey_options: SurveyOptions | None = None,
    *,
    sensitivity: bool = False,
) -> Probed:
    """Rank the channels of each group, and survey the forms of sites.

    Args:
        work: the original and the inputs.
        groups: groups to rank.
        options: options of the selection.
        shapes: shapes of the sites to survey, by name.
        survey_options: options of the survey; required if `shapes` is not empty.
        sensitivity: also measure by trials how errors change the network's outputs.
    """
    rankings: dict[str, Ranking] = {}
    candidates: dict[str, Candidates] = {}
    groups_damage: dict[str, float] = {}
    sites_damage: dict[str, dict[Kind, float]] = {}
    trials = Trials(work, len(groups) + len(KINDS) * len(shapes or ())) if sensitivity else None
    jobs = [Job(group.name, group.consumers, group) for group in groups]
    jobs += [Job(name, (name,), None) for name in shapes or {}]
    beforehand = {group.name for group in early_groups(work.channels, groups)}
    jobs.sort(key=lambda job: min(work.order.index(name) for name in job.needs))
    parts = list(parts_of(work, jobs))
    done = 0
    for index, part in enumerate(parts):
        moments = gathered(work, part, index, len(parts))
        for place, job in enumerate(part):
            work.progress("rank channels and forms" if shapes else "rank channels", done, len(jobs))
            if job.group is not None:
                asked = group_problems(work, job.group, moments)
                ranking = rankings[job.name] = _rank(job.group, asked, options, beforehand=job.name in beforehand)
                if trials is not None and job.group.size > 1:
                    groups_damage[job.name] = trials.group(job.group, ranking.first_order, ranking.curve, asked)
            elif shapes is not None and survey_options is not None:
                problems = site_problems(work, job.name, moments[job.name])
                found = candidates[job.name] = survey(problems, shapes[job.name], survey_options)
                if trials is not None:
                    sites_damage[job.name] = trials.site(job.name, found, problems)
            for name in job.needs:
                if all(name not in other.needs for other in part[place + 1 :]):
                    del moments[name]
            done += 1
    work.progress("rank channels and forms" if shapes else "rank channels", len(jobs), len(jobs))
    return Probed(
        {g.name: rankings[g.name] for g in groups},
        {name: candidates[name] for name in shapes or {}},
        Sensitivity(groups_damage, sites_damage),
    )


@dataclass(frozen=True)
class Job:
    """Group to rank or site to survey (``group`` is None), with the names of the sites whose moments it needs."""

    name: str
    needs: tuple[str, ...]
    group: ChannelGroup | None


def parts_of(work: Workload, jobs: Sequence[Job]) -> Iterable[list[Job]]:
    """Split the jobs into parts whose moments fit in memory together with the arrays of solving one of them."""
    part: list[Job] = []
    held: dict[str, int] = {}
    solving = 0
    for job in jobs:
        shapes = {name: matrix(work.net, work.channels.sites[name])[0].shape for name in job.needs}
        needed = {name: moment_bytes(shape, answered=False) for name, shape in shapes.items()}
        most = max(solving, solving_bytes(shapes.values()))
        if part and sum({**held, **needed}.values()) + most > Room(work.memory).solving:
            yield part
            part, held, most = [], {}, solving_bytes(shapes.values())
        part.append(job)
        held.update(needed)
        solving = most
    if part:
        yield part


def gathered(work: Workload, jobs: Sequence[Job], index: int, passes: int) -> dict[str, tuple[Moments, ...]]:
    """Gather the moments of the inputs of the jobs' sites in one pass over the data, pass `index` of `passes`."""
    sites = {name: work.channels.sites[name] for job in jobs for name in job.needs}
    meters = {}
    for name, site in sites.items():
        weight, _ = matrix(work.net, site)
        meters[name] = SiteMeter(weight.shape[0], weight.shape[2], 0)
    sources = dict.fromkeys(site.source for site in sites.values())
    label = "sample activations" if passes == 1 else f"sample activations ({index + 1} of {passes})"
    room = Room(work.memory)
    # The outputs of a run are held twice for a moment: by the engine, and as our arrays.
    returned = min(room.running // 2, _MOST_RETURNED) // len(work.batches[0].samples)
    planned = moves(work.order, work.sizes, sources, returned)
    total = len(planned) * len(work.batches)
    with TensorStore(room.held, work.scratch) as store:
        frontier = Frontier("original", work.engine, work.order, work.calibration, work.batches, store)
        for place, move in enumerate(planned):
            here = {name: site for name, site in sites.items() if site.source in move.sources}
            with frontier.moving(work.net, move.cut, move.sources) as advance:
                for number in range(len(work.batches)):
                    work.progress(label, place * len(work.batches) + number, total)
                    tensors = advance(number)
                    for name, site in here.items():
                        _add(work, meters[name], site, tensors[site.source], number)
                    if move is planned[-1]:
                        for name in tensors:
                            store.drop((frontier.name, number, name))
                    del tensors  # before the next ones are made
    work.progress(label, total, total)
    return {name: meter.finish() for name, meter in meters.items()}


def _add(work: Workload, meter: SiteMeter, site: Site, source: Array, number: int) -> None:
    batch = work.batches[number]
    where = work.positions.draw(batch.samples[: batch.real], output_extents(site, source.shape), meter.columns)
    x = patches(source[: batch.real], site, where)
    meter.add(x, None, work.halves(batch, len(x)))


def group_problems(
    work: Workload, group: ChannelGroup, moments: Mapping[str, tuple[Moments, ...]]
) -> dict[str, list[Regression]]:
    """Make the regressions of a group's consumers on their own outputs, by name; units are the group's channels."""
    alive = work.channels.all_alive()
    found: dict[str, list[Regression]] = {}
    for name in group.consumers:
        site = work.channels.sites[name]
        found[name] = [
            replace(problem, unit=unit_of_column(work.channels, site, group, alive, len(problem.unit)))
            for problem in site_problems(work, name, moments[name])
        ]
    return found


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


def site_problems(work: Workload, name: str, moments: Sequence[Moments]) -> list[Regression]:
    """Make the regressions of a site on its own output, one per group of a grouped conv; units are input channels."""
    site = work.channels.sites[name]
    weight, bias = matrix(work.net, site)
    unit, parts = channel_of_column(site, weight.shape[2]), bias.reshape(weight.shape[0], -1)
    return [
        Regression(gathered.with_response(weight[part], parts[part]), weight[part], parts[part], unit)
        for part, gathered in enumerate(moments)
    ]


def save_probed(checkpoint: Checkpoint, probed: Probed) -> None:
    """Save the results for the next run."""
    arrays: dict[str, Array] = {}
    for position, ranking in enumerate(probed.rankings.values()):
        arrays[f"order.{position}"], arrays[f"curve.{position}"] = ranking.order, ranking.curve
        arrays[f"first.{position}"] = ranking.first_order
        arrays[f"count.{position}"] = np.array(-1 if ranking.count is None else ranking.count)
    for position, found in enumerate(probed.candidates.values()):
        arrays[f"forms.{position}"] = found.forms.array()
        arrays[f"errors.{position}"] = found.error
    damage = probed.sensitivity
    arrays["damage.groups"] = np.array([damage.groups.get(name, np.nan) for name in probed.rankings])
    kinds = [damage.sites.get(name, {}) for name in probed.candidates]
    arrays["damage.sites"] = np.array([[of.get(kind, np.nan) for kind in KINDS] for of in kinds]).reshape(
        -1, len(KINDS)
    )
    checkpoint.save("probed", arrays)


def load_probed(checkpoint: Checkpoint, groups: Sequence[ChannelGroup], sites: Sequence[str]) -> Probed | None:
    """Load the results of an earlier run; None if there are none for these groups and sites."""
    arrays = checkpoint.load("probed")
    if arrays is None or len(arrays) != 4 * len(groups) + 2 * len(sites) + 2:
        return None
    rankings, candidates = {}, {}
    for position, group in enumerate(groups):
        order, curve = arrays[f"order.{position}"], arrays[f"curve.{position}"]
        first = arrays[f"first.{position}"]
        if order.shape != (group.size,) or first.shape != order.shape or curve.shape != (group.size + 1,):
            return None
        count = int(arrays[f"count.{position}"])
        rankings[group.name] = Ranking(order, first, curve, None if count < 0 else count)
    for position, name in enumerate(sites):
        candidates[name] = Candidates(Forms.from_array(arrays[f"forms.{position}"]), arrays[f"errors.{position}"])
    of_groups, of_sites = arrays["damage.groups"], arrays["damage.sites"]
    if of_groups.shape != (len(groups),) or of_sites.shape != (len(sites), len(KINDS)):
        return None
    sensitivity = Sensitivity(
        {group.name: float(value) for group, value in zip(groups, of_groups, strict=True)},
        {name: dict(zip(KINDS, row.tolist(), strict=True)) for name, row in zip(sites, of_sites, strict=True)},
    )
    return Probed(rankings, candidates, sensitivity)
