"""Channels that must be removed together: slots, ties and connected components.

Every axis of known size of every value, weights included, has slots. The rules tie slots; the slots tied directly or
indirectly are a *unit*. Units with equally many slots on each axis form a `ChannelGroup`, from which any number can be
removed. An axis that a node touches and its rule does not tie is pinned, with the node and the reason: nothing is
guessed.

The idea of coupled parameters follows Fang et al., "DepGraph" (CVPR 2023, arXiv 2301.12900).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.graph.channels.rules import MOST_SLOTS, Axis, NodeView, Pin, Tie, rule_for
from onnxprune.graph.channels.sites import Site, find_sites
from onnxprune.graph.model.net import LAYERS, captured_names, dims, revision_of
from onnxprune.graph.model.schedule import unordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from onnxprune.graph.model.net import Net

    IntArray = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["ChannelGroup", "ChannelMap", "channel_map"]

_MOST_REASONS = 3
_MOST_SLOTS_IN_ALL = 1 << 24
"""Slots that are followed; where there are more, the longest axes are not: they hold samples or pixels."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which any number can be removed, or the reasons why none can be.

    Attributes:
        name: unique name: the first node, in topological order, that produces these channels and no other group's; if
            each produces another group's, too (a conv added to a concatenation), the first with a number behind it.
        units: unit of each channel, (size,) int64.
        producers: names of the layers that produce the channels, in topological order.
        consumers: names of the sites that consume the channels, in topological order.
        pins: reasons why no channel can be removed; empty if the group is prunable.
    """

    name: str
    units: IntArray
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    pins: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.units)


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """Units and groups of one graph.

    Attributes:
        groups: all groups, in topological order of their first producers.
        labels: unit of each slot: per axis (size,) int64.
        count: number of units.
        sites: all sites of the graph by name of their first node.
        fixed: reasons why layers are not sites, by name: their weights are not changed.
    """

    groups: tuple[ChannelGroup, ...]
    labels: Mapping[Axis, IntArray]
    count: int
    sites: Mapping[str, Site]
    fixed: Mapping[str, str]

    @cached_property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """Groups from which channels can be removed."""
        return tuple(group for group in self.groups if not group.pins)

    @cached_property
    def uses(self) -> Mapping[str, Site]:
        """The nodes of all sites, each as a site of its own, by name."""
        return {use.name: use for site in self.sites.values() for use in site.uses}

    @cached_property
    def owner(self) -> Mapping[str, str]:
        """Name of the site of each node with its weights."""
        return {use.name: site.name for site in self.sites.values() for use in site.uses}

    def sites_of(self, nodes: Iterable[str]) -> set[str]:
        """Return the names of the sites of some nodes; names of other nodes are left out."""
        return {self.owner[name] for name in nodes if name in self.owner}

    def nodes_of(self, group: ChannelGroup) -> set[str]:
        """Return the names of all nodes that produce or consume the channels of a group."""
        return {*group.producers, *(use.name for name in group.consumers for use in self.sites[name].uses)}

    @cached_property
    def by_tensor(self) -> Mapping[str, tuple[Axis, ...]]:
        """Axes of known size of every tensor."""
        axes: dict[str, list[Axis]] = defaultdict(list)
        for axis in self.labels:
            axes[axis.tensor].append(axis)
        return {tensor: tuple(found) for tensor, found in axes.items()}

    def all_alive(self) -> Mask:
        """Return the mask of all units: (count,) bool, all True."""
        return np.ones(self.count, dtype=np.bool_)

    def alive_slots(self, axis: Axis, alive: Mask) -> IntArray:
        """Return the original slots that remain on an axis: (k,) int64."""
        return np.flatnonzero(alive[self.labels[axis]]).astype(np.int64)

    def unit_of_slots(self, axis: Axis, group: ChannelGroup, alive: Mask) -> IntArray:
        """Return for each remaining slot of an axis the index of its channel in the group's `units`, or -1."""
        labels = self.labels[axis]
        place = np.full(self.count, -1, dtype=np.int64)
        place[group.units] = np.arange(group.size)
        return place[labels[alive[labels]]]

    def kept_after(self, axis: Axis, before: Mask, after: Mask) -> IntArray | None:
        """Return the positions, among the slots alive in `before`, of the slots alive in `after`; None if all are."""
        labels = self.labels[axis]
        present = labels[before[labels]]
        kept = np.flatnonzero(after[present]).astype(np.int64)
        return None if len(kept) == len(present) else kept


