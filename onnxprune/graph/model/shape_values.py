"""Values of shapes that a graph computes: integers where they are fixed, symbols where they follow an input.

Exporters write `x.view(x.size(0), -1)` as Shape, Gather, Unsqueeze and Concat. Evaluating that with symbols for the
open sizes tells which entries of the result are copies of sizes of `x`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Dim, dims, is_standard, values_of

__all__ = ["shape_value"]

_MOST_STEPS = 128


Known = dict[str, "tuple[Dim, ...] | None"]


def shape_value(tensor: Any, known: Known | None = None) -> tuple[Dim, ...] | None:
    """Entries of a computed one-dimensional (or scalar) integer tensor; None where it is not plain shape arithmetic.

    An entry is an integer, a symbol (the name of an open size), or None for an unknown one. ``known``: what was found
    of other tensors on the way.
    """
    known = {} if known is None else known
    if tensor.name not in known:
        known[tensor.name] = None  # until it is found; there are no more than so many on the way
        if len(known) <= _MOST_STEPS:
            known[tensor.name] = _entries(tensor, known)
    return known[tensor.name]


def _entries(tensor: Any, known: Known) -> tuple[Dim, ...] | None:
    if isinstance(tensor, gs.Constant):
        values = values_of(tensor)
        return tuple(int(v) for v in values.ravel()) if values.dtype.kind in "iu" and values.ndim <= 1 else None
    if not tensor.inputs:
        return None
    node = tensor.inputs[0]
    step = _STEPS.get(node.op) if is_standard(node) else None
    return step(node, known) if step else None


def _shape(node: Any, known: Known) -> tuple[Dim, ...] | None:
    return None if {"start", "end"} & set(node.attrs) else dims(node.inputs[0])


def _same(node: Any, known: Known) -> tuple[Dim, ...] | None:
    return shape_value(node.inputs[0], known)


def _gather(node: Any, known: Known) -> tuple[Dim, ...] | None:
    data = shape_value(node.inputs[0], known)
    if data is None or not isinstance(node.inputs[1], gs.Constant) or node.attrs.get("axis", 0) != 0:
        return None
    index = values_of(node.inputs[1]).ravel()
    return tuple(data[int(i)] for i in index) if all(-len(data) <= i < len(data) for i in index) else None


def _slice(node: Any, known: Known) -> tuple[Dim, ...] | None:
    data = shape_value(node.inputs[0], known)
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


def _concat(node: Any, known: Known) -> tuple[Dim, ...] | None:
    parts = [shape_value(t, known) for t in node.inputs]
    if any(part is None for part in parts):
        return None
    entries = tuple(entry for part in parts if part is not None for entry in part)
    return entries if len(entries) <= _MOST_STEPS else None


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
