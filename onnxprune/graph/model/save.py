"""Writing a network: checked as readers check it, and never a partial file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper, shape_inference

from onnxprune.errors import VerifyError
from onnxprune.graph.model.net import captured_names, first_line, lengthened

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnxprune.graph.model.net import Net

__all__ = ["complaint", "finished_model"]

_INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL})
_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALL = 256  # elements; shape inference reads the values of no weights that are larger
_REJECTED = (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError)
_STRICT_LIMIT = 2**31 - 1  # bytes; protobuf's limit for one message


def finished_model(net: Net) -> onnx.ModelProto:
    """Return the model to save, with shapes inferred anew and fully checked.

    Raises:
        VerifyError: the checker or strict shape inference rejects it.
    """
    model = net.to_model()
    _store_in_half(model.graph, net.header.half)
    _share_integers(model.graph, {name for node in net.nodes for name in captured_names(node)})
    # Shapes that were kept along the way may hide a mistake: only what follows from the inputs counts.
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=model.ByteSize() < _STRICT_LIMIT)
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=_is_standard(model))
    except _REJECTED as error:
        raise VerifyError(f"the result is not a valid model: {first_line(error)}") from error
    return inferred if net.header.has_shapes else model


def complaint(net: Net) -> str:
    """Return the error of `finished_model` in one line, empty if none; of large weights only the shapes are checked."""
    light = net.draft()
    for tensor in light.tensors().values():
        if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > _SMALL:
            given = tensor.to_variable(tensor.dtype, tensor.shape)
            given.type = "tensor_type"  # `to_variable` forgets it, and exporting asks for it
            light.graph.inputs.append(given)
    model = light.to_model()
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=_is_standard(model))
    except _REJECTED as error:
        return first_line(error)
    return ""


def _store_in_half(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Store float32 weights as float16 with a Cast behind each, as the original file does; too large ones stay."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in names or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.abs(values).max(initial=0.0) <= _LARGEST_HALF:
            continue
        full = tensor.name
        stored = lengthened(f"{full}_float16", taken)
        taken.add(stored)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [full], name=f"{stored}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _share_integers(graph: onnx.GraphProto, captured: set[str]) -> None:
    """One initializer for all equal integer constants: what loading gave a copy for each use."""
    outside = captured | {value.name for value in (*graph.input, *graph.output)}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type in _INTEGERS else None
        if values is None or tensor.name in outside:
            continue
        name = first.setdefault((tensor.data_type, values.shape, values.tobytes()), tensor.name)
        if name != tensor.name:
            renamed[tensor.name] = name
    kept = [tensor for tensor in graph.initializer if tensor.name not in renamed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)


def _is_standard(model: onnx.ModelProto) -> bool:
    """Strict inference knows only the standard operators."""
    return all(node.domain in ("", "ai.onnx") for node in model.graph.node)
