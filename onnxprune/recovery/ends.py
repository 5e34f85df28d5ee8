"""Ends of two networks at which the loss is computed: outputs, or tensors in front of nodes without a gradient."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.engine.meaning import Meaning, meanings
from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Net, dims, numpy_dtype
from onnxprune.graph.model.outputs import ending, softmax_axis
from onnxprune.note import Note
from onnxprune.torchnet.ops import op_for
from onnxprune.torchnet.program import needed_nodes, unsupported

__all__ = ["End", "dependent", "loss_ends"]

_NO_GRADIENT = frozenset({"ArgMax", "ArgMin", "TopK", "Round", "Floor", "Ceil", "Sign"})
_RESHAPING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze"})


@dataclass(frozen=True)
class End:
    """A tensor that the loss compares.

    Attributes:
        tensor: its name.
        classes: axis of the logits of classes; None: numbers.
        probabilities: whether the classes' scores are probabilities; their logarithms are the logits.
        both: whether the tensor may hold classes or numbers, so that the loss compares it as both.
    """

    tensor: str
    classes: int | None = None
    probabilities: bool = False
    both: bool = False


def dependent(net: Net, weights: Collection[str]) -> set[str]:
    """Tensors that depend on some initializers."""
    found = set(weights)
    for node in net.nodes:
        if any(tensor.name in found for tensor in node.inputs):
            found.update(tensor.name for tensor in node.outputs)
    return found


def loss_ends(
    net: Net,
    weights: Collection[str],
    known: Container[str] | None = None,
    outputs: Mapping[str, Meaning] | None = None,
) -> tuple[tuple[End, ...], tuple[Note, ...]]:
    """Tensors at which two networks are compared, with notes on them.

    Args:
        net: the network to train.
        weights: the initializers to train.
        known: tensors of the network that it is compared with; `net`'s own unless given.
        outputs: what each output means; None: what the network itself says.

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
    outputs = meanings(net) if outputs is None else outputs
    return tuple(_ends(net, dict.fromkeys(chosen), known, outputs)), tuple(notes)


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


def _ends(net: Net, names: Iterable[str], known: Container[str], outputs: Mapping[str, Meaning]) -> Iterator[End]:
    """One end a tensor: an output by what it means, a tensor in front of one by the nodes around it."""
    tensors = net.tensors()
    for name in names:
        meaning = outputs.get(name)
        axis = None if meaning is not None else _label_axis(tensors[name])
        if axis is not None:
            yield End(name, axis)
        elif meaning is not None and (meaning.kind == "values" or (meaning.says is None and meaning.axis is None)):
            yield End(name)
        elif meaning is not None and meaning.says is None:
            yield End(name, meaning.axis, both=meaning.kind == "undecided")
        else:
            yield _softmax_end(net, tensors[name], known)


def _label_axis(tensor: Any) -> int | None:
    """Class axis of scores that an ArgMax reads; None where none does."""
    shape = dims(tensor)
    for node in tensor.outputs:
        if node.op == "ArgMax" and shape is not None:
            return int(node.attrs.get("axis", 0)) % max(len(shape), 1)
    return None


def _softmax_end(net: Net, tensor: Any, known: Container[str]) -> End:
    """A softmax at the end is taken off: its input says more, at any temperature."""
    place = tensor
    while place.inputs and place.inputs[0].op in _RESHAPING:
        place = place.inputs[0].inputs[0]
    made = place.inputs[0] if place.inputs else None
    if made is not None and made.op in ("Softmax", "LogSoftmax"):
        axis = softmax_axis(net, made)
        if axis is not None and made.inputs[0].name in known:
            return End(made.inputs[0].name, axis)
    end = ending(net, tensor.name)
    axis = None if end is None else end.axis
    return End(tensor.name, axis, probabilities=end is not None and end.says == "probabilities")
