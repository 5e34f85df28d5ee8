"""Putting the nodes of local functions in the place of the nodes that call them."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import onnx
import onnx.inliner

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import first_line
from onnxprune.graph.model.protos import bodies_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["inlined"]

_MOST_NODES = 200_000  # functions that call functions make many of few


def inlined(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """Return a model without local functions.

    Raises:
        ModelError: a function calls itself, the nodes would be too many, or onnx refuses them.
    """
    if not model.functions:
        return model
    made = _nodes_made(model, label)
    if made > _MOST_NODES:
        raise ModelError(f"{label}: its local functions stand for {made:.3g} nodes; up to {_MOST_NODES} can be handled")
    try:
        return onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{label}: not a valid ONNX model: {first_line(error)}") from error


def _nodes_made(model: onnx.ModelProto, label: str) -> int:
    """Count the nodes that the graph has once all functions are in the place of their calls."""
    bodies = {_name(function.domain, function.name): list(_all_nodes(function.node)) for function in model.functions}
    calls = {name: [_name(node.domain, node.op_type) for node in nodes] for name, nodes in bodies.items()}
    try:
        order = list(
            TopologicalSorter({name: set(called) & set(bodies) for name, called in calls.items()}).static_order()
        )
    except CycleError as error:
        raise ModelError(f"{label}: the local function '{error.args[1][0]}' calls itself") from None
    size: dict[str, int] = {}
    for name in order:
        size[name] = sum(size.get(called, 1) for called in calls[name])
    return sum(size.get(_name(node.domain, node.op_type), 1) for node in _all_nodes(model.graph.node))


def _name(domain: str, name: str) -> str:
    return f"{domain}:{name}"


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those in their bodies at any depth."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from _all_nodes(body.node)
