"""Choice of the initializers to train, and balance of their scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from onnxprune.graph.model.net import LAYERS, Net, captured_names, is_constant, is_standard, numpy_dtype, values_of
from onnxprune.graph.model.patterns import meant

__all__ = ["balanced", "trainable"]

_SCALED = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"})


def trainable(net: Net, freeze: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the initializers to train, each once, in order of first use.

    Weights and biases of layers, scales and biases of normalisations, slopes of PRelu, and what is added behind a
    layer. Not those that a caller may override, that a control-flow body reads, or that a node reads whose name
    matches one of the `freeze` globs: a shared weight is frozen if one of its users is.
    """
    frozen, held = set(net.overridable), meant(freeze, (node.name for node in net.nodes))
    found: dict[str, None] = {}
    for node in net.nodes:
        frozen.update(captured_names(node))
        names = [tensor.name for tensor in _weights(node)] if is_standard(node) else []
        if node.name in held:
            frozen.update(tensor.name for tensor in node.inputs)
        found.update(dict.fromkeys(names))
    return tuple(name for name in found if name not in frozen)


def _weights(node: Any) -> Iterator[Any]:
    """Select the constants of a node that are trained."""
    if node.op in LAYERS or node.op in _SCALED:
        slots = range(len(node.inputs)) if node.op == "MatMul" else range(1, 3)
    elif node.op == "PRelu":
        slots = range(1, 2)
    elif node.op == "Add" and any(made.op in LAYERS for tensor in node.inputs for made in tensor.inputs):
        slots = range(2)
    else:
        return
    for tensor in [node.inputs[slot] for slot in slots if slot < len(node.inputs)]:
        if is_constant(tensor) and np.issubdtype(numpy_dtype(tensor.dtype), np.floating):
            yield tensor


def balanced(net: Net, names: Collection[str]) -> Net:
    """Scale the factors of every linear chain of convs alike in a copy of the network.

    Channel by channel, the first conv's weights that make it get the norm of the second conv's weights that read it.
    One learning rate then suits both.

    Args:
        net: the network.
        names: initializers that may change.
    """
    draft = net.draft()
    uses = Counter(tensor.name for node in draft.nodes for tensor in node.inputs if is_constant(tensor))
    for first in draft.nodes:
        second = _next_factor(draft, first)
        if second is None:
            continue
        touched = [first.inputs[1], second.inputs[1], *first.inputs[2:3]]
        if any(tensor.name not in names or uses[tensor.name] > 1 for tensor in touched if not tensor.is_empty()):
            continue
        scale = _balance(values_of(first.inputs[1]), values_of(second.inputs[1]))
        _scale(first.inputs[1], scale, 0)
        _scale(second.inputs[1], 1 / scale, 1)
        if len(first.inputs) > 2 and not first.inputs[2].is_empty():
            _scale(first.inputs[2], scale, 0)
    return draft.done()


def _balance(made: Any, read: Any) -> Any:
    """(channels,) float64: what the first weights are multiplied by, and the second divided, channel by channel."""
    norms = [
        np.linalg.norm(np.moveaxis(weights.astype(np.float64), axis, 0).reshape(weights.shape[axis], -1), axis=1)
        for weights, axis in ((made, 0), (read, 1))
    ]
    usable = (norms[0] > 0) & (norms[1] > 0)
    return np.where(usable, np.sqrt(norms[1] / np.where(usable, norms[0], 1.0)), 1.0)


def _next_factor(net: Net, first: Any) -> Any | None:
    """The conv that alone reads a conv's output, and reads all its channels together."""
    if first.op != "Conv" or not is_standard(first) or first.outputs[0].name in net.output_names:
        return None
    readers = first.outputs[0].outputs
    if len(readers) != 1 or readers[0].op != "Conv" or int(readers[0].attrs.get("group", 1)) != 1:
        return None
    second = readers[0]
    constant = all(is_constant(node.inputs[1]) for node in (first, second))
    return second if constant and second.inputs[0] is first.outputs[0] else None


def _scale(tensor: Any, factors: Any, axis: int) -> None:
    values = values_of(tensor)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)]
    tensor.values = np.ascontiguousarray((values * factors.reshape(shape)).astype(values.dtype))
