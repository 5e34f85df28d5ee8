"""Operators that treat every element alike: one input, or several with broadcasting."""

from __future__ import annotations

from collections import defaultdict

from onnxprune.graph.channels.rules.registry import Coupling, NodeView, Tie, rule, tie_axes

__all__: list[str] = []


def same_shape(node: NodeView) -> Coupling:
    """Every axis of the first input goes on in the output; further inputs are scalars."""
    return broadcast(node)


def broadcast(node: NodeView) -> Coupling:
    """Each input axis of full size, aligned at the end as numpy does, goes on in the output."""
    result = node.output_shape()
    if result is None:
        return Coupling(reason="the shape of its output is unknown")
    shapes = {index: node.input_shape(index) for index in node.inputs() if node.has_input(index)}
    if any(shape is None for shape in shapes.values()):
        return Coupling(reason="the shape of one of its inputs is unknown")
    ties: dict[int, list[Tie]] = defaultdict(list)
    open_axes = set()
    for index, shape in shapes.items():
        for axis, size in enumerate(shape or ()):
            target = axis + len(result) - len(shape or ())
            if target < 0:
                return Coupling(reason="one of its inputs has more axes than its output")
            if not isinstance(size, int):
                open_axes.add(target)
            elif size > 1 and size == result[target]:
                ties[target].append(tie_axes(node.input_axis(index, axis), node.output_axis(target), size))
    # Where one operand's size is open, nothing says that it would follow the others.
    closed = [tie for target, found in ties.items() if target not in open_axes for tie in found]
    half_known = open_axes & set(ties)
    return Coupling(tuple(closed), reason="the size of one of its inputs is unknown" if half_known else "")


rule("Abs", "Neg", "Ceil", "Floor", "Reciprocal", "Sqrt", "Exp", "Log", since=(6, 13))(same_shape)
rule("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", since=(7, 22))(same_shape)
rule("Sinh", "Cosh", "Asinh", "Acosh", "Atanh", since=(9, 22))(same_shape)
rule("Not", since=(1,))(same_shape)
rule("IsNaN", "IsInf", since=(9, 10, 13, 20))(same_shape)
rule("Celu", since=(12,))(same_shape)
rule("Swish", since=(24,))(same_shape)
rule("Relu", since=(6, 13, 14))(same_shape)
rule("Sigmoid", "Tanh", "Erf", since=(6, 9, 13))(same_shape)
rule("Elu", "Selu", "HardSigmoid", "LeakyRelu", since=(6, 16, 22))(same_shape)
rule("Softplus", "Softsign", since=(1, 22))(same_shape)
rule("HardSwish", since=(14, 22))(same_shape)
rule("Mish", since=(18, 22))(same_shape)
rule("Gelu", since=(20,))(same_shape)
rule("Sign", "Round", since=(9, 11, 13, 22))(same_shape)
rule("ThresholdedRelu", since=(10, 22))(same_shape)
rule("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))(same_shape)
rule("Cast", since=(6, 9, 13, 19, 21, 23, 24, 25))(same_shape)
rule("Clip", since=(6, 11, 12, 13))(same_shape)


@rule("Dropout", since=(7, 10, 12, 13, 22))
def dropout(node: NodeView) -> Coupling:
    """Dropout at inference: the mask, if there is one, is shaped like the output."""
    shape = node.output_shape()
    masks = [index for index, tensor in enumerate(node.node.outputs) if index and not tensor.is_empty()]
    ties = [
        tie_axes(node.output_axis(axis), node.output_axis(axis, index), size)
        for index in masks
        for axis, size in enumerate(shape or ())
        if isinstance(size, int) and (node.output_shape(index) or ())[axis : axis + 1] == (size,)
    ]
    return Coupling((*same_shape(node).ties, *ties))


rule("Add", "Sub", "Mul", "Div", since=(7, 13, 14))(broadcast)
rule("Pow", since=(7, 12, 13, 15))(broadcast)
rule("Max", "Min", "Sum", "Mean", since=(6, 8, 12, 13))(broadcast)
rule("PRelu", since=(7, 9, 16))(broadcast)
rule("Mod", since=(10, 13))(broadcast)
rule("Where", since=(9, 16))(broadcast)
rule("Equal", since=(7, 11, 13, 19))(broadcast)
rule("Greater", "Less", since=(7, 9, 13))(broadcast)
rule("GreaterOrEqual", "LessOrEqual", since=(12, 16))(broadcast)
rule("And", "Or", "Xor", since=(7,))(broadcast)


@rule("QuantizeLinear", "DequantizeLinear", since=(10, 13, 19, 21, 23, 24, 25))
def quantization(node: NodeView) -> Coupling:
    """Every element alike; with a scale for each slot of one axis, scale and zero point go with it."""
    shape, scale = node.output_shape(), node.input_shape(1)
    if shape is None or scale is None or len(scale) > 1 or node.attribute("block_size", 0):
        return Coupling(reason="its scales are given block by block, or their shape is unknown")
    ties = [
        tie_axes(node.input_axis(0, axis), node.output_axis(axis), size)
        for axis, size in enumerate(shape)
        if isinstance(size, int)
    ]
    axis = int(node.attribute("axis", 1))
    size = scale[0] if scale else 1
    if size != 1 and isinstance(size, int):
        if shape[axis : axis + 1 or None] != (size,):
            return Coupling(reason="its scales do not fit its axis")
        ties += [tie_axes(node.input_axis(i, 0), node.output_axis(axis), size) for i in (1, 2) if node.has_input(i)]
    return Coupling(tuple(ties))
