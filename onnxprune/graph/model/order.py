"""Order of the nodes in a file: engines sort them, but the format demands that a node follows what it reads."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from onnxprune.errors import ModelError
from onnxprune.graph.model.protos import names_read

if TYPE_CHECKING:
    import onnx

__all__ = ["is_sorted", "sort_nodes"]


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Tell whether every node follows the nodes whose outputs it reads; bodies of control flow are not looked into."""
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if any(name in later for name in names_read(node)):
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
    waits = [{makers[name] for name in names_read(node) if name in makers} for node in graph.node]
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
    ordered = type(graph)(node=[graph.node[place] for place in order])
    del graph.node[:]
    graph.node.extend(ordered.node)
