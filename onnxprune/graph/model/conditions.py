"""Inlining of the branch that an If node with a constant condition takes; exporters write such nodes for `squeeze`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Draft, captured_names, is_standard, lengthened, values_of

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["inline_branches"]


def inline_branches(net: Draft, protected: frozenset[str]) -> bool:
    """Replace every If with a constant condition by the branch that it takes; tell whether there was one."""
    changed = False
    for node in net.nodes:
        if node.op != "If" or not is_standard(node) or not node.outputs:
            continue
        condition = node.inputs[0]
        if not isinstance(condition, gs.Constant) or condition.name in net.overridable:
            continue
        values = values_of(condition)
        if values.size != 1:
            continue
        branch = node.attrs["then_branch" if bool(values.item()) else "else_branch"]
        taken = _names(net, node)
        if len(branch.outputs) == len(node.outputs) and not _captures_clash(branch, taken):
            _inline(net, node, branch, taken)
            changed = True
    return changed


def _names(net: Draft, node: Any) -> set[str]:
    """Names of all tensors of the graph, and of the bodies of all nodes but one."""
    found = set(net.tensors())
    waiting = [other for other in net.graph.nodes if other is not node]
    while waiting:
        for body in waiting.pop().attrs.values():
            if isinstance(body, gs.Graph):
                found.update(body.tensors())
                waiting += body.nodes
    return found


def _captures_clash(branch: gs.Graph, taken: Container[str]) -> bool:
    """Tell whether a body inside a branch reads what the branch makes under a name that is taken."""
    made = {tensor.name for inner in branch.nodes for tensor in inner.outputs}
    return any(name in made and name in taken for inner in branch.nodes for name in captured_names(inner))


def _inline(net: Draft, node: Any, branch: gs.Graph, taken: set[str]) -> None:
    """Move the nodes of a branch into the graph; an Identity each gives the results their names."""
    results = list(node.outputs)
    place = next(index for index, other in enumerate(net.graph.nodes) if other is node)
    named = {other.name for other in net.graph.nodes}
    node.outputs.clear()
    node.inputs.clear()
    made = list(branch.nodes)
    for inner in made:
        inner.name = lengthened(f"{node.name}_{inner.name or inner.op}", named)
        named.add(inner.name)
    outer = net.tensors()
    local = {tensor.name for inner in made for tensor in inner.outputs}
    inside = {id(tensor): tensor for inner in made for tensor in (*inner.inputs, *inner.outputs)}
    for inner in made:
        for slot, tensor in enumerate(list(inner.inputs)):
            if tensor.name not in local and _is_outer(tensor, outer):
                inner.inputs[slot] = outer[tensor.name]
    ended = [outer[t.name] if t.name not in local and _is_outer(t, outer) else t for t in branch.outputs]
    inside |= {id(tensor): tensor for tensor in ended}
    for tensor in inside.values():
        if tensor.is_empty() or (tensor.name not in local and _is_outer(tensor, outer)):
            continue
        if tensor.name in taken:
            tensor.name = lengthened(tensor.name, taken | local)
        taken.add(tensor.name)
    ends = [
        gs.Node("Identity", lengthened(f"{node.name}_result_{index}", named), inputs=[inner], outputs=[result])
        for index, (inner, result) in enumerate(zip(ended, results, strict=True))
    ]
    net.graph.nodes[place : place + 1] = [*made, *ends]


def _is_outer(tensor: Any, outer: Mapping[str, Any]) -> bool:
    """Tell whether a tensor that a branch reads, and does not make, is one of the outer graph."""
    found = outer.get(tensor.name)
    if found is None or not isinstance(tensor, gs.Constant):
        return found is not None
    return isinstance(found, gs.Constant) and np.array_equal(values_of(found), values_of(tensor))
