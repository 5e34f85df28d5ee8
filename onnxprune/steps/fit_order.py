"""Order in which sites are fitted, decided before anything runs.

One step is one tensor of the network and all sites that read it, or the tensors that a site with shared weights reads.
A group of channels whose consumers all read the same is selected in that step, on what the compressed network makes
there; a group whose consumers read different tensors (a residual stream) is selected before the first step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.branches import sum_of
from onnxprune.graph.channels.sites import is_depthwise
from onnxprune.graph.model.net import is_constant, values_of
from onnxprune.graph.model.patterns import meant
from onnxprune.planning.assignment import Assignment
from onnxprune.solve import RELU, Activation, clip, leaky_relu
from onnxprune.steps.prepare import Prepared

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from onnxprune.graph.channels.branches import Branch
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.model.net import Net
    from onnxprune.graph.model.schedule import Schedule

__all__ = ["FitStep", "Target", "early_groups", "fit_order", "last_sites"]


@dataclass(frozen=True)
class Target:
    """Target of the fit of a site, at one of the nodes with its weights.

    Attributes:
        site: the layer.
        use: the node, as a site of its own.
        tensor: target tensor of the original network: the site's own output, or the residual sum that it is added to.
        shortcut: other operand of that sum in the compressed network, known when the site is fitted; None without a
            sum.
        activation: piecewise linear activation that is the only reader of `tensor`; None if there is none.
    """

    site: Site
    use: Site
    tensor: str
    shortcut: str | None
    activation: Activation | None


@dataclass(frozen=True)
class FitStep:
    """Tensors, the sites that read them, and the groups of channels that are selected on them.

    Attributes:
        sources: names of the tensors: one, or one for each use of a site with shared weights.
        cut: place in the order of execution to which the compressed network has run.
        targets: sites to fit, with their targets, use by use.
        groups: groups of channels on `sources`, in topological order.
    """

    sources: tuple[str, ...]
    cut: int
    targets: tuple[Target, ...]
    groups: tuple[ChannelGroup, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites to fit."""
        return tuple(dict.fromkeys(target.site for target in self.targets))


def last_sites(net: Net, order: Schedule, channels: ChannelMap) -> frozenset[str]:
    """Return the names of the sites behind which no other site is fitted, so that nothing corrects their errors."""
    nodes = {node.name: node for node in net.nodes}
    fitted = {use.name for site in channels.sites.values() if not is_depthwise(net, site) for use in site.uses}
    before: set[str] = set()  # tensors in front of a fitted site
    last = set()
    for name in reversed(order.order):
        node = nodes[name]
        leads = any(tensor.name in before for tensor in node.outputs)
        if name in fitted and not leads:
            last.add(name)
        if leads or name in fitted:
            before.update(tensor.name for tensor in node.inputs)
    return frozenset(channels.sites_of(last))


def early_groups(
    channels: ChannelMap, groups: Iterable[ChannelGroup], branches: Iterable[Branch] = ()
) -> tuple[ChannelGroup, ...]:
    """Return the groups to select before the first step: their consumers read different tensors, or are all in
    residual branches that are removed."""
    gone = {name for branch in branches for name in branch.nodes}
    return tuple(
        group
        for group in groups
        if len({channels.sites[name].sources for name in group.consumers}) > 1 or gone.issuperset(group.consumers)
    )


