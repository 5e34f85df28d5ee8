"""Residual branches that can be removed whole.

The outputs of some layers are only added to a shortcut. Without input channels, the output of such a layer is its bias;
with a zero bias, too, the sum equals the shortcut, and all nodes that serve the branch alone are removed: the network
is one block less deep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import LAYERS, captured_names, dims

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    if any(isinstance(tensor, gs.Constant) for tensor in add.inputs) or add.inputs[0] is add.inputs[1]:
        return None
    left, right = (dims(tensor) for tensor in add.inputs)
    return add if left is not None and left == right and None not in left else None


def find_branches(net: Net, channels: ChannelMap) -> dict[str, Branch]:
    """Find the residual branches of a graph, by group, in topological order.

    Any subset of them can be removed; at least one layer is always kept.
    """
    tensors, everything = net.tensors(), _needed(net, {})
    layers = {node.name for node in net.nodes if node.op in LAYERS}
    groups = (_branch(net, channels, group, tensors, everything) for group in channels.prunable)
    candidates = [candidate for candidate in groups if candidate is not None]
    found: dict[str, Branch] = {}
    summed: dict[str, str] = {}
    # Inner branches first: a node that depends on two branches is in an outer branch in any case.
    for branch, sums in sorted(candidates, key=lambda candidate: len(candidate[0].nodes)):
        if set(summed) & set(sums):  # of two outputs that are added, one must be kept
            continue
        parts = [*found.values(), branch]
        together = everything - _needed(net, {**summed, **sums})
        apart = set[str]().union(*(part.nodes for part in parts))
        constants = frozenset[str]().union(*(part.constants for part in parts))
        alone = together == apart and _read_only_by(tensors, together) == constants
        if alone and not layers <= together:  # else its nodes would depend on which other branches are removed
            found[branch.group] = branch
            summed |= sums
    return {group.name: found[group.name] for group in channels.prunable if group.name in found}


def _branch(
    net: Net, channels: ChannelMap, group: ChannelGroup, tensors: Mapping[str, Any], everything: set[str]
) -> tuple[Branch, dict[str, str]] | None:
    """Return the branch of a group, and per sum the name of its summand; None if the group has no branch."""
    answers = _answers(net, channels, group, tensors)
    sums = {add.name: summand.name for _, summand, add in answers}
    if not answers or len(sums) < len(answers):
        return None
    gone = everything - _needed(net, sums)
    if gone & set(sums) or not {*group.producers, *group.consumers} <= gone:
        return None
    ends = tuple(name for name, _, _ in answers)
    others = (other for other in channels.prunable if other is not group)
    inner = frozenset(other.name for other in others if {*other.producers, *other.consumers} <= gone)
    return Branch(group.name, ends, frozenset(gone), _read_only_by(tensors, gone), inner), sums


def _read_only_by(tensors: Mapping[str, Any], nodes: set[str]) -> frozenset[str]:
    """Return the names of the constants that no other node reads."""
    return frozenset(
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, gs.Constant) and tensor.outputs and {node.name for node in tensor.outputs} <= nodes
    )


def _answers(
    net: Net, channels: ChannelMap, group: ChannelGroup, tensors: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Find the consumers of a group whose output is added to a shortcut: name, summand and sum of each; empty if one of
    them reads other channels, too."""
    found = []
    for name in group.consumers:
        site = channels.sites[name]
        found_end = ending(net, tensors[site.response])
        if found_end is not None:
            if not np.isin(channels.labels[site.input_axis], group.units).all():
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


def _needed(net: Net, without: Mapping[str, str]) -> set[str]:
    """Return the names of the nodes that the graph's outputs depend on; ``without``: per sum, the summand to ignore."""
    makers = {tensor.name: node for node in net.nodes for tensor in node.outputs}
    waiting, found = [name for name in net.output_names if name in makers], set[str]()
    while waiting:
        node = makers[waiting.pop()]
        if node.name in found:
            continue
        found.add(node.name)
        read = (tensor.name for tensor in node.inputs if not tensor.is_empty())
        waiting += [n for n in (*read, *captured_names(node)) if n in makers and n != without.get(node.name)]
    return found