def channel_map(net: Net, *, forbidden: Mapping[str, str] | None = None) -> ChannelMap:
    """Find units and groups.

    Args:
        net: the graph, shapes inferred.
        forbidden: reasons why no input channel of a site can be removed, by name of the site.
    """
    slots = _Slots(net)
    pins: list[Pin] = list(_boundary_pins(net))
    ties: list[Tie] = []
    sites = {site.name: site for site in find_sites(net)}
    uses = {use.name: use for site in sites.values() for use in site.uses}
    bodies = (name for node in net.nodes for name in captured_names(node))
    protected = frozenset(net.output_names).union(bodies)
    read = {node.name: _read_node(net, node, slots, protected) for node in net.nodes}
    fixed = {
        node.name: _why_no_site(net, node)
        for node in net.nodes
        if node.op in LAYERS and len(node.inputs) > 1 and node.name not in uses
    }
    weights = list(_weight_pins(net, fixed, forbidden or {}))
    pinned = _pinned_choices(read, slots, [*pins, *weights])
    for node in net.nodes:
        if any(axes[0] in pinned for axes in read[node.name].choices):
            read[node.name] = _read_node(net, node, slots, protected, pinned)
        ties += read[node.name].ties
        pins += read[node.name].pins
    pins += weights
    labels, count = slots.components(ties)
    makers = {node.name: _makes(node, uses) for node in net.nodes if node.name in uses or node.name in fixed}
    known = {name: axis for name, axis in makers.items() if axis is not None and axis in labels}
    return ChannelMap(_groups(labels, count, pins, sites, known), labels, count, sites, fixed)


def _makes(node: Any, uses: Mapping[str, Site]) -> Axis | None:
    """Return the axis of a layer's constant weights that produces its output channels; None if there is none."""
    if node.name in uses:
        return uses[node.name].output_axis
    if _carries(node):
        return Axis(node.inputs[1].name, 0)
    if not isinstance(node.inputs[1], gs.Constant) or node.op not in {"Conv", "ConvTranspose"}:
        return None
    grouped = int(node.attrs.get("group", 1)) > 1
    return None if grouped else Axis(node.inputs[1].name, 0 if node.op == "Conv" else 1)


class _Slots:
    """Numbering of all slots."""

    def __init__(self, net: Net) -> None:
        self.offset: dict[Axis, int] = {}
        self.size: dict[Axis, int] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}
        shapes = {name: dims(tensor) or () for name, tensor in net.tensors().items()}
        longest = _longest_followed([size for shape in shapes.values() for size in shape if isinstance(size, int)])
        total = 0
        for name, shape in shapes.items():
            known = []
            for axis, size in enumerate(shape):
                if isinstance(size, int) and size <= longest:
                    key = Axis(name, axis)
                    self.offset[key], self.size[key] = total, size
                    known.append(key)
                    total += size
            self.axes[name] = tuple(known)
        self.total = total

    def fits(self, tie: Tie) -> bool:
        """Tell whether its slots exist: in an invalid graph they may not."""
        sides = ((tie.left, tie.left_slots), (tie.right, tie.right_slots))
        return all(
            not len(slots) or (int(slots.min()) >= 0 and int(slots.max()) < self.size[axis]) for axis, slots in sides
        )

    def components(self, ties: Iterable[Tie]) -> tuple[dict[Axis, IntArray], int]:
        left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for tie in ties:
            left.append(tie.left_slots + self.offset[tie.left])
            right.append(tie.right_slots + self.offset[tie.right])
        rows, columns = np.concatenate(left), np.concatenate(right)
        graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(self.total, self.total))
        count, label = connected_components(graph, directed=False)
        labels: IntArray = np.asarray(label, dtype=np.int64)
        return {axis: labels[start : start + self.size[axis]] for axis, start in self.offset.items()}, int(count)


def _longest_followed(sizes: list[int]) -> int:
    """Return the length up to which axes are followed, so that all of them together are within the limit."""
    ordered = sorted(sizes)
    within = int(np.searchsorted(np.cumsum(np.array(ordered, np.float64)), _MOST_SLOTS_IN_ALL, side="right"))
    return min([MOST_SLOTS, *(size - 1 for size in ordered[within : within + 1])])


