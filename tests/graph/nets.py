"""Small networks in textual ONNX, with random weights, for the tests of the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]


def build(
    body: str,
    weights: Mapping[str, tuple[int, ...] | Array],
    *,
    inputs: str = "float[N,3,8,8] x",
    outputs: str = "float[N,5] y",
    opset: int = 17,
    ir_version: int = 8,
    seed: int = 0,
    names: bool = True,
) -> onnx.ModelProto:
    """A checked model from textual nodes; weights are given as arrays, or as shapes to be drawn."""
    text = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(seed)
    for name, value in weights.items():
        array = value if isinstance(value, np.ndarray) else _drawn(generator, value)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if names:
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type.lower()}{index}"
    onnx.checker.check_model(model)
    return model


def _drawn(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    spread = np.sqrt(max(int(np.prod(shape[1:])), 1)) if len(shape) > 1 else 1.0
    return np.asarray(generator.standard_normal(shape) / spread, dtype=np.float32)


def feeds(model: onnx.ModelProto, batch: int = 2, seed: int = 1, size: int = 8) -> dict[str, Array]:
    """Random inputs; open sizes become the batch in front and `size` elsewhere."""
    weights = {tensor.name for tensor in model.graph.initializer}
    generator = np.random.default_rng(seed)
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value if d.dim_value > 0 else (batch if i == 0 else size) for i, d in enumerate(dims)]
        drawn = generator.integers(0, 255, shape) if kind.kind in "iu" else generator.standard_normal(shape)
        found[value.name] = drawn.astype(kind)
    return found


def outputs_of(model: onnx.ModelProto, given: Mapping[str, Array] | None = None) -> list[Array]:
    """All outputs, by onnxruntime without its graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(feeds(model) if given is None else given))]


def exact_outputs_of(model: onnx.ModelProto) -> list[Array]:
    """All outputs in float64, by the reference evaluator: slow, and without the rounding of float32."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in [*wide.graph.input, *wide.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    given = {
        name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in feeds(model).items()
    }
    return [np.asarray(value) for value in ReferenceEvaluator(wide).run(None, given)]


def computes_the_same(left: onnx.ModelProto, right: onnx.ModelProto) -> bool:
    """Two models give the same outputs; float64 decides where float32 rounds sums that nearly cancel."""
    if worst_difference(outputs_of(left), outputs_of(right)) < 1e-4:
        return True
    return worst_difference(exact_outputs_of(left), exact_outputs_of(right)) < 1e-9


def worst_difference(left: list[Array], right: list[Array]) -> float:
    """Largest difference as a share of the largest value, over all outputs."""
    assert [a.shape for a in left] == [b.shape for b in right]
    return max(
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b.astype(np.float64)).max(), 1e-12))
        for a, b in zip(left, right, strict=True)
    )


def around(
    operator: str,
    weights: Mapping[str, tuple[int, ...] | Array] | None = None,
    batch: int | str = "N",
    **options: Any,
) -> onnx.ModelProto:
    """conv -> `operator` (h to k, six channels of 8 x 8) -> conv -> pool -> dense."""
    options = {"inputs": f"float[{batch},3,8,8] x", "outputs": f"float[{batch},5] y", **options}
    body = (
        "h = Conv<pads=[1,1,1,1]>(x, w1, b1) "
        + operator
        + " z = Conv<pads=[1,1,1,1]>(k, w2, b2) r = Relu(z) p = GlobalAveragePool(r) f = Flatten(p) "
        "y = Gemm<transB=1>(f, w3, b3)"
    )
    drawn: dict[str, tuple[int, ...] | Array] = {
        "w1": (6, 3, 3, 3),
        "b1": (6,),
        "w2": (7, 6, 3, 3),
        "b2": (7,),
        "w3": (5, 7),
        "b3": (5,),
    }
    return build(body, {**drawn, **(weights or {})}, **options)


def ints(*values: int) -> Array:
    """An int64 constant."""
    return np.array(values, np.int64)


def operators(model: onnx.ModelProto) -> set[str]:
    """Operator types in a model."""
    return {node.op_type for node in model.graph.node}


def without_value_info(model: onnx.ModelProto) -> bytes:
    """A model as bytes to compare: no inferred shapes, which may come in any order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return bytes(copy.SerializeToString(deterministic=True))


def one_line(message: str) -> bool:
    """Whether a message is one line that says something."""
    return bool(message) and not re.search(r"[\r\n]", message)
