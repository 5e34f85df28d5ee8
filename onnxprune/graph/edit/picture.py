"""A smaller picture for an unchanged network: a Resize behind its input, whose shape stays what it was.

Weights do not depend on the size of the picture, so a network whose outputs do not either (their maps are pooled away)
takes fewer multiply-accumulates on a smaller one. The Resize is put where the picture meets the first node that
mixes positions, behind casts, normalisation and transposition. Pooling with a kernel as large as its map becomes
global, because the map gets smaller. Padding is a larger part of a smaller map, which makes its features larger or
smaller throughout: `with_scaled_layer` puts that right in front of the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Draft, Net, captured_names, constant, dims, is_constant, is_standard, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Picture", "find_picture", "with_picture", "with_scaled_layer", "with_small_input"]

_POINTWISE = frozenset({"Identity", "Cast", "Add", "Sub", "Mul", "Div", "Clip"})
_GLOBAL = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}
_LEAST_SIDE = 64  # pixels; a smaller picture has none to spare
_LEAST_OPSET = 11  # Resize with half-pixel coordinates
_ANTIALIAS = 18  # opset whose Resize has the attribute
_SHARP = 0.5  # factor from which linear interpolation reads every pixel: the sharper picture is the better one


@dataclass(frozen=True)
class Picture:
    """Place at which a network's picture can be resized.

    Attributes:
        input: name of the input.
        input_axes: axes of height and width of the input.
        tensor: name of the tensor to resize.
        axes: axes of height and width of the tensor.
        size: height and width in pixels.
    """

    input: str
    input_axes: tuple[int, int]
    tensor: str
    axes: tuple[int, int]
    size: tuple[int, int]


def find_picture(net: Net, name: str, axes: tuple[int, int]) -> Picture:
    """Find the place at which the picture of an input can be resized.

    Args:
        net: the network.
        name: name of the input.
        axes: axes of height and width of the input.

    Raises:
        ModelError: the picture cannot be resized; the message has the reason.
    """
    if net.opset < _LEAST_OPSET:
        raise ModelError(f"opset {net.opset} has no Resize with half-pixel coordinates, opset {_LEAST_OPSET} has")
    tensor, input_axes = net.tensors()[name], axes
    shape = dims(tensor)
    height, width = (None, None) if shape is None else (shape[axis] for axis in axes)
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelError("the model leaves the size of its pictures open: feed it smaller ones")
    if min(height, width) < _LEAST_SIDE:
        raise ModelError(f"a picture of {height}x{width} pixels is below {_LEAST_SIDE}x{_LEAST_SIDE}")
    held = {*net.output_names, *(captured for node in net.nodes for captured in captured_names(node))}
    while (found := _moved(tensor, axes)) is not None and tensor.name not in held:
        tensor, axes = found
    if np.issubdtype(np.dtype(tensor.dtype or np.float32), np.integer) or tensor.name in held:
        raise ModelError(f"tensor '{tensor.name}' at the input holds whole numbers, or is an output")
    return Picture(name, input_axes, tensor.name, axes, (height, width))


def with_picture(net: Net, picture: Picture, size: tuple[int, int]) -> Net:
    """Return the network on a smaller picture; inputs and outputs keep their shapes.

    Args:
        net: the network.
        picture: where the picture is resized.
        size: height and width in pixels.

    Raises:
        ModelError: a layer or an output needs a picture of the original size.
    """
    draft = net.draft()
    for node in draft.nodes:
        if node.op in _GLOBAL and _covers_its_map(node):
            node.op = _GLOBAL[node.op]
            node.attrs.clear()
    source = draft.tensors()[picture.tensor]
    readers = list(source.outputs)
    smaller = gs.Variable(draft.unused_name(f"{source.name}_resized"), dtype=source.dtype)
    scales = np.ones(len(source.shape), np.float32)
    for axis, before, after in zip(picture.axes, picture.size, size, strict=True):
        scales[axis] = _scale(before, after)
    region = constant(draft.unused_name(f"{source.name}_region"), np.zeros(0, np.float32))
    factors = constant(draft.unused_name(f"{source.name}_scales"), scales)
    attributes: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if net.opset >= _ANTIALIAS and min(scales) < _SHARP:
        attributes["antialias"] = 1
    names = {node.name for node in draft.nodes}
    name = "resize_picture"
    while name in names:
        name += "_"
    resize = gs.Node("Resize", name, attributes, [source, region, factors], [smaller])
    for reader in readers:
        reader.inputs = [smaller if tensor is source else tensor for tensor in reader.inputs]
    draft.graph.nodes.append(resize)
    return _inferred(draft, net)


def with_small_input(net: Net, picture: Picture, size: tuple[int, int]) -> Net:
    """Return a network of `with_picture` without its Resize: the caller feeds the smaller picture.

    Args:
        net: the network with a Resize behind its input.
        picture: where the picture is resized.
        size: height and width in pixels.
    """
    draft = net.draft()
    source = draft.tensors()[picture.tensor]
    resize = next(node for node in draft.nodes if node.op == "Resize" and node.inputs[0] is source)
    smaller = resize.outputs[0]
    for reader in list(smaller.outputs):
        reader.inputs = [source if tensor is smaller else tensor for tensor in reader.inputs]
    resize.outputs.clear()
    shape = list(draft.tensors()[picture.input].shape)
    for axis, side in zip(picture.input_axes, size, strict=True):
        shape[axis] = side
    draft.tensors()[picture.input].shape = shape
    return _inferred(draft, net)


def with_scaled_layer(net: Net, name: str, factor: float) -> Net:
    """Return the network with the weights of a layer, not its bias, multiplied by a factor."""
    draft = net.draft()
    node = next(node for node in draft.nodes if node.name == name)
    values = values_of(node.inputs[1])
    node.inputs[1] = constant(draft.unused_name(node.inputs[1].name), np.asarray(values * factor, values.dtype))
    return draft.done(tidy=True)


def _inferred(draft: Draft, before: Net) -> Net:
    """Make the network of a draft, with shapes inferred anew; its outputs must have the shapes that they had.

    Raises:
        ModelError: an output has another shape.
    """
    shapes = {tensor.name: dims(tensor) for tensor in before.graph.outputs}
    model = draft.done(tidy=True).to_model()
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = Net.from_model(model, source=before.source, overridable=before.overridable, header=before.header)
    for tensor in inferred.graph.outputs:
        found, wanted = dims(tensor), shapes[tensor.name]
        if found is None or wanted is None or not _alike(found, wanted):
            raise ModelError(f"output '{tensor.name}' would be {_text(found)} in the place of {_text(wanted)}")
    named = inferred.draft()
    for tensor in named.graph.outputs:
        tensor.shape = list(before.tensors()[tensor.name].shape)
    return named.done()


def _moved(tensor: Any, axes: tuple[int, int]) -> tuple[Any, tuple[int, int]] | None:
    """Follow a tensor through its only reader, if that treats all positions alike; None if it does not."""
    if len(tensor.outputs) != 1:
        return None
    node = tensor.outputs[0]
    if not is_standard(node) or len(node.outputs) != 1:
        return None
    if node.op == "Transpose":
        order = [int(axis) for axis in node.attrs.get("perm", range(len(tensor.shape))[::-1])]
        return node.outputs[0], (order.index(axes[0]), order.index(axes[1]))
    others = [other for other in node.inputs if other is not tensor and not other.is_empty()]
    if node.op not in _POINTWISE or not all(_per_channel(other, len(tensor.shape), axes) for other in others):
        return None
    return node.outputs[0], axes


def _per_channel(tensor: Any, rank: int, axes: tuple[int, int]) -> bool:
    """Tell whether a tensor is a constant with one value for all positions."""
    if not is_constant(tensor):
        return False
    shape = (1,) * (rank - values_of(tensor).ndim) + values_of(tensor).shape
    return len(shape) == rank and all(shape[axis] == 1 for axis in axes)


def _covers_its_map(node: Any) -> bool:
    """Tell whether a pooling node makes one value of each map."""
    shape, after = dims(node.inputs[0]), dims(node.outputs[0])
    kernel = node.attrs.get("kernel_shape")
    plain = not any(node.attrs.get("pads", ())) and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if shape is None or after is None or kernel is None or not plain or len(node.outputs) != 1:
        return False
    return list(shape[2:]) == [int(side) for side in kernel] and all(side == 1 for side in after[2:])


def _scale(before: int, after: int) -> float:
    """Return the float32 factor closest to ``after / before`` with which the size, rounded down, is ``after``.

    The product must not fall below ``after`` in float32, as engines compute it, nor in float64, as onnx infers it.
    """
    scale = np.float32(after / before)
    while min(float(np.float32(before) * scale), before * float(scale)) < after:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def _alike(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Tell whether two shapes are equal but for axes that are open in both."""
    return len(found) == len(wanted) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(found, wanted, strict=True)
    )


def _text(shape: Sequence[Any] | None) -> str:
    return "of unknown rank" if shape is None else "x".join("?" if side is None else str(side) for side in shape)
