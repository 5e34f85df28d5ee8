"""Choice of the groups, sites and branches to compress, by the user's patterns and by what can be fitted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError
from onnxprune.graph.channels.sites import find_sites, is_depthwise, matrix
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.normalize import with_shapes
from onnxprune.graph.model.patterns import meant, meant_by
from onnxprune.steps.room import moment_bytes, solving_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from onnxprune.graph.channels.branches import Branch
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.model.net import Dim, Net
    from onnxprune.options.planning import PlanOptions
    from onnxprune.planning.cost import CostModel

__all__ = ["Eligible", "eligible", "eligible_branches", "eligible_sites", "forbidden_sites"]


def forbidden_sites(
    net: Net,
    shapes: Mapping[str, Sequence[int]],
    memory: int,
    by_sample: Callable[[Sequence[str]], Collection[str]] = frozenset,
) -> dict[str, str]:
    """Find the sites that cannot be fitted; return the reasons by name.

    Args:
        net: the network.
        shapes: shapes of its inputs for two samples, or for the batch that the model fixes.
        memory: bytes for the moments of a site and for solving.
        by_sample: function that returns, of tensors with several entries of the first axis for each sample (frames of
            a video, windows of a map), those that have them sample by sample; default: all do.
    """
    batch = max(int(shape[0]) for shape in shapes.values())
    concrete = with_shapes(net, shapes).tensors()
    sites = find_sites(net)
    read = {name: dims(concrete[name]) if name in concrete else None for site in sites for name in site.sources}
    several = [name for name, shape in read.items() if shape and _is_multiple(shape[0], batch)]
    merged = by_sample(several)
    reasons = {}
    for site in sites:
        shapes_read = [read[source] for source in site.sources]
        firsts = [shape[0] if shape else None for shape in shapes_read]
        if any(size != batch and name not in merged for name, size in zip(site.sources, firsts, strict=True)):
            reasons[site.name] = f"{site.op} '{site.name}': the first axis of its input is not the batch"
            continue
        if not all(isinstance(size, int) for shape in shapes_read for size in shape or ()):
            reasons[site.name] = f"{site.op} '{site.name}': its size does not follow from the input shapes"
            continue
        weight, _ = matrix(net, site)
        needed = moment_bytes(weight.shape, answered=True) + solving_bytes([weight.shape])
        if needed > memory and not is_depthwise(net, site):
            reasons[site.name] = (
                f"{site.op} '{site.name}': its {weight.shape[2]} inputs per output need {needed / (1 << 30):.1f} GB, "
                f"--memory leaves {memory / (1 << 30):.1f} GB for it"
            )
    return reasons


def _is_multiple(size: Dim, batch: int) -> bool:
    return isinstance(size, int) and size > batch and not size % batch


@dataclass(frozen=True)
class Eligible:
    """Groups and layers that may be compressed.

    Attributes:
        groups: groups that may lose channels.
        skipped: reasons for the other prunable groups, by name.
        sites: sites that may be decomposed.
        branches: groups of the residual branches that may be removed.
    """

    groups: tuple[ChannelGroup, ...]
    skipped: Mapping[str, str]
    sites: tuple[Site, ...]
    branches: frozenset[str]

    def nothing(self, channels: ChannelMap) -> str:
        """Describe in one line why no group may be pruned."""
        reasons = Counter(self.skipped[g.name] if g.name in self.skipped else g.pins[0] for g in channels.groups)
        if not reasons:
            return "no layer produces channels that another layer consumes: there is nothing to prune"
        reason, times = reasons.most_common(1)[0]
        return (
            f"no group of channels may be pruned; reason for {times} of {reasons.total()} groups: {reason}; "
            "see the other reasons with --dry-run"
        )


def eligible(
    net: Net,
    cost: CostModel,
    channels: ChannelMap,
    options: PlanOptions,
    forbidden: Mapping[str, str],
    memory: int,
) -> Eligible:
    """Find the groups, layers and branches that may be compressed, by the user's patterns and the memory limit.

    Args:
        net: the network.
        cost: its cost model.
        channels: its channel map.
        options: ``include``, globs of the only layers that may change, and ``exclude``, globs of layers to keep.
        forbidden: reasons why sites cannot be fitted, by name.
        memory: bytes for the moments of all consumers of one group, and for solving with them.

    Raises:
        UsageError: a pattern matches no layer.
    """
    for flag, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not meant_by(pattern, channels.uses):
                some = ", ".join(repr(name) for name in list(channels.sites)[:3])
                raise UsageError(f"{flag} {pattern!r} matches no layer, expected a node name or glob, such as {some}")
    skipped = {}
    for group in channels.prunable:
        reason = _why_not(group, channels, options) or _too_large(net, channels, group, memory)
        if reason:
            skipped[group.name] = reason
    return Eligible(
        tuple(group for group in channels.prunable if group.name not in skipped),
        skipped,
        eligible_sites(net, channels, forbidden, options.include, options.exclude),
        eligible_branches(channels, cost.branches.values(), options),
    )


def eligible_sites(
    net: Net, channels: ChannelMap, forbidden: Mapping[str, str], include: Sequence[str], exclude: Sequence[str]
) -> tuple[Site, ...]:
    """Return the sites that may be decomposed."""
    stay, named = (channels.sites_of(meant(patterns, channels.uses)) for patterns in (exclude, include))
    return tuple(
        site
        for site in channels.sites.values()
        if site.name not in forbidden
        and site.decomposable
        and not is_depthwise(net, site)
        and site.name not in stay
        and (not include or site.name in named)
    )


def eligible_branches(channels: ChannelMap, branches: Iterable[Branch], options: PlanOptions) -> frozenset[str]:
    """Return the groups of the residual branches that may be removed: no pattern keeps one of their layers."""
    layers = {*channels.uses, *channels.fixed}
    stay, named = meant(options.exclude, layers), meant(options.include, layers)
    return frozenset(
        branch.group
        for branch in branches
        if all(name not in stay and (not options.include or name in named) for name in branch.nodes if name in layers)
    )


def _too_large(net: Net, channels: ChannelMap, group: ChannelGroup, memory: int) -> str:
    shapes = [matrix(net, channels.sites[name])[0].shape for name in group.consumers]
    needed = sum(moment_bytes(shape, answered=False) for shape in shapes) + solving_bytes(shapes)
    if needed <= memory:
        return ""
    return (
        f"its {len(shapes)} consumers together need {needed / (1 << 20):.0f} MB, --memory leaves "
        f"{memory / (1 << 20):.0f} MB for them"
    )


def _why_not(group: ChannelGroup, channels: ChannelMap, options: PlanOptions) -> str:
    layers = channels.uses
    for pattern in options.exclude:
        stay = meant_by(pattern, layers)
        stay |= channels.sites_of(stay)
        for name in (*group.producers, *group.consumers):
            if name in stay:
                return f"'{name}' matches --exclude {pattern}"
    named = meant(options.include, layers)
    named |= {name for name in layers if channels.owner[name] in channels.sites_of(named)}
    for name in group.producers if options.include else ():
        if name not in named:
            return f"'{name}' matches no --include"
    return ""
