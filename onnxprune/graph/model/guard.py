"""Checks for damaged files that `onnx.checker` leaves out: sizes of tensors, and attributes of layers.

After them every tensor has as many values as its shape says, and strides, pads, dilations and groups fit the weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto
from onnx.external_data_helper import _get_all_tensors

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Net, is_constant, is_standard
from onnxprune.graph.model.protos import bodies_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["check_folded", "check_layers", "check_tensors", "drop_empty_lists"]

_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}
"""Fields of values that are not raw, by type; of all others int32_data."""
_LISTS = frozenset({onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS})
_WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_LARGEST = 1 << 15
"""Largest stride, dilation, pad or kernel: no network has one, and an engine would take minutes for it."""


def check_tensors(model: onnx.ModelProto, label: str) -> None:
    """Check that all tensors of a model have as many values as their shapes say.

    Raises:
        ModelError: a tensor has too few or too many, or is of an unknown type.
    """
    for tensor in _get_all_tensors(model):
        if any(size < 0 for size in tensor.dims):
            raise ModelError(f"{label}: tensor '{tensor.name}' has the shape {list(tensor.dims)}")
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        count = math.prod(tensor.dims)
        try:
            wanted, found = _sizes(tensor, count)
        except KeyError:
            raise ModelError(f"{label}: tensor '{tensor.name}' has the unknown type {tensor.data_type}") from None
        if wanted != found:
            raise ModelError(
                f"{label}: tensor '{tensor.name}' of the shape {list(tensor.dims)} holds {found} bytes or values, "
                f"not {wanted}"
            )


def _sizes(tensor: TensorProto, count: int) -> tuple[int, int]:
    """Return the expected and the actual number of bytes or values of a tensor; KeyError for an unknown type."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name, 8 * dtype.itemsize)
    if tensor.HasField("raw_data"):
        return -(-count * bits // 8), len(tensor.raw_data)
    values = getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count, len(values)
    return (count if bits >= 8 else -(-count * bits // 8)), len(values)


def drop_empty_lists(graph: onnx.GraphProto) -> None:
    """Remove empty lists from the attributes of standard nodes: ``axes = []`` means what a missing ``axes`` means."""
    for node in graph.node:
        if is_standard(node) and node.op_type not in _WINDOWS | {"Constant"}:
            kept = [one for one in node.attribute if one.type not in _LISTS or one.ints or one.floats or one.strings]
            if len(kept) < len(node.attribute):
                del node.attribute[:]
                node.attribute.extend(kept)


def check_layers(graph: onnx.GraphProto, label: str) -> None:
    """Check attributes of nodes against each other, and against their weights where these are constants.

    Raises:
        ModelError: a list is empty, or strides, pads, dilations, kernel or groups do not fit.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        where = f"{label}: {node.op_type} '{node.name}'"
        given: dict[str, Sequence[int]] = {}
        for attribute in node.attribute:
            if attribute.type in _LISTS:
                values = attribute.ints or attribute.floats or attribute.strings
                if not values and (node.op_type in _WINDOWS or not is_standard(node)):
                    raise ModelError(f"{where}: its attribute '{attribute.name}' is empty")
                if attribute.ints:
                    given[attribute.name] = tuple(attribute.ints)
        if node.op_type in _WINDOWS and is_standard(node):
            for problem in _problems(node, given, weights):
                raise ModelError(f"{where}: {problem}")
        for body in bodies_of(node):
            check_layers(body, label)


def check_folded(net: Net) -> None:
    """Check the weights that were only known after constants were computed.

    Raises:
        ModelError: weights do not fit the groups, the maps, or the rank that their layer asks for.
    """
    for node in net.nodes:
        if node.op not in ("Conv", "ConvTranspose", "Gemm") or not is_standard(node):
            continue
        if len(node.inputs) < 2 or not is_constant(node.inputs[1]):
            continue
        shape = tuple(int(size) for size in node.inputs[1].shape)
        ranks = {len(tensor.shape) for tensor in (node.inputs[0], node.outputs[0]) if tensor.shape is not None}
        groups = int(node.attrs.get("group", 1))
        rank_fits = len(shape) == 2 if node.op == "Gemm" else len(shape) >= 3
        if not rank_fits or 0 in shape or groups < 1 or shape[0] % groups or ranks - {len(shape)}:
            raise ModelError(
                f"{net.source}: {node.op} '{node.name}': weights of the shape {list(shape)} do not fit it (group "
                f"{groups}, maps of {' and '.join(map(str, sorted(ranks))) or 'unknown'} axes)"
            )


def _problems(
    node: onnx.NodeProto, given: Mapping[str, Sequence[int]], weights: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    shape = weights.get(node.input[1]) if len(node.input) > 1 and "Conv" in node.op_type else None
    if shape is not None and (len(shape) < 3 or 0 in shape):
        yield f"its weights have the shape {list(shape)}"
    windows = {name: given[name] for name in ("kernel_shape", "strides", "dilations") if name in given}
    ranks: set[float] = {len(values) for values in windows.values()}
    if "pads" in given:
        ranks.add(len(given["pads"]) / 2)
    if shape is not None:
        ranks.add(len(shape) - 2)
    if len(ranks) > 1:
        yield "its kernel, strides, dilations and pads are of different lengths"
    for name, values in given.items():
        if name in windows and not 1 <= min(values) <= max(values) <= _LARGEST:
            yield f"its {name} is {list(values)}"
        if name == "pads" and max(map(abs, values)) > _LARGEST:
            yield f"its pads is {list(values)}"
    if "Conv" not in node.op_type:
        return
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    if groups < 1 or (shape is not None and shape[0] % groups):
        yield f"its group is {groups}" + (f", its weights have the shape {list(shape)}" if shape is not None else "")
    if shape is not None and "kernel_shape" in given and tuple(given["kernel_shape"]) != shape[2:]:
        yield f"its kernel_shape is {list(given['kernel_shape'])}, its weights have the shape {list(shape)}"
