"""Residual branches: what can go whole.

The answers of some layers are only ever added to a shortcut. Without the channels that such a layer reads it answers
its bias and nothing else; with the bias put down to zero as well the sum is the shortcut, and all that was there for
the branch alone is never run: the network is a block less deep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.net import captured_names, dims
from onnxprune.graph.sites import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnxprune.graph.channels import ChannelGroup, ChannelMap
    from onnxprune.graph.net import Net
    from onnxprune.graph.sites import Site

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Branch", "find_branches", "silence", "sum_of", "without_branches"]


# Of zeros these make zeros.
_KEEP_ZERO = {"Identity", "Dropout", "Transpose", "Reshape", "Mul", "Relu", "LeakyRelu"}


@dataclass(frozen=True)
class Branch:
    """What goes with the last channel of a group.

    Attributes:
        group: its name.
        ends: names of the sites that read its channels and of which the answers are added to something else.
        nodes: names of all nodes that are there for it alone, the ends included, the sums not.
        constants: names of the constants that only these read.
        inner: names of the other groups that are made and read by these nodes alone.
    """

    group: str
    ends: tuple[str, ...]
    nodes: frozenset[str]
    constants: frozenset[str]
    inner: frozenset[str]


def sum_of(net: Net, answer: Any) -> Any:
    """The Add of two tensors of one shape that alone reads an answer; else None."""
    if len(answer.outputs) != 1 or answer.outputs[0].op != "Add" or answer.name in net.output_names:
        return None
    add = answer.outputs[0]
    if any(isinstance(tensor, gs.Constant) for tensor in add.inputs) or add.inputs[0] is add.inputs[1]:
        return None
    left, right = (dims(tensor) for tensor in add.inputs)
    return add if left is not None and left == right and None not in left else None


def find_branches(net: Net, channels: ChannelMap) -> dict[str, Branch]:
    """The branches of a graph by group, in topological order. Any may go, whichever others do; some layer always
    stays."""
    tensors, everything = net.tensors(), _needed(net, {})
    layers = {node.name for node in net.nodes if node.op in LAYERS}
    groups = (_branch(net, channels, group, tensors, everything) for group in channels.prunable)
    candidates = [candidate for candidate in groups if candidate is not None]
    found: dict[str, Branch] = {}
    summed: dict[str, str] = {}
    # Those inside others first: what hangs on two of them is in an outer one in any case.
    for branch, sums in sorted(candidates, key=lambda candidate: len(candidate[0].nodes)):
        if set(summed) & set(sums):  # where two answers make one sum, one of the two must stay
            continue
        parts = [*found.values(), branch]
        together = everything - _needed(net, {**summed, **sums})
        apart = set[str]().union(*(part.nodes for part in parts))
        constants = frozenset[str]().union(*(part.constants for part in parts))
        alone = together == apart and _read_only_by(tensors, together) == constants
        if alone and not layers <= together:  # else it hangs on which others go
            found[branch.group] = branch
            summed |= sums
    return {group.name: found[group.name] for group in channels.prunable if group.name in found}


def _branch(
    net: Net, channels: ChannelMap, group: ChannelGroup, tensors: Mapping[str, Any], everything: set[str]
) -> tuple[Branch, dict[str, str]] | None:
    """What goes with a group, and its sums with what is no more added; None if it is no branch."""
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
    """Constants that no other node reads."""
    return frozenset(
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, gs.Constant) and tensor.outputs and {node.name for node in tensor.outputs} <= nodes
    )


def _answers(
    net: Net, channels: ChannelMap, group: ChannelGroup, tensors: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The consumers of a group that answer to a sum: names, what is added, and the sum; nothing if one of them has
    other inputs, too."""
    found = []
    for name in group.consumers:
        site = channels.sites[name]
        ending = _ending(net, tensors[site.response])
        if ending is not None:
            if not np.isin(channels.labels[site.input_axis], group.units).all():
                return []
            found.append((name, *ending))
    return found


def _ending(net: Net, answer: Any) -> tuple[Any, Any] | None:
    """What an answer is added as, and the sum; between the two zeros stay zeros."""
    while (add := sum_of(net, answer)) is None:
        if len(answer.outputs) != 1 or answer.outputs[0].op not in _KEEP_ZERO or answer.name in net.output_names:
            return None
        answer = answer.outputs[0].outputs[0]
    return answer, add


def _needed(net: Net, without: Mapping[str, str]) -> set[str]:
    """Names of the nodes that the graph's outputs hang on; ``without``: per sum, the tensor that is not in it."""
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


def silence(net: Net, channels: ChannelMap, branches: Iterable[Branch]) -> dict[Site, tuple[Array, Array]]:
    """Weights and biases with which these branches answer zero, see `with_weights`."""
    tensors = net.tensors()
    zeros = {}
    for site in (channels.sites[name] for branch in branches for name in branch.ends):
        shape = tensors[site.weight].shape
        outputs = int(shape[site.output_axis.axis])
        weight = np.zeros((site.groups, outputs // site.groups, int(np.prod(shape)) // outputs))
        zeros[site] = weight, np.zeros(outputs)
    return zeros


def without_branches(net: Net, channels: ChannelMap, branches: Iterable[Branch]) -> Net:
    """The same network without these branches: each sum is its other operand.

    A Relu behind the sum that another made is taken away, too: the second does nothing.
    """
    net = net.copy()
    tensors, nodes = net.tensors(), {id(node) for node in net.nodes}
    kept = {*net.output_names, *(name for node in net.nodes for name in captured_names(node))}
    for name in (name for branch in branches for name in branch.ends):
        ending = _ending(net, tensors[channels.sites[name].response])
        if ending is None:  # the sum went with another branch
            continue
        summand, add = ending
        other = next(tensor for tensor in add.inputs if tensor is not summand)
        readers = list(add.outputs[0].outputs)
        _bypass(add, other, kept)
        if other.inputs and other.inputs[0].op == "Relu":
            for reader in readers:
                if reader.op == "Relu" and id(reader) in nodes:  # and not in the body of an If or Loop
                    _bypass(reader, other, kept)
    net.graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return net


def _bypass(node: Any, source: Any, kept: set[str]) -> None:
    """Whoever reads what a node makes reads `source` instead; where its name must stay, it passes `source` on."""
    result = node.outputs[0]
    for reader in list(result.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is result:
                reader.inputs[position] = source
    if result.name in kept:
        node.op, node.attrs = "Identity", type(node.attrs)()
        node.inputs = [source]
    else:
        node.inputs.clear()
        node.outputs.clear()
