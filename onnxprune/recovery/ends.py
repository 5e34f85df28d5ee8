"""Where the loss is taken: at the outputs, or in front of whatever stands behind the last layer and has no gradient."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.graph.net import Net, dims, numpy_dtype
from onnxprune.note import Note
from onnxprune.recovery.ops import op_for
from onnxprune.recovery.program import needed_nodes, unsupported

__all__ = ["End", "dependent", "loss_ends"]

_NO_GRADIENT = frozenset({"ArgMax", "ArgMin", "TopK", "Round", "Floor", "Ceil", "Sign"})
_RESHAPING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze"})


@dataclass(frozen=True)
class End:
    """A tensor that the loss compares.

    Attributes:
        tensor: its name.
        classes: axis of the logits of classes; None: numbers.
        probabilities: of classes; their logarithms are the logits.
    """

    tensor: str
    classes: int | None = None
    probabilities: bool = False


def dependent(net: Net, weights: Collection[str]) -> set[str]:
    """Tensors that depend on some initializers."""
    found = set(weights)
    for node in net.nodes:
        if any(tensor.name in found for tensor in node.inputs):
            found.update(tensor.name for tensor in node.outputs)
    return found


def loss_ends(
    net: Net, weights: Collection[str], known: Container[str] | None = None
) -> tuple[tuple[End, ...], tuple[Note, ...]]:
    """Where two networks are compared, and what is to be said of it.

    Args:
        net: the network to train.
        weights: the initializers to train.
        known: tensors of the network that it is compared with; `net`'s own unless given.

    Raises:
        ModelError: nothing that depends on the weights can be compared, or torch cannot run a node in front of a layer.
    """
    live = dependent(net, weights)
    needed = needed_nodes(net, net.output_names)
    behind = _behind_the_last_layer(needed, live, weights)
    blocked = [
        node
        for node in needed
        if node.name in behind and (node.op in _NO_GRADIENT or isinstance(op_for(node.op, node.domain, net.opset), str))
    ]
    cut: set[str] = set()  # nodes that are not run: those, and all behind them
    lost: set[str] = {node.name for node in blocked}
    for node in needed:
        if node.name in lost or any(tensor.name in cut for tensor in node.inputs):
            lost.add(node.name)
            cut.update(tensor.name for tensor in node.outputs)
    names: dict[str, None] = {}
    for node in needed:
        if node.name in lost:
            names.update(dict.fromkeys(t.name for t in node.inputs if t.name in live and t.name not in cut))
    names.update(dict.fromkeys(name for name in net.output_names if name in live and name not in cut))
    tensors = net.tensors()
    chosen = [name for name in names if name not in weights and _is_float(tensors[name])]
    if not chosen:
        raise ModelError(f"{net.source}: no output depends on weights that can be trained: leave --recover out")
    missing = unsupported(net, needed_nodes(net, chosen))
    if missing:
        raise ModelError(f"{net.source}: {missing}")
    notes = [Note(node.name, f"{node.op}: the loss is taken in front of it") for node in blocked]
    notes += [
        Note(name, "does not depend on weights that can be trained: left out of the loss")
        for name in net.output_names
        if name not in live
    ]
    known = tensors if known is None else known
    return tuple(_end(net, tensors[name], known) for name in dict.fromkeys(chosen)), tuple(notes)


def _behind_the_last_layer(nodes: Iterable[Any], live: Collection[str], weights: Collection[str]) -> set[str]:
    """Names of nodes that depend on weights, and on whose results no further weights work."""
    leading: set[str] = set()  # tensors that some layer reads, sooner or later
    found = set()
    for node in reversed(list(nodes)):
        results = {tensor.name for tensor in node.outputs}
        inputs = {tensor.name for tensor in node.inputs}
        if results & leading or inputs & set(weights):
            leading |= inputs
        elif inputs & set(live):
            found.add(node.name)
    return found


def _is_float(tensor: Any) -> bool:
    return tensor.dtype is None or bool(np.issubdtype(numpy_dtype(tensor.dtype), np.floating))


def _end(net: Net, tensor: Any, known: Container[str]) -> End:
    """A softmax at the end is taken off: its input says more, at any temperature."""
    place = tensor
    while place.inputs and place.inputs[0].op in _RESHAPING:
        place = place.inputs[0].inputs[0]
    made = place.inputs[0] if place.inputs else None
    if made is not None and made.op in ("Softmax", "LogSoftmax"):
        source = made.inputs[0]
        shape = dims(source)
        old = net.opset < 13  # then it runs over all axes from its own on
        axis = int(made.attrs.get("axis", 1 if old else -1)) % max(len(shape or ()), 1)
        if shape is not None and not (old and any(size != 1 for size in shape[axis + 1 :])):
            if source.name in known:
                return End(source.name, axis)
            if place is tensor:
                return End(tensor.name, axis, probabilities=made.op == "Softmax")
    shape = dims(tensor)
    # (N, C) and (N, C, 1, 1); (N, C, 1) are rather scores of places.
    scores = shape is not None and len(shape) in (2, 4, 5) and shape[1] != 1 and all(size == 1 for size in shape[2:])
    return End(tensor.name, 1 if scores else None)