class _Reading(NamedTuple):
    """Result of reading one node by its rule.

    Attributes:
        ties: ties of the axes around the node.
        pins: a pin for every axis around the node that no tie names.
        choices: runs of axes that the node merges or splits, of which the rule tied one axis.
    """

    ties: list[Tie]
    pins: list[Pin]
    choices: tuple[tuple[Axis, ...], ...] = ()


def _pinned_choices(read: Mapping[str, _Reading], slots: _Slots, pins: Iterable[Pin]) -> frozenset[Axis]:
    """Find the axes of choices that are pinned by other nodes, or tied to an axis that is, whatever is chosen."""
    chosen = {name: frozenset(axis for axes in one.choices for axis in axes) for name, one in read.items()}
    undecided = frozenset(axis for axes in chosen.values() for axis in axes)
    if not undecided:
        return undecided
    sure, certain = [], list(pins)
    for name, one in read.items():
        sure += [tie for tie in one.ties if chosen[name].isdisjoint((tie.left, tie.right))]
        certain += [pin for pin in one.pins if pin.axis not in chosen[name]]
    labels, count = slots.components(sure)
    stays = np.zeros(count, dtype=np.bool_)
    for pin in certain:
        if pin.axis in labels:
            stays[labels[pin.axis]] = True
    return frozenset(axis for axis in undecided if axis in labels and stays[labels[axis]].any())


def _read_node(
    net: Net, node: Any, slots: _Slots, protected: frozenset[str], pinned: frozenset[Axis] = frozenset()
) -> _Reading:
    """Read a node by its rule; `pinned` are the axes of its choices that other nodes pin."""
    known = {axis for tensor in (*node.inputs, *node.outputs) for axis in slots.axes.get(tensor.name, ())}
    found = rule_for(node.op, node.domain, revision_of(node.op, net.opset))
    label = f"{node.op} '{node.name}'"
    if isinstance(found, str):
        return _Reading([], [Pin(axis, node.name, f"{label}: {found}") for axis in sorted(known)])
    coupling = found(NodeView(node, net.opset, net.overridable, protected=protected, pinned=pinned))
    ties = [tie for tie in coupling.ties if tie.left in known and tie.right in known]
    if not all(slots.fits(tie) for tie in ties):
        return _Reading(
            [], [Pin(axis, node.name, f"{label}: the shapes around it do not fit") for axis in sorted(known)]
        )
    tied = {axis for tie in ties for axis in (tie.left, tie.right)}
    reason = coupling.reason or "the channels do not pass through it one to one"
    pins = [Pin(axis, node.name, f"{label}: {reason}") for axis in sorted(known - tied - coupling.free)]
    return _Reading(ties, pins, coupling.choices)


def _boundary_pins(net: Net) -> Iterator[Pin]:
    """Graph inputs and outputs, weights that a caller may replace, and what control-flow bodies read."""
    tensors = net.tensors()

    def pin(names: Iterable[str], node: str, reason: str) -> Iterator[Pin]:
        for name in names:
            tensor = tensors.get(name)
            for axis, size in enumerate(dims(tensor) or ()) if tensor is not None else ():
                if isinstance(size, int):
                    yield Pin(Axis(name, axis), node, reason.replace("{}", name, 1))

    yield from pin(net.input_names, "", "graph input '{}'")
    yield from pin(net.output_names, "", "graph output '{}'")
    yield from pin(sorted(net.overridable), "", "'{}' is a graph input that a caller may replace")
    for node in net.nodes:
        reason = "'{}' is read inside " + f"{node.op} '{node.name}'"
        yield from pin(sorted(set(captured_names(node))), node.name, reason)


def _weight_pins(net: Net, fixed: Mapping[str, str], forbidden: Mapping[str, str]) -> Iterator[Pin]:
    """Input channels of layers whose weights cannot be fitted anew."""
    for node in net.nodes:
        reason = forbidden.get(node.name)
        if node.name in fixed:
            reason = f"{node.op} '{node.name}': {fixed[node.name]}"
        if reason is None or dims(node.inputs[1]) is None or _carries(node):
            continue
        source = node.inputs[0].name
        for axis, size in enumerate(dims(node.inputs[0]) or ()):
            if isinstance(size, int) and axis in (1, len(dims(node.inputs[0]) or ()) - 1):
                yield Pin(Axis(source, axis), node.name, reason)


