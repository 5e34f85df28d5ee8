"""What is known of a shape that a graph computes: integers where they are fixed, symbols where they follow an input.

Exporters write `x.view(x.size(0), -1)` as Shape, Gather, Unsqueeze and Concat. Evaluating that with symbols for the
open sizes tells which entries of the result are copies of sizes of `x`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.net import Dim, dims, values_of

__all__ = ["shape_value"]

_MOST_STEPS = 64


def shape_value(tensor: Any, depth: int = _MOST_STEPS) -> tuple[Dim, ...] | None:
    """Entries of a computed one-dimensional (or scalar) integer tensor; None where it is not plain shape arithmetic.

    An entry is an integer, a symbol (the name of an open size), or None for an unknown one.
    """
    if isinstance(tensor, gs.Constant):
        values = values_of(tensor)
        return tuple(int(v) for v in values.ravel()) if values.dtype.kind in "iu" and values.ndim <= 1 else None
    if depth == 0 or not tensor.inputs:
        return None
    node = tensor.inputs[0]
    step = _STEPS.get(node.op)
    return step(node, depth - 1) if step else None


def _shape(node: Any, depth: int) -> tuple[Dim, ...] | None:
    return None if {"start", "end"} & set(node.attrs) else dims(node.inputs[0])


def _same(node: Any, depth: int) -> tuple[Dim, ...] | None:
    return shape_value(node.inputs[0], depth)


def _gather(node: Any, depth: int) -> tuple[Dim, ...] | None:
    data = shape_value(node.inputs[0], depth)
    if data is None or not isinstance(node.inputs[1], gs.Constant) or node.attrs.get("axis", 0) != 0:
        return None
    index = values_of(node.inputs[1]).ravel()
    return tuple(data[int(i)] for i in index) if all(-len(data) <= i < len(data) for i in index) else None


def _slice(node: Any, depth: int) -> tuple[Dim, ...] | None:
    data = shape_value(node.inputs[0], depth)
    if "starts" in node.attrs:
        bounds = [node.attrs["starts"], node.attrs["ends"]]
    elif all(isinstance(t, gs.Constant) for t in node.inputs[1:]):
        bounds = [np.ravel(values_of(t)).tolist() for t in node.inputs[1:3]]
    else:
        return None
    strided = len(node.inputs) > 4 and np.any(values_of(node.inputs[4]) != 1)
    if data is None or strided or len(bounds[0]) != 1:
        return None
    return data[int(bounds[0][0]) : int(bounds[1][0])]


def _concat(node: Any, depth: int) -> tuple[Dim, ...] | None:
    parts = [shape_value(t, depth) for t in node.inputs]
    if any(part is None for part in parts):
        return None
    return tuple(entry for part in parts if part is not None for entry in part)


_STEPS = {
    "Shape": _shape,
    "Cast": _same,
    "Identity": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
}