def fit_order(run: Prepared, assignment: Assignment) -> tuple[FitStep, ...]:
    """Return the steps in which an assignment is carried out, in order of execution.

    Nothing in a removed residual branch is fitted. With ``refit.downstream``, sites whose inputs change although none
    of their channels is removed are fitted, too, unless they are excluded.
    """
    net, order, channels, options = run.net, run.order, run.channels, run.options
    counts, branches = assignment.counts, [run.cost.branches[name] for name in assignment.removed]
    shrinking = [g for g in channels.prunable if 0 < counts.get(g.name, g.size) < g.size]
    downstream = options.refit.downstream and options.refit.refit != "none"
    frozen = channels.sites_of(meant(options.exclude, channels.uses)) | run.network.forbidden.keys()
    gone = {name for branch in branches for name in branch.nodes}
    consumers = {name for group in shrinking for name in group.consumers}.union(assignment.forms)
    first = early_groups(channels, shrinking, branches)
    changed = _changed_tensors(run, shrinking, first, {*assignment.forms, *gone})
    early = {group.name for group in first}
    readers: dict[tuple[str, ...], list[Site]] = defaultdict(list)
    for site in channels.sites.values():
        reached = any(source in changed for source in site.sources)
        wanted = site.name in consumers or (downstream and reached and site.name not in frozen)
        if wanted and not gone.issuperset(use.name for use in site.uses) and not is_depthwise(net, site):
            readers[site.sources].append(site)
    nodes = {node.name: node for node in net.nodes}
    steps = []
    for sources, sites in readers.items():
        cut = min(order.index(use.name) for site in sites for use in site.uses)
        groups = tuple(
            group
            for group in shrinking
            if group.name not in early and channels.sites[group.consumers[0]].sources == sources
        )
        targets = tuple(target for site in sites for target in _targets(net, nodes, order, site, cut))
        steps.append(FitStep(sources, cut, targets, groups))
    return tuple(sorted(steps, key=lambda step: (step.cut, step.sources)))


def _changed_tensors(
    run: Prepared, shrinking: Iterable[ChannelGroup], first: Iterable[ChannelGroup], reformed: Collection[str]
) -> set[str]:
    """Find the tensors that depend on a site that loses inputs or is decomposed, or on a group in `first`."""
    uses = run.channels.sites
    starts = {use.name for group in shrinking for name in group.consumers for use in uses[name].uses}.union(reformed)
    for group in first:
        starts.update(group.producers)
    nodes = {node.name: node for node in run.net.nodes}
    changed: set[str] = set()
    for name in run.order.order:
        node = nodes[name]
        if name in starts or any(tensor.name in changed for tensor in node.inputs):
            changed.update(tensor.name for tensor in node.outputs)
    return changed


def _targets(net: Net, nodes: dict[str, Any], order: Schedule, site: Site, cut: int) -> tuple[Target, ...]:
    """Return the targets of a site, one for each node with its weights.

    Where the nodes are followed by different activations, `Target.activation` of all of them is None.
    """
    found = [_target(net, nodes, order, (site, use), cut) for use in site.uses]
    alike = len({target.activation for target in found}) == 1
    return tuple(target if alike else replace(target, activation=None) for target in found)


def _target(net: Net, nodes: dict[str, Any], order: Schedule, site_use: tuple[Site, Site], cut: int) -> Target:
    use = site_use[1]
    answer = nodes[use.add or use.name].outputs[0]
    add = sum_of(net, answer)
    if add is not None:
        other = next(tensor for tensor in add.inputs if tensor is not answer)
        if order.made.get(other.name, cut) < cut:
            return Target(*site_use, add.outputs[0].name, other.name, _activation(net, add.outputs[0]))
    return Target(*site_use, answer.name, None, _activation(net, answer))


def _activation(net: Net, tensor: Any) -> Activation | None:
    """Return the piecewise linear activation that all readers of a tensor compute; None if there is none."""
    if not tensor.outputs or tensor.name in net.output_names:
        return None
    found = {_READ.get(reader.op, lambda _: None)(reader) for reader in tensor.outputs}
    return found.pop() if len(found) == 1 else None


def _clip(node: Any) -> Activation | None:
    bounds = []
    for position, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        given = node.inputs[position] if len(node.inputs) > position and not node.inputs[position].is_empty() else None
        if given is not None and not is_constant(given):
            return None
        bounds.append(float(node.attrs.get(name, default) if given is None else values_of(given).reshape(-1)[0]))
    return clip(*bounds) if bounds[0] < bounds[1] else None


_READ: dict[str, Callable[[Any], Activation | None]] = {
    "Relu": lambda _: RELU,
    "Clip": _clip,
    "LeakyRelu": lambda node: leaky_relu(float(node.attrs.get("alpha", 0.01))),
}