def _carries(node: Any) -> bool:
    """Return True for a depthwise ConvTranspose, which consumes no channels: its rule ties input to output."""
    shape = dims(node.inputs[1])
    depthwise = node.op == "ConvTranspose" and shape is not None and shape[1] == 1
    return (
        depthwise and int(node.attrs.get("group", 1)) == (shape or (0,))[0] and isinstance(node.inputs[1], gs.Constant)
    )


def _why_no_site(net: Net, node: Any) -> str:
    weight = node.inputs[1]
    if node.op == "ConvTranspose":
        if int(node.attrs.get("group", 1)) > 1:
            return "a ConvTranspose with groups is not refitted"
        if node.attrs.get("output_shape") or str(node.attrs.get("auto_pad", "NOTSET")) not in {"NOTSET", "VALID"}:
            return "its pads depend on its input, so it cannot be refitted"
    if not isinstance(weight, gs.Constant):
        return "its weights are computed"
    if weight.name in net.overridable:
        return "its weights are a graph input that a caller may replace"
    if len(weight.outputs) > 1:
        return _why_not_one_layer(net, weight)
    return "a layer of its form cannot be refitted"


def _why_not_one_layer(net: Net, weight: Any) -> str:
    """Return the reason why the nodes that share these weights are not one site."""
    others = sorted({reader.op for reader in weight.outputs})
    if len(others) > 1 or others[0] not in {"Conv", "ConvTranspose", "Gemm"}:
        return f"its weights are shared by {' and '.join(others)} nodes"
    if len({node.inputs[2].name if len(node.inputs) > 2 else "" for node in weight.outputs}) > 1:
        return "its weights are shared by nodes that add different biases"
    if not unordered(net, [[node.name for node in weight.outputs]])[0]:
        return "its weights are applied again to what depends on its output"
    return "its weights are shared by nodes that cannot be fitted together"


def _groups(
    labels: Mapping[Axis, IntArray],
    count: int,
    pins: Iterable[Pin],
    sites: Mapping[str, Site],
    makers: Mapping[str, Axis],
) -> tuple[ChannelGroup, ...]:
    made = np.zeros(count, dtype=np.bool_)
    for axis in makers.values():
        made[labels[axis]] = True
    reasons: dict[int, dict[str, None]] = defaultdict(dict)
    for pin in pins:
        units = labels.get(pin.axis)
        for unit in () if units is None else np.unique(units[made[units]]):
            if len(reasons[int(unit)]) < _MOST_REASONS:
                reasons[int(unit)].setdefault(pin.reason)
    signature: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
    for axis, units in labels.items():
        for unit, times in zip(*np.unique(units[made[units]], return_counts=True), strict=True):
            signature[int(unit)].append((axis, int(times)))
    members: dict[tuple[tuple[Axis, int], ...], list[int]] = defaultdict(list)
    for unit in sorted(signature):
        members[tuple(signature[unit])].append(unit)
    groups = [_group(axes, units, reasons, sites, makers) for axes, units in members.items()]
    order = {name: index for index, name in enumerate(makers)}
    return _named(sorted(groups, key=lambda group: (order[group.producers[0]], int(group.units[0]))))


def _named(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Return the groups with unique names."""
    times = Counter(name for group in groups for name in group.producers)
    taken: set[str] = set(times)
    named = []
    for group in groups:
        own = next((name for name in group.producers if times[name] == 1), None)
        number = 1
        while own is None:
            tried = f"{group.producers[0]}[{number}]"
            own, number = (None if tried in taken else tried), number + 1
        taken.add(own)
        named.append(replace(group, name=own))
    return tuple(named)


def _group(
    signature: tuple[tuple[Axis, int], ...],
    units: list[int],
    reasons: Mapping[int, Mapping[str, None]],
    sites: Mapping[str, Site],
    makers: Mapping[str, Axis],
) -> ChannelGroup:
    axes = {axis for axis, _ in signature}
    producers = tuple(name for name, axis in makers.items() if axis in axes)
    consumers = tuple(name for name, site in sites.items() if site.input_axis in axes)
    pins = list(dict.fromkeys(reason for unit in units for reason in reasons.get(unit, {})))
    if not pins and not consumers:
        pins = ["no layer reads its channels"]
    return ChannelGroup(
        producers[0], np.array(units, dtype=np.int64), producers, consumers, tuple(pins[:_MOST_REASONS])
    )
