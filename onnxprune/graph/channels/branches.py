"""Residual branches that can be removed whole.

The outputs of some layers are only added to a shortcut. Without input channels, the output of such a layer is its bias;
with a zero bias, too, the sum equals the shortcut, and all nodes that serve the branch alone are removed: the network
is one block less deep.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import LAYERS, captured_names, dims

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Branch", "find_branches", "sum_of"]


# Operators whose output is zero for zero inputs.
_KEEP_ZERO = {"Identity", "Dropout", "Transpose", "Reshape", "Mul", "Relu", "LeakyRelu"}


@dataclass(frozen=True)
class Branch:
    """Residual branch, removed with the last channel of a group.

    Attributes:
        group: name of the group.
        ends: names of the sites that consume the group's channels and whose outputs are added to a shortcut.
        nodes: names of all nodes that serve the branch alone, including the ends, without the sums.
        constants: names of the constants that only these nodes read.
        inner: names of the other groups that only these nodes produce and consume.
    """

    group: str
    ends: tuple[str, ...]
    nodes: frozenset[str]
    constants: frozenset[str]
    inner: frozenset[str]


def sum_of(net: Net, answer: Any) -> Any:
    """Return the Add of two tensors of one shape that is the only reader of an output; None if there is none."""
    if len(answer.outputs) != 1 or answer.outputs[0].op != "Add" or answer.name in net.output_names:
        return None
    add = answer.outputs[0]
    if (
        not net.holds(add)
        or any(isinstance(tensor, gs.Constant) for tensor in add.inputs)
        or add.inputs[0] is add.inputs[1]
    ):
        return None
    left, right = (dims(tensor) for tensor in add.inputs)
    return add if left is not None and left == right and None not in left else None


def find_branches(net: Net, channels: ChannelMap) -> dict[str, Branch]:
    """Find the residual branches of a graph, by group, in topological order.

    Any subset of them can be removed; at least one layer is always kept.
    """
    uses = _Uses(net)
    layers = sum(node.op in LAYERS for node in net.nodes)
    of_node: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in channels.prunable:
        of_node[group.producers[0]].append(group)
    branches = (_branch(net, channels, group, uses, of_node) for group in channels.prunable)
    candidates = [candidate for candidate in branches if candidate is not None]
    found: dict[str, Branch] = {}
    gone, constants = set[str](), set[str]()
    # Inner branches first: a node that depends on two branches is in an outer branch in any case.
    for branch, sums in sorted(candidates, key=lambda candidate: len(candidate[0].nodes)):
        if uses.summed & set(sums):  # of two outputs that are added, one must be kept
            continue
        new = uses.only_for(sums)
        together = gone | new if new else gone
        alone = new == branch.nodes - gone and uses.constants(new, together) == branch.constants - constants
        left = layers - sum(net.node(name).op in LAYERS for name in new)
        if alone and left:  # else its nodes would depend on which other branches are removed
            found[branch.group] = branch
            uses.remove(sums)
            gone, layers = together, left
            constants |= branch.constants
    return {group.name: found[group.name] for group in channels.prunable if group.name in found}


class _Uses:
    """Uses of each node by the nodes that the graph's outputs depend on, less those of the branches removed so far."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._makers = {tensor.name: node.name for node in net.nodes for tensor in node.outputs}
        self._reads: dict[str, frozenset[str]] = {}
        self._count: Counter[str] = Counter(self._makers[name] for name in net.output_names if name in self._makers)
        waiting = list(self._count)
        while waiting:
            name = waiting.pop()
            if name in self._reads:
                continue
            node = net.node(name)
            read = {tensor.name for tensor in node.inputs if not tensor.is_empty()}.union(captured_names(node))
            self._reads[name] = frozenset(read & self._makers.keys())
            makers = [self._makers[tensor] for tensor in self._reads[name]]
            self._count.update(makers)
            waiting += makers
        self._cut: set[tuple[str, str]] = set()  # sums and their removed summands
        self.summed: set[str] = set()
        """Names of the sums with a removed summand."""

    def only_for(self, sums: Mapping[str, str]) -> set[str]:
        """Return the nodes that nothing needs any more without a summand of each of these sums."""
        return self._without(sums)[0]

    def remove(self, sums: Mapping[str, str]) -> None:
        """Remove a summand of each of these sums."""
        _, left = self._without(sums)
        self._count.update(left)
        self._cut |= sums.items()
        self.summed |= sums.keys()

    def _without(self, sums: Mapping[str, str]) -> tuple[set[str], dict[str, int]]:
        cut, gone = self._cut | sums.items(), set[str]()
        change: Counter[str] = Counter()
        waiting = list(sums.values())
        while waiting:
            maker = self._makers[waiting.pop()]
            change[maker] -= 1
            if self._count[maker] + change[maker] == 0:
                gone.add(maker)
                waiting += [tensor for tensor in self._reads[maker] if (maker, tensor) not in cut]
        return gone, change

    def constants(self, nodes: Iterable[str], together: Collection[str]) -> frozenset[str]:
        """Return the names of the constants of some nodes that only nodes of `together` read."""
        read = (tensor for name in nodes for tensor in self._net.node(name).inputs if isinstance(tensor, gs.Constant))
        return frozenset(t.name for t in read if all(node.name in together for node in t.outputs))


def _branch(
    net: Net, channels: ChannelMap, group: ChannelGroup, uses: _Uses, of_node: Mapping[str, Sequence[ChannelGroup]]
) -> tuple[Branch, dict[str, str]] | None:
    """Return the branch of a group, and per sum the name of its summand; None if the group has no branch."""
    answers = _answers(net, channels, group, net.tensors())
    sums = {add.name: summand.name for _, summand, add in answers}
    if not answers or len(sums) < len(answers):
        return None
    gone = uses.only_for(sums)
    if gone & set(sums) or not channels.nodes_of(group) <= gone:
        return None
    ends = tuple(name for name, _, _ in answers)
    others = (other for name in gone for other in of_node.get(name, ()) if other is not group)
    inner = frozenset(other.name for other in others if channels.nodes_of(other) <= gone)
    return Branch(group.name, ends, frozenset(gone), uses.constants(gone, gone), inner), sums


def _answers(
    net: Net, channels: ChannelMap, group: ChannelGroup, tensors: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Find the consumers of a group whose output is added to a shortcut: name, summand and sum of each; empty if one of
    them reads other channels, too, or shares its weights."""
    found = []
    for name in group.consumers:
        site = channels.sites[name]
        found_end = ending(net, tensors[site.response])
        if found_end is not None:
            if site.shared or not np.isin(channels.labels[site.input_axis], group.units).all():
                return []
            found.append((name, *found_end))
    return found


def ending(net: Net, answer: Any) -> tuple[Any, Any] | None:
    """Follow zero-preserving nodes from a layer's output to the residual Add; return (summand, add)."""
    while (add := sum_of(net, answer)) is None:
        if len(answer.outputs) != 1 or answer.outputs[0].op not in _KEEP_ZERO or answer.name in net.output_names:
            return None
        answer = answer.outputs[0].outputs[0]
    return answer, add
