"""Folding of Constant nodes, known sizes, and all nodes whose inputs are constants.

Exporters leave arithmetic on shapes, and weights that are computed from others (weight normalisation, transposed or
scaled weights). Values come from the reference implementation of `onnx`. A node stays as it is where its result
would be much larger than its inputs, where the results of all would be much larger than the file, where it draws
random numbers, and where it unpacks quantized weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from onnxprune.graph.model.net import Draft, Net, dims, is_standard, numpy_dtype, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Budget", "fold_constants", "fold_known_shapes", "inline_constants"]

_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_KEPT = _RANDOM | {"Constant", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
_REVISED, _REVISED_IN = frozenset({"Hardmax", "LogSoftmax", "Softmax"}), 13  # before, they worked on two axes
_SLOW = frozenset(
    {
        *("AveragePool", "BatchNormalization", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DFT", "DeformConv"),
        *("GRU", "GridSample", "LSTM", "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "NonMaxSuppression", "RNN"),
        *("Resize", "RoiAlign", "STFT", "StringNormalizer", "TfIdfVectorizer", "Upsample"),
    }
)
"""Operators whose reference implementation takes a Python step for each value."""
_UNSUPPORTED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
)
"""What the reference operators of `onnx` raise on attributes and inputs that they do not support."""
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Equal", "Greater", "Less", "Where"})
_SCALAR_ATTRIBUTES: tuple[tuple[str, type[np.generic]], ...] = (("value_int", np.int64), ("value_float", np.float32))
_SMALL = 65536  # elements of a result that may be larger than the inputs, and of the inputs of slow operators
_GROWTH = 2  # of a larger result, against all inputs together
_MOST = 1 << 22  # elements of all results together, or so many times all constants


class Budget:
    """Number of elements that the results of folding may have, all together."""

    def __init__(self, net: Net) -> None:
        """Allow some times the elements of the network's constants."""
        held = sum(math.prod(t.shape) for t in net.tensors().values() if isinstance(t, gs.Constant))
        self.left = max(_MOST, _GROWTH * held)

    def takes(self, elements: float) -> bool:
        """Take a number of elements; False if there are fewer left."""
        if elements > self.left:
            return False
        self.left -= int(elements)
        return True


def _replace(node: Any, *results: np.ndarray[Any, Any]) -> None:
    """Put constants in the place of a node's outputs."""
    for tensor, values in zip(list(node.outputs), results, strict=True):
        constant = gs.Constant(tensor.name, np.array(values, order="C"))
        for consumer in list(tensor.outputs):
            for slot, name in enumerate(t.name for t in consumer.inputs):
                if name == tensor.name:
                    consumer.inputs[slot] = constant
    node.outputs.clear()


def _replaceable(node: Any, protected: frozenset[str]) -> bool:
    return len(node.outputs) == 1 and node.outputs[0].name not in protected


def inline_constants(net: Draft, protected: frozenset[str]) -> bool:
    """Make the values of Constant nodes constants; tell whether there was one."""
    changed = False
    for node in net.nodes:
        if node.op != "Constant" or not is_standard(node) or not node.outputs or not _replaceable(node, protected):
            continue
        values = _constant_value(node.attrs)
        if values is not None:
            _replace(node, values)
            changed = True
    return changed


