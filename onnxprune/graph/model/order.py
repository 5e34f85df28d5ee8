"""Order of the nodes in a file: engines sort them, but the format demands that a node follows what it reads."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from onnxprune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

__all__ = ["is_sorted", "sort_nodes"]


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Tell whether every node follows the nodes whose outputs it reads; bodies of control flow are not looked into."""
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if any(name in later for name in _read(node)):
            return False
        later.difference_update(node.output)
    return True


def sort_nodes(graph: onnx.GraphProto, label: str) -> None:
    """Sort the nodes of a graph in place, otherwise in the order that they have (Kahn's algorithm).

    Args:
        graph: the graph; bodies of control flow are not sorted.
        label: name of the model in errors.

    Raises:
        ModelError: nodes read each other's outputs.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    waits = [{makers[name] for name in _read(node) if name in makers} for node in graph.node]
    readers: dict[int, list[int]] = defaultdict(list)
    for place, needed in enumerate(waits):
        for maker in needed:
            readers[maker].append(place)
    left = [len(needed) for needed in waits]
    ready = deque(place for place, count in enumerate(left) if not count)
    order = []
    while ready:
        place = ready.popleft()
        order.append(place)
        for reader in readers[place]:
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    if len(order) < len(graph.node):
        node = next(graph.node[place] for place, count in enumerate(left) if count)
        raise ModelError(f"{label}: {node.op_type} '{node.name}' reads what follows from its own output")
    nodes = [graph.node[place] for place in order]
    sorted_nodes = type(graph)()
    sorted_nodes.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(sorted_nodes.node)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names of all tensors that a node reads, those that its bodies read from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []:
            made = {value.name for value in body.input} | {name for inner in body.node for name in inner.output}
            yield from (name for inner in body.node for name in _read(inner) if name not in made)
            yield from (value.name for value in body.output if value.name not in made)
