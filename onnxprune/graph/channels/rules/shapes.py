"""Shape: which of the sizes that a model computes when it runs are used, and for what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.channels.rules.registry import Coupling, NodeView, rule
from onnxprune.graph.model.net import dims, is_standard

__all__: list[str] = []

_Entries = tuple[int | None, ...]
"""Axis whose size an entry of a vector of sizes is; None: another value."""
_MOST_STEPS = 200


@rule("Shape", since=(1, 13, 15, 19, 21, 23, 24, 25))
def shape(node: NodeView) -> Coupling:
    """It is right whatever was removed where its entries are dropped, or are the sizes that the very same tensor is
    resized to, each on its own axis."""
    source = node.input_shape(0) or ()
    read = _read_entries(node, len(source))
    free = frozenset(node.input_axis(0, axis) for axis in range(len(source)) if axis not in read)
    return Coupling(free=free, reason="its size is read")


def _read_entries(node: NodeView, rank: int) -> set[int]:
    """Axes whose sizes are used otherwise."""
    start, end = node.attribute("start", 0), node.attribute("end", rank)
    waiting: list[tuple[Any, _Entries]] = [(node.node.outputs[0], tuple(range(rank))[slice(start, end)])]
    read: set[int] = set()
    seen: set[tuple[str, _Entries]] = set()
    while waiting:
        tensor, entries = waiting.pop()
        if (tensor.name, entries) in seen:
            continue
        seen.add((tensor.name, entries))
        used = {entry for entry in entries if entry is not None}
        if not tensor.outputs or tensor.name in node.protected or len(seen) > _MOST_STEPS:
            read |= used
            continue
        for reader in tensor.outputs:
            if _is_sizes(reader, tensor, node.node.inputs[0].name):
                read |= {entry for place, entry in enumerate(entries) if entry is not None and entry != place}
                continue
            passed = _PASS[reader.op](reader, tensor, entries) if reader.op in _PASS and is_standard(reader) else None
            if passed is None or not reader.outputs:
                read |= used
            else:
                waiting.append((reader.outputs[0], passed))
    return read


def _is_sizes(reader: Any, tensor: Any, source: str) -> bool:
    """Tell whether a tensor holds the sizes that another one is resized to, all axes of it, and nothing else."""
    if reader.op != "Resize" or not is_standard(reader) or reader.inputs[0].name != source:
        return False
    places = [place for place, given in enumerate(reader.inputs) if given is tensor]
    return places == [3] and not reader.attrs.get("axes")


def _same_entries(reader: Any, tensor: Any, entries: _Entries) -> _Entries | None:
    return entries if reader.inputs[0] is tensor else None


def _gathered(reader: Any, tensor: Any, entries: _Entries) -> _Entries | None:
    index = reader.inputs[1] if len(reader.inputs) > 1 else None
    if reader.inputs[0] is not tensor or not isinstance(index, gs.Constant) or reader.attrs.get("axis", 0) != 0:
        return None
    picked = [int(value) for value in np.ravel(index.values)]
    return tuple(entries[i] for i in picked) if all(-len(entries) <= i < len(entries) for i in picked) else None


def _sliced(reader: Any, tensor: Any, entries: _Entries) -> _Entries | None:
    if "starts" in reader.attrs:
        bounds = [list(reader.attrs["starts"]), list(reader.attrs["ends"]), [0], [1]]
    elif all(isinstance(given, gs.Constant) for given in reader.inputs[1:]):
        bounds = [np.ravel(given.values).tolist() for given in reader.inputs[1:]]
        bounds += [[0], [1]][len(bounds) - 2 :]
    else:
        return None
    if reader.inputs[0] is not tensor or any(len(bound) != 1 for bound in bounds):
        return None
    return entries[slice(int(bounds[0][0]), int(bounds[1][0]), int(bounds[3][0]))] if int(bounds[3][0]) else None


def _joined(reader: Any, tensor: Any, entries: _Entries) -> _Entries | None:
    parts: list[int | None] = []
    for given in reader.inputs:
        size = dims(given)
        if given is not tensor and (size is None or len(size) != 1 or not isinstance(size[0], int)):
            return None
        parts += entries if given is tensor else [None] * int((size or (0,))[0] or 0)
    return tuple(parts) if len(parts) <= _MOST_STEPS else None


_PASS: dict[str, Callable[[Any, Any, _Entries], _Entries | None]] = {
    **dict.fromkeys(("Cast", "Identity", "Unsqueeze", "Squeeze"), _same_entries),
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
}
