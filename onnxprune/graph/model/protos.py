"""Nodes of a model file, as ONNX's own messages: their bodies, and the tensors that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bodies_of", "names_read"]


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of a control-flow node; none for any other node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def names_read(node: onnx.NodeProto) -> list[str]:
    """Return the names of the tensors that a node reads; for a control-flow node (If, Loop, Scan) also the names of the
    tensors of the enclosing graph that the nodes in its subgraphs read."""
    names = [name for name in node.input if name]
    for body in bodies_of(node):
        made = {name for inner in body.node for name in inner.output} | {value.name for value in body.input}
        made.update(tensor.name for tensor in body.initializer)
        names += [name for inner in body.node for name in names_read(inner) if name not in made]
        names += [value.name for value in body.output if value.name not in made]
    return names
