"""Probe: in which order each group would give up its channels, and at what error, on the original network.

One pass over the calibration inputs gathers the second moments of what each consumer reads; what it answers follows
in closed form. Where the moments of all consumers do not fit in memory together, there are as many passes as
needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.sites import matrix
from onnxprune.runtime.capture import output_extents, patches
from onnxprune.runtime.frontier import Frontier
from onnxprune.runtime.store import TensorStore
from onnxprune.solve import Regression, error_curve, obs, removal_order, select
from onnxprune.stages.gather import SiteMeter, moment_bytes, unit_of_column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.graph.channels import ChannelGroup
    from onnxprune.graph.sites import Site
    from onnxprune.solve import Moments, SelectOptions
    from onnxprune.stages.checkpoint import Checkpoint
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, Any]

__all__ = ["Ranking", "load_rankings", "probe", "save_rankings"]


@dataclass(frozen=True)
class Ranking:
    """What is known of a group before anything is removed.

    Attributes:
        order: (size,) int64 channels, first removed first.
        curve: (size + 1,) float64, relative error of all consumers together when so many are gone and the rest is
            refitted.
        count: channels that a selector without a budget keeps; else None.
    """

    order: Array
    curve: Array
    count: int | None = None


def probe(work: Workload, groups: Sequence[ChannelGroup], options: SelectOptions) -> dict[str, Ranking]:
    """Rank the channels of each group: by name."""
    rankings: dict[str, Ranking] = {}
    parts = list(_parts(work, groups))
    for index, part in enumerate(parts):
        moments = _gather(work, part, index, len(parts))
        for done, group in enumerate(part):
            work.progress("rank channels", len(rankings), len(groups))
            rankings[group.name] = _rank(work, group, moments, options)
            for name in group.consumers:
                if all(name not in other.consumers for other in part[done + 1 :]):
                    del moments[name]
    work.progress("rank channels", len(groups), len(groups))
    return {group.name: rankings[group.name] for group in groups}


def _parts(work: Workload, groups: Sequence[ChannelGroup]) -> Iterable[list[ChannelGroup]]:
    """Groups whose consumers' moments fit in half of the memory together."""
    part: list[ChannelGroup] = []
    held: dict[str, int] = {}
    for group in groups:
        needed = {name: _bytes(work, name) for name in group.consumers}
        if part and sum({**held, **needed}.values()) > work.memory // 2:
            yield part
            part, held = [], {}
        part.append(group)
        held.update(needed)
    if part:
        yield part


def _bytes(work: Workload, name: str) -> int:
    weight, _ = matrix(work.net, work.channels.sites[name])
    # Two halves of moments for each; the solver's own room is taken once, by the group that is ranked.
    return int(weight.shape[0]) * moment_bytes(weight.shape[2]) // 3


def _gather(work: Workload, groups: Sequence[ChannelGroup], index: int, passes: int) -> dict[str, tuple[Moments, ...]]:
    sites = {name: work.channels.sites[name] for group in groups for name in group.consumers}
    meters = {}
    for name, site in sites.items():
        weight, _ = matrix(work.net, site)
        meters[name] = SiteMeter(weight.shape[0], weight.shape[2], 0)
    sources = dict.fromkeys(site.source for site in sites.values())
    label = "sample activations" if passes == 1 else f"sample activations ({index + 1} of {passes})"
    stop = 1 + max(work.order.made[source] for source in sources)
    with TensorStore(work.memory // 2, work.scratch) as store:
        frontier = Frontier("original", work.engine, work.order, work.calibration, work.batches, store)
        with frontier.moving(work.net, stop, sources) as advance:
            for number in range(len(work.batches)):
                work.progress(label, number, len(work.batches))
                tensors = advance(number)
                for name, site in sites.items():
                    _add(work, meters[name], site, tensors[site.source], number)
                for source in set(tensors):
                    store.drop(("original", number, source))
    work.progress(label, len(work.batches), len(work.batches))
    return {name: meter.finish() for name, meter in meters.items()}


def _add(work: Workload, meter: SiteMeter, site: Site, source: Array, number: int) -> None:
    batch = work.batches[number]
    where = work.positions.draw(batch.samples[: batch.real], output_extents(site, source.shape))
    x = patches(source[: batch.real], site, where)
    meter.add(x, None, work.halves(batch, len(x)))


def _rank(
    work: Workload, group: ChannelGroup, moments: dict[str, tuple[Moments, ...]], options: SelectOptions
) -> Ranking:
    alive = work.channels.all_alive()
    problems = []
    for name in group.consumers:
        site = work.channels.sites[name]
        weight, bias = matrix(work.net, site)
        for part, gathered in enumerate(moments[name]):
            b = bias.reshape(weight.shape[0], -1)[part]
            unit = unit_of_column(work.channels, site, group, alive, weight.shape[2])
            problems.append(Regression(gathered.with_response(weight[part], b), weight[part], b, unit))
    if options.selector == "obs":
        elimination = obs(problems, group.size)
        return Ranking(elimination.order, elimination.curve)
    count = None
    if options.selector == "lasso" and options.lasso == "fixed":
        count = max(1, len(select(problems, group.size, None, options).kept))
    order = removal_order(problems, group.size, options)
    return Ranking(order, error_curve(problems, order), count)


def save_rankings(checkpoint: Checkpoint, groups: Sequence[ChannelGroup], rankings: Mapping[str, Ranking]) -> None:
    """Keep rankings for the next run."""
    arrays: dict[str, Array] = {}
    for position, group in enumerate(groups):
        ranking = rankings[group.name]
        arrays[f"order.{position}"], arrays[f"curve.{position}"] = ranking.order, ranking.curve
        arrays[f"count.{position}"] = np.array(-1 if ranking.count is None else ranking.count)
    checkpoint.save("rankings", arrays)


def load_rankings(checkpoint: Checkpoint, groups: Sequence[ChannelGroup]) -> dict[str, Ranking] | None:
    """Rankings that an earlier run kept; None if there are none for these groups."""
    arrays = checkpoint.load("rankings")
    if arrays is None or len(arrays) != 3 * len(groups):
        return None
    rankings = {}
    for position, group in enumerate(groups):
        order, curve = arrays[f"order.{position}"], arrays[f"curve.{position}"]
        if order.shape != (group.size,) or curve.shape != (group.size + 1,):
            return None
        count = int(arrays[f"count.{position}"])
        rankings[group.name] = Ranking(order, curve, None if count < 0 else count)
    return rankings
