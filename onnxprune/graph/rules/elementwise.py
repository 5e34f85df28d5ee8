"""Operators that treat every element alike: one input, or several with broadcasting."""

from __future__ import annotations

from collections import defaultdict

from onnxprune.graph.rules.registry import Coupling, NodeView, Tie, rule, tie_axes

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
            if not isinstance(size, int):
                open_axes.add(target)
            elif size > 1 and size == result[target]:
                ties[target].append(tie_axes(node.input_axis(index, axis), node.output_axis(target), size))
    # Where one operand's size is open, nothing says that it would follow the others.
    closed = [tie for target, found in ties.items() if target not in open_axes for tie in found]
    half_known = open_axes & set(ties)
    return Coupling(tuple(closed), reason="the size of one of its inputs is unknown" if half_known else "")


rule("Abs", "Neg", "Ceil", "Floor", "Reciprocal", "Sqrt", "Exp", "Log", since=(6, 13))(same_shape)
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