def _constant_value(attrs: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    if isinstance(attrs.get("value"), gs.Constant):
        return values_of(attrs["value"])
    for name, kind in _SCALAR_ATTRIBUTES:
        if name in attrs:
            return np.array(attrs[name], kind)
        if name + "s" in attrs:
            return np.array(attrs[name + "s"], kind)
    return None


def fold_known_shapes(net: Draft, protected: frozenset[str]) -> bool:
    """Shape of a tensor of known size, and Gather of one known size out of a partly known shape."""
    changed = False
    for node in net.nodes:
        if node.op == "Shape" and is_standard(node) and node.outputs and not {"start", "end"} & set(node.attrs):
            shape = dims(node.inputs[0])
            if shape is None or not _replaceable(node, protected):
                continue
            if all(isinstance(size, int) for size in shape):
                _replace(node, np.array(shape, np.int64))
                changed = True
                continue
            for reader in list(node.outputs[0].outputs):
                changed |= _fold_gather_of_shape(net, reader, shape, protected)
    return changed


def _fold_gather_of_shape(net: Draft, node: Any, shape: tuple[Any, ...], protected: frozenset[str]) -> bool:
    if node.op != "Gather" or not is_standard(node) or not node.outputs:
        return False
    if not isinstance(node.inputs[1], gs.Constant) or node.inputs[1].name in net.overridable:
        return False
    index = values_of(node.inputs[1])
    if index.size and (index.min() < -len(shape) or index.max() >= len(shape)):
        return False
    picked = [shape[int(i)] for i in index.ravel()]
    if not _replaceable(node, protected) or not all(isinstance(size, int) for size in picked):
        return False
    _replace(node, np.array(picked, np.int64).reshape(index.shape))
    return True


def fold_constants(net: Draft, protected: frozenset[str], budget: Budget) -> bool:
    """Replace the results of standard nodes whose inputs are all constants; tell whether there was one."""
    changed = False
    for node in net.nodes:
        if not is_standard(node) or node.op in _KEPT or not node.outputs:
            continue
        if node.op in _REVISED and net.opset < _REVISED_IN:
            continue
        inputs = [t for t in node.inputs if not t.is_empty()]
        if not inputs or any(not isinstance(t, gs.Constant) or t.name in net.overridable for t in inputs):
            continue
        if any(tensor.name in protected for tensor in node.outputs) or not _is_affordable(node, inputs, budget):
            continue
        results = _evaluate(net, node)
        if results is not None and all(map(_is_storable, results, node.outputs)):
            _replace(node, *results)
            changed = True
    return changed


def _is_storable(values: Any, tensor: Any) -> bool:
    """Tell whether an initializer can hold a result, and whether it has the inferred type and shape."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iufb":
        return False
    shape = dims(tensor)
    if shape is not None and all(isinstance(size, int) for size in shape) and shape != values.shape:
        return False
    return tensor.dtype is None or values.dtype == numpy_dtype(tensor.dtype)


def _is_affordable(node: Any, inputs: list[Any], budget: Budget) -> bool:
    """Tell whether a node's results are known to be small, or hardly larger than its inputs, and quick to compute."""
    given = sum(math.prod(shape) for shape in {t.name: t.shape for t in inputs}.values())
    if any(isinstance(value, gs.Graph) for value in node.attrs.values()) or (node.op in _SLOW and given > _SMALL):
        return False
    shapes = [dims(tensor) for tensor in node.outputs]
    most = max(_SMALL, _GROWTH * given)
    known = [math.prod(size for size in shape if isinstance(size, int)) for shape in shapes if shape is not None]
    if len(known) == len(shapes) and all(isinstance(size, int) for shape in shapes for size in shape or ()):
        return sum(known) <= most and budget.takes(sum(known))
    with np.errstate(all="ignore"):
        found = _size_of(node, inputs)
    return found is not None and found <= most and budget.takes(found)


def _size_of(node: Any, inputs: list[Any]) -> float | None:
    """Elements of the result of a node for which shape inference has none; None where they are not known."""
    if node.op in {"ConstantOfShape", "Expand"}:
        shape = values_of(inputs[0 if node.op == "ConstantOfShape" else 1]).astype(np.float64)
        return float(np.prod(shape)) if np.all(shape >= 0) else None
    shapes = [tuple(int(size) for size in t.shape) for t in inputs]
    if node.op == "Gather":
        axis = int(node.attrs.get("axis", 0))
        inner = shapes[0][axis] if -len(shapes[0]) <= axis < len(shapes[0]) else 1
        return math.prod(shapes[1]) * math.prod(shapes[0]) / max(inner, 1)
    if node.op in _BROADCAST:
        try:
            return float(math.prod(np.broadcast_shapes(*shapes)))
        except ValueError:
            return None
    if node.op == "Range":
        start, limit, delta = (float(values_of(t).reshape(-1)[0]) for t in inputs)
        return max((limit - start) / delta, 0.0) if delta else None
    if node.op in {"Tile", "Pad", "OneHot", "Resize", "Upsample", "EyeLike", "Einsum", "MatMul", "Gemm"}:
        return None
    return float(sum(math.prod(shape) for shape in shapes))


def _evaluate(net: Net, node: Any) -> Sequence[Any] | None:
    """Results of one node on constants by the reference implementation; None where that has none."""
    graph = gs.Graph(
        nodes=[node],
        inputs=[],
        outputs=list(node.outputs),
        opset=net.opset,
        import_domains=net.graph.import_domains,
    )
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(gs.export_onnx(graph, do_type_check=False)).run(None, {})
        return [np.asarray(result) for result in results]
    except _UNSUPPORTED:  # the node then stays as it is, which is always right
        return None
