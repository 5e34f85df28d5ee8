"""Folding BatchNormalization, and the constant Mul and Add that follow it, into the weights beside them.

Behind a layer (Conv, ConvTranspose, Gemm) with y = W x + b, the normalisation s y + t is the layer (s W) x + (s b +
t), with s = scale / sqrt(var + epsilon) and t = bias - s mean. In front of a Conv or Gemm it is (W s) x + (W t +
b); with padding that is exact only where t = 0, since the padded zeros come after the normalisation. He et al. fold
the same way before pruning ("merge_bn" of the published code). All sums are made in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Draft, Net, dims, is_per_output, is_standard, values_of
from onnxprune.note import Note

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["fold"]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_SCALES = frozenset({"Mul", "Add"})
_AFFINE = _SCALES | {"BatchNormalization"}


@dataclass(frozen=True)
class _Affine:
    """y = scale * x + shift per channel, what a BatchNormalization or a constant Mul or Add does at inference."""

    scale: Array  # (channels,)
    shift: Array  # (channels,)


def fold(net: Net) -> tuple[Net, tuple[Note, ...]]:
    """Fold every BatchNormalization that can be folded; return the network, and a note on each that cannot.

    Folding a second time changes nothing.
    """
    if not any(node.op in _AFFINE for node in net.nodes):
        return net, ()
    draft = net.draft()
    folded, before = 0, -1
    while folded > before:  # a fold may open the way for another in front of it
        before = folded
        for node in draft.nodes:
            found = _foldable(draft, node)
            if found is not None:
                affine, layer, behind = found
                (_absorb_behind if behind else _absorb_in_front)(draft, layer, affine)
                _bypass(draft, node)
                folded += 1
    net = draft.done(tidy=True)
    left = [
        Note(node.name, f"not folded: {_why_left(net, node)}") for node in net.nodes if node.op == "BatchNormalization"
    ]
    notes = [Note("BatchNormalization", f"{folded} normalisations and constant scales folded")] if folded else []
    return net, (*notes, *left)


def _foldable(net: Net, node: Any) -> tuple[_Affine, Any, bool] | None:
    """Return the map of a node, the layer that can take it in, and whether the node is behind that layer."""
    affine = _affine_of(net, node) if node.outputs else ""  # a node without outputs has been folded
    if isinstance(affine, str):
        return None
    layer = _layer_behind_which(net, node)
    if not isinstance(layer, str):
        return affine, layer, True
    layer = _layer_in_front_of_which(net, node, affine)
    if node.op == "BatchNormalization" and is_standard(node) and not isinstance(layer, str):
        return affine, layer, False
    return None


def _why_left(net: Net, node: Any) -> str:
    affine = _affine_of(net, node)
    if isinstance(affine, str):
        return affine
    behind = _layer_behind_which(net, node)
    return f"{behind}; {_layer_in_front_of_which(net, node, affine)}"


def _affine_of(net: Net, node: Any) -> _Affine | str:
    """The per-channel map of a node, or the reason why it has none."""
    if not is_standard(node):
        return f"{node.op} of domain '{node.domain}' is not ONNX's own"
    if node.op == "BatchNormalization":
        return _batch_norm(net, node)
    if node.op in _SCALES:
        return _constant_operand(net, node)
    return f"{node.op} is no per-channel scale"


def _batch_norm(net: Net, node: Any) -> _Affine | str:
    if node.attrs.get("training_mode", 0) or len([t for t in node.outputs if not t.is_empty()]) > 1:
        return "it is in training mode"
    if not node.attrs.get("spatial", 1):
        return "it normalises each position on its own (spatial=0)"
    parameters = node.inputs[1:5]
    for tensor in parameters:
        if not isinstance(tensor, gs.Constant):
            return f"its parameter '{tensor.name}' is computed or a graph input"
        if tensor.name in net.overridable:
            return f"its parameter '{tensor.name}' is a graph input"
    if len({tuple(tensor.shape) for tensor in parameters}) != 1 or len(parameters[0].shape) != 1:
        return "its parameters do not have the same one axis"
    weight, bias, mean, variance = (values_of(t).astype(np.float64) for t in parameters)
    deviation = np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    if not np.all(np.isfinite(deviation)) or np.any(deviation <= 0):
        return "its variance is not positive"
    scale = weight / deviation
    return _Affine(scale, bias - scale * mean)


def _constant_operand(net: Net, node: Any) -> _Affine | str:
    """Mul or Add by a constant that has one value a channel (axis 1) or one in all."""
    constants = [t for t in node.inputs if isinstance(t, gs.Constant) and t.name not in net.overridable]
    others = [t for t in node.inputs if t not in constants]
    if len(constants) != 1 or len(others) != 1:
        return "it has no constant operand"
    shape = dims(others[0])
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return "its input has no known channel axis"
    values = values_of(constants[0]).astype(np.float64)
    aligned = (1,) * (len(shape) - values.ndim) + values.shape
    if values.ndim > len(shape) or any(size != 1 for axis, size in enumerate(aligned) if axis != 1):
        return "its constant varies along other axes than the channels"
    if aligned[1] not in (1, shape[1]) or dims(node.outputs[0]) != shape:
        return "its constant widens the tensor"
    operand = np.broadcast_to(values.reshape(-1), (shape[1],))
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    return _Affine(operand, zero) if node.op == "Mul" else _Affine(one, operand)


def _layer_behind_which(net: Net, node: Any) -> Any:
    """The layer whose output is scaled, or the reason why it cannot take the scale in."""
    source = next((t for t in node.inputs if not isinstance(t, gs.Constant)), None)
    if source is None:
        return "it works on a constant"
    producer = source.inputs[0] if source.inputs else None
    if producer is None or producer.op not in _LAYERS or not is_standard(producer):
        return f"it follows {producer.op if producer else 'a graph input'}, not a layer with weights"
    if len(source.outputs) != 1 or source.name in net.output_names:
        return f"the output of {producer.op} '{producer.name}' is read elsewhere too"
    return _writable(net, producer)


def _layer_in_front_of_which(net: Net, node: Any, affine: _Affine) -> Any:
    """The layer whose input is scaled, or the reason why it cannot take the scale in."""
    result = node.outputs[0]
    if len(result.outputs) != 1 or result.name in net.output_names:
        return "its own output is read by several nodes"
    consumer = result.outputs[0]
    if consumer.op not in {"Conv", "Gemm"} or not is_standard(consumer) or consumer.inputs[0] is not result:
        return f"its output goes into {consumer.op}"
    if consumer.op == "Gemm" and consumer.attrs.get("transA", 0):
        return "its output goes into a transposed Gemm"
    if consumer.op == "Conv" and _pads(consumer) and np.any(affine.shift != 0):
        return f"Conv '{consumer.name}' pads what it normalises, so its shift cannot move behind the padding"
    return _writable(net, consumer)


def _pads(conv: Any) -> bool:
    automatic = conv.attrs.get("auto_pad", "NOTSET")
    return automatic not in {"NOTSET", "VALID"} or any(conv.attrs.get("pads", []))


def _writable(net: Net, layer: Any) -> Any:
    """The layer, or the reason why its weights may not be changed."""
    for tensor in layer.inputs[1:3]:
        if tensor.is_empty():
            continue
        if not isinstance(tensor, gs.Constant):
            return f"the weights of {layer.op} '{layer.name}' are computed"
        if tensor.name in net.overridable:
            return f"the weights of {layer.op} '{layer.name}' are graph inputs"
        if len(tensor.outputs) != 1 or tensor.name in net.output_names:
            return f"the weights of {layer.op} '{layer.name}' are shared with another node"
    if layer.op == "Gemm" and (layer.attrs.get("transA", 0) or len(layer.inputs[1].shape) != 2):
        return f"Gemm '{layer.name}' is transposed"
    bias = layer.inputs[2] if len(layer.inputs) > 2 and not layer.inputs[2].is_empty() else None
    outputs = layer.inputs[1].shape[0 if layer.attrs.get("transB", 0) else 1]
    if layer.op == "Gemm" and bias is not None and not is_per_output(bias.shape, int(outputs)):
        return f"what Gemm '{layer.name}' adds differs from row to row"
    return layer


def _output_view(layer: Any, weight: Array) -> tuple[Array, tuple[int, ...]]:
    """The weights as (groups, before, outputs per group, after), so that one scale an output broadcasts."""
    if layer.op == "ConvTranspose":
        groups = layer.attrs.get("group", 1)
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1), (
            groups,
            1,
            weight.shape[1],
            1,
        )
    if layer.op == "Gemm" and not layer.attrs.get("transB", 0):
        return weight.reshape(1, weight.shape[0], weight.shape[1], 1), (1, 1, weight.shape[1], 1)
    return weight.reshape(1, 1, weight.shape[0], -1), (1, 1, weight.shape[0], 1)


def _absorb_behind(net: Draft, layer: Any, affine: _Affine) -> None:
    weight = values_of(layer.inputs[1]).astype(np.float64)
    view, shape = _output_view(layer, weight)
    scaled = (view * affine.scale.reshape(shape)).reshape(weight.shape)
    _write(net, layer, scaled, affine.scale * _bias(layer, affine.scale.size) + affine.shift)


def _absorb_in_front(net: Draft, layer: Any, affine: _Affine) -> None:
    weight = values_of(layer.inputs[1]).astype(np.float64)
    if layer.op == "Gemm":
        matrix = weight if layer.attrs.get("transB", 0) else weight.T  # (outputs, inputs)
        bias = _bias(layer, matrix.shape[0]) + layer.attrs.get("alpha", 1.0) * matrix @ affine.shift
        scaled = matrix * affine.scale
        _write(net, layer, scaled if layer.attrs.get("transB", 0) else scaled.T, bias)
        return
    groups = layer.attrs.get("group", 1)
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scale, shift = (v.reshape(groups, 1, weight.shape[1], 1) for v in (affine.scale, affine.shift))
    bias = _bias(layer, weight.shape[0]) + (split * shift).sum(axis=(2, 3)).reshape(-1)
    _write(net, layer, (split * scale).reshape(weight.shape), bias)


def _bias(layer: Any, size: int) -> Array:
    if len(layer.inputs) < 3 or layer.inputs[2].is_empty():
        return np.zeros(size)
    factor = layer.attrs.get("beta", 1.0) if layer.op == "Gemm" else 1.0
    return np.broadcast_to(factor * values_of(layer.inputs[2]).astype(np.float64).reshape(-1), (size,))


def _write(net: Draft, layer: Any, weight: Array, bias: Array) -> None:
    kind = layer.inputs[1].dtype
    old = layer.inputs[1]
    layer.inputs[1] = gs.Constant(old.name, weight.astype(kind))
    has_bias = len(layer.inputs) > 2 and not layer.inputs[2].is_empty()
    name = layer.inputs[2].name if has_bias else net.unused_name(f"{layer.name}_bias")
    constant = gs.Constant(name, bias.astype(kind))
    if len(layer.inputs) > 2:
        layer.inputs[2] = constant
    else:
        layer.inputs.append(constant)
    if layer.op == "Gemm":
        layer.attrs["beta"] = 1.0


def _bypass(net: Draft, node: Any) -> None:
    """Disconnect a folded node; its readers and the graph outputs keep the name of its output tensor."""
    source = next(t for t in node.inputs if not isinstance(t, gs.Constant))
    result = node.outputs[0]
    producer = source.inputs[0] if source.inputs else None
    node.outputs.clear()
    if producer is not None and len(source.outputs) == 1 and source.name not in net.output_names:
        producer.outputs[[t.name for t in producer.outputs].index(source.name)] = result
    else:
        for consumer in list(result.outputs):
            for slot, tensor in enumerate(list(consumer.inputs)):
                if tensor is result:
                    consumer.inputs[slot] = source
    node.inputs.clear()
