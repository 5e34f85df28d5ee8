"""Meaning of outputs by the end of the graph: scores of classes, labels, or numbers.

An output is followed backwards through nodes that only move or rename its elements (Identity, Cast, Reshape, Squeeze,
Unsqueeze, Flatten, Transpose). A Softmax or LogSoftmax there makes it scores over the axis that
the node normalises; an ArgMax makes it labels; an element-wise squashing (Sigmoid, Tanh) or a division by a norm makes
it numbers, whatever its shape. Anything else says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import LAYERS, dims, is_constant, is_standard, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.model.net import Dim, Net

__all__ = ["Ending", "ending", "last_layer", "softmax_axis"]

_SCORES = ("Softmax", "LogSoftmax")
_LABELS = ("ArgMax", "ArgMin")
_NUMBERS = ("Sigmoid", "HardSigmoid", "Tanh", "LpNormalization")
_NORMS = ("ReduceL2", "ReduceL1")
_MOVING = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")
_MOST_STEPS = 16
Says = Literal["probabilities", "logarithms", "labels", "numbers"]


@dataclass(frozen=True)
class Ending:
    """Evidence of the graph about one output.

    Attributes:
        says: ``probabilities`` (Softmax) or ``logarithms`` (LogSoftmax) of classes, ``labels`` (ArgMax), ``numbers``.
        axis: of the classes, counted in the output; None for labels and numbers.
        node: operator and name of the node that says it.
    """

    says: Says
    axis: int | None
    node: str


def last_layer(net: Net) -> Any | None:
    """Find the last layer with constant weights, if every output follows from it alone; None without one."""
    nodes = list(net.nodes)
    layers = [n for n in nodes if n.op in LAYERS and is_standard(n) and len(n.inputs) > 1 and is_constant(n.inputs[1])]
    if not layers:
        return None
    behind = {tensor.name for tensor in layers[-1].outputs}
    for node in nodes[nodes.index(layers[-1]) + 1 :]:
        made = [tensor for tensor in node.inputs if not is_constant(tensor) and not tensor.is_empty()]
        if any(tensor.name not in behind for tensor in made):
            return None
        behind.update(tensor.name for tensor in node.outputs)
    return layers[-1] if behind.issuperset(net.output_names) else None


def ending(net: Net, name: str) -> Ending | None:
    """Read the end of the graph in front of an output; None where it says nothing of the output's meaning."""
    tensor = net.tensors().get(name)
    behind: list[Any] = []  # nodes that only move elements, the last first
    while tensor is not None and tensor.inputs and len(behind) < _MOST_STEPS:
        node = tensor.inputs[0]
        if not is_standard(node):
            return None
        label = f"{node.op} '{node.name}'"
        if node.op in _SCORES:
            axis = _carried(softmax_axis(net, node), behind)
            says: Says = "probabilities" if node.op == "Softmax" else "logarithms"
            return None if axis is None else Ending(says, axis, label)
        if node.op in _LABELS:
            return Ending("labels", None, label)
        if node.op in _NUMBERS or (node.op == "Div" and _is_norm(node.inputs[1])):
            return Ending("numbers", None, label)
        if node.op not in _MOVING:
            return None
        behind.append(node)
        tensor = node.inputs[0]
    return None


def softmax_axis(net: Net, node: Any) -> int | None:
    """Axis that a Softmax or LogSoftmax normalises; None where it is not a single one, or the rank is unknown."""
    shape = dims(node.inputs[0]) or dims(node.outputs[0])
    old = net.opset < 13  # then it normalises over all axes from its own on
    axis = int(node.attrs.get("axis", 1 if old else -1))
    if shape is None:
        return None
    axis %= max(len(shape), 1)
    if not old:
        return axis
    wide = [place for place in range(axis, len(shape)) if shape[place] != 1]
    return wide[0] if len(wide) == 1 else None


def _carried(axis: int | None, behind: Sequence[Any]) -> int | None:
    """The axis behind some moving nodes (the last first); None where it is lost."""
    for node in reversed(behind):
        if axis is None:
            return None
        axis = _moved(node, axis)
    return axis


def _moved(node: Any, axis: int) -> int | None:
    if node.op in ("Identity", "Cast"):
        return axis
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if node.op == "Transpose":
        rank = len(before or after or ())
        order = [int(place) for place in node.attrs.get("perm", range(rank)[::-1])]
        return order.index(axis) if axis in order else None
    if before is None or after is None or axis >= len(before):
        return None
    if node.op in ("Squeeze", "Unsqueeze"):
        return _inserted(node, axis, len(before), len(after))
    for place, size in enumerate(after):
        if size == before[axis] and size is not None and _same_split(before, axis, after, place):
            return place
    return None


def _inserted(node: Any, axis: int, before: int, after: int) -> int | None:
    """Squeeze and Unsqueeze: axes of size 1 that go or come in front of the axis."""
    given = node.attrs.get("axes")
    if given is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        given = values_of(node.inputs[1])
    if given is None:
        shape = dims(node.inputs[0]) or ()
        given = [place for place, size in enumerate(shape) if size == 1]
    changed = {int(place) % max(before, after) for place in np.ravel(given)}
    if node.op == "Squeeze":
        return None if axis in changed else axis - sum(place < axis for place in changed)
    return [place for place in range(after) if place not in changed][axis]


def _same_split(before: Sequence[Dim], axis: int, after: Sequence[Dim], place: int) -> bool:
    """Tell whether as many elements lie behind (or in front of) an axis before a reshape as after it."""
    for left, right in ((before[axis + 1 :], after[place + 1 :]), (before[:axis], after[:place])):
        ours, theirs = _extent(left), _extent(right)
        if ours is not None and ours == theirs:
            return True
    return False


def _extent(sizes: Sequence[Dim]) -> tuple[int, tuple[str, ...]] | None:
    """Product of the known sizes and the sorted symbols; None where a size is unknown."""
    if any(size is None for size in sizes):
        return None
    symbols = tuple(sorted(size for size in sizes if isinstance(size, str)))
    return prod(size for size in sizes if isinstance(size, int)), symbols


def _is_norm(tensor: Any) -> bool:
    """Tell whether a divisor is a norm, seen through what keeps it positive or spreads it out."""
    for _ in range(_MOST_STEPS):
        if not tensor.inputs:
            return False
        node = tensor.inputs[0]
        if node.op in _NORMS:
            return True
        if node.op not in ("Clip", "Max", "Expand", "Add", "Sqrt", "ReduceSum", "Identity"):
            return False
        tensor = node.inputs[0]
        if node.op == "Sqrt" and tensor.inputs and tensor.inputs[0].op in ("ReduceSum", "ReduceSumSquare"):
            return True
    return False
