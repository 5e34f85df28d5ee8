"""An order of execution, and what is alive at each cut through it.

Nodes are ordered by level (one more than the highest level among what they read), so that a shortcut is computed
before the branch that it will be added to. Nodes that share their weights come at one level. A *cut* c lies before the
c-th node; a tensor is live there when a node before it, or a graph input, makes it and a node behind it reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.graph.model.net import captured_names, exported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.graph.model.net import Net

__all__ = ["Schedule", "schedule", "segment", "segment_model", "unordered"]


@dataclass(frozen=True)
class Schedule:
    """Order of the nodes of a graph, and of every graph with the same nodes.

    Attributes:
        order: node names.
        made: per tensor, the index of the node that makes it; -1 for graph inputs.
        last_read: per tensor, the index of the last node that reads it.
    """

    order: tuple[str, ...]
    made: Mapping[str, int]
    last_read: Mapping[str, int]

    def index(self, node: str) -> int:
        """Position of a node."""
        return self._positions[node]

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {name: position for position, name in enumerate(self.order)}

    def live(self, cut: int) -> tuple[str, ...]:
        """Tensors that must be held at a cut, sorted."""
        return tuple(sorted(name for name, made in self.made.items() if made < cut <= self.last_read.get(name, -1)))


def schedule(net: Net, together: Iterable[Sequence[str]] = ()) -> Schedule:
    """Order a graph's nodes by level.

    Args:
        net: the graph.
        together: names of nodes that come at one level, behind all that any of them reads; see `unordered`.
    """
    groups = [tuple(names) for names in together]
    least: dict[str, int] = {}
    while True:
        levels = _levels(net, least)
        lifted = {name: max(levels[peer] for peer in names) for names in groups for name in names}
        if lifted == least:
            break
        least = lifted
    places = {node.name: position for position, node in enumerate(net.nodes)}
    ordered = sorted(net.nodes, key=lambda node: (levels[node.name], places[node.name]))
    made = dict.fromkeys(net.input_names, -1)
    last_read: dict[str, int] = {}
    for position, node in enumerate(ordered):
        made.update({tensor.name: position for tensor in node.outputs if tensor.name})
        last_read.update(dict.fromkeys(_reads(node), position))
    return Schedule(tuple(node.name for node in ordered), made, last_read)


def _levels(net: Net, least: Mapping[str, int]) -> dict[str, int]:
    """Return one more than the highest level among what each node reads, and at least the one given for it."""
    level: dict[str, int] = {}
    found = {}
    for node in net.nodes:
        mine = 1 + max((level.get(name, 0) for name in _reads(node)), default=0)
        found[node.name] = max(mine, least.get(node.name, 0))
        level.update({tensor.name: found[node.name] for tensor in node.outputs})
    return found


def unordered(net: Net, together: Iterable[Sequence[str]]) -> list[bool]:
    """Tell of each set of nodes whether all of them can come at one level.

    They cannot where one depends on another, as in a layer that is applied to its own output, or where one of a second
    set lies between them; of two sets that lie between each other's nodes, neither can.
    """
    groups = [tuple(names) for names in together]
    owner = {name: index for index, names in enumerate(groups) for name in names}
    place = {node.name: owner.get(node.name, len(groups) + number) for number, node in enumerate(net.nodes)}
    makers = {tensor.name: place[node.name] for node in net.nodes for tensor in node.outputs}
    edges = [(makers[name], place[node.name]) for node in net.nodes for name in _reads(node) if name in makers]
    size = len(groups) + len(net.nodes)
    rows, columns = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    graph = coo_array((np.ones(len(edges), np.int8), (rows, columns)), shape=(size, size))
    _, label = connected_components(graph, connection="strong")
    alone = np.bincount(label)[label] == 1
    own = {source for source, target in edges if source == target}
    return [bool(alone[index]) and index not in own for index in range(len(groups))]


def _reads(node: Any) -> list[str]:
    own = [t.name for t in node.inputs if not t.is_empty() and not isinstance(t, gs.Constant)]
    return own + sorted(set(captured_names(node)))


def segment(net: Net, order: Schedule, start: int, stop: int, wanted: Iterable[str]) -> Any:
    """Nodes start .. stop - 1 as a graph of their own.

    Its inputs are the tensors live at `start` that it reads, its outputs those live at `stop` that it makes, and
    those in `wanted` that it makes. None if there is nothing to run.
    """
    nodes = [net.node(name) for name in order.order[start:stop]]
    tensors = net.tensors()
    here = {tensor.name for node in nodes for tensor in node.outputs}
    outputs = [name for name in dict.fromkeys((*order.live(stop), *wanted)) if name in here]
    if not outputs:
        return None
    reads = dict.fromkeys(name for node in nodes for name in _reads(node))
    # What is not known out here is a constant of a body's own.
    outside = [name for name in reads if name not in here and name in tensors]
    inputs = [name for name in outside if not isinstance(tensors[name], gs.Constant)]
    return gs.Graph(
        nodes=nodes,
        inputs=[tensors[name] for name in inputs],
        outputs=[tensors[name] for name in outputs],
        name="segment",
        opset=net.opset,
        import_domains=net.graph.import_domains,
    )


def segment_model(net: Net, order: Schedule, start: int, stop: int, wanted: Iterable[str]) -> onnx.ModelProto:
    """Export the nodes of `segment` as a model.

    Raises:
        ValueError: there is nothing to run.
    """
    piece = segment(net, order, start, stop, wanted)
    if piece is None:
        raise ValueError(f"no node from {start} to {stop} makes what is wanted")
    return exported(piece, net.header.ir_version)
