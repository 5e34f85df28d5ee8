"""Operators with weights: where channels are made, used up, or carried."""

from __future__ import annotations

import numpy as np

from onnxprune.graph.channels.rules.registry import Coupling, Edit, NodeView, Tie, fixup, rule, tie_axes

__all__: list[str] = []


@rule("Conv", since=(1, 11, 22))
def conv(node: NodeView) -> Coupling:
    """Weight (O, C / group, ...): axis 0 and bias go with the output, axis 1 with the input.

    In a depthwise conv (one input channel a group) input and output go together. In any other grouped conv the j-th
    channel of every group goes together, on either side, so that groups stay equally wide.
    """
    weight, source = node.input_shape(1), node.input_shape(0)
    if weight is None or source is None or not all(isinstance(size, int) for size in (*weight[:2], source[1])):
        return Coupling(reason="its shapes are unknown")
    outputs, per_group, inputs = (int(size) for size in (*weight[:2], source[1]) if isinstance(size, int))
    groups = int(node.attribute("group", 1))
    if groups * per_group != inputs or outputs % groups:
        return Coupling(reason="its group count does not fit its shapes")
    ties = [tie_axes(node.input_axis(1, 0), node.output_axis(1), outputs)]
    if node.has_input(2):
        ties.append(tie_axes(node.input_axis(2, 0), node.output_axis(1), outputs))
    if groups == 1:
        return Coupling((*ties, tie_axes(node.input_axis(0, 1), node.input_axis(1, 1), inputs)))
    if per_group == 1:
        spread = np.repeat(np.arange(groups, dtype=np.int64), outputs // groups)
        run = np.arange(outputs, dtype=np.int64)
        return Coupling((*ties, Tie(node.input_axis(0, 1), spread, node.output_axis(1), run)))
    balanced = np.tile(np.arange(outputs // groups, dtype=np.int64), groups)
    ties.append(Tie(node.output_axis(1), np.arange(outputs, dtype=np.int64), node.output_axis(1), balanced))
    within = np.tile(np.arange(per_group, dtype=np.int64), groups)
    ties.append(Tie(node.input_axis(0, 1), np.arange(inputs, dtype=np.int64), node.input_axis(1, 1), within))
    return Coupling(tuple(ties))


@fixup("Conv")
def conv_groups(node: NodeView) -> Edit:
    """A depthwise conv has as many groups as it has channels left."""
    weight, source = node.input_shape(1), node.input_shape(0)
    groups = int(node.attribute("group", 1))
    if groups == 1 or weight is None or source is None or not isinstance(source[1], int) or weight[1] != 1:
        return Edit()
    return Edit(attributes={"group": source[1]})


@rule("ConvTranspose", since=(1, 11, 22))
def conv_transpose(node: NodeView) -> Coupling:
    """Weight (I, O / group, ...): axis 0 goes with the input, axis 1 and bias with the output.

    With one output channel a group and one input channel a group, input and output go together.
    """
    weight, source = node.input_shape(1), node.input_shape(0)
    if weight is None or source is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return Coupling(reason="its shapes are unknown")
    inputs, outputs, groups = weight[0], weight[1], int(node.attribute("group", 1))
    bias = node.has_input(2)
    if groups == 1:
        ties = [
            tie_axes(node.input_axis(0, 1), node.input_axis(1, 0), inputs),
            tie_axes(node.input_axis(1, 1), node.output_axis(1), outputs),
        ]
        return Coupling((*ties, *([tie_axes(node.input_axis(2, 0), node.output_axis(1), outputs)] if bias else [])))
    if groups != inputs or outputs != 1:
        return Coupling(reason="it has groups of several channels")
    through = [node.input_axis(1, 0), node.output_axis(1), *([node.input_axis(2, 0)] if bias else [])]
    return Coupling(tuple(tie_axes(node.input_axis(0, 1), axis, inputs) for axis in through))


@fixup("ConvTranspose")
def conv_transpose_groups(node: NodeView) -> Edit:
    """A depthwise one has as many groups as it has channels left."""
    weight, groups = node.input_shape(1), int(node.attribute("group", 1))
    if groups == 1 or weight is None or weight[1] != 1 or groups != node.sizes.get(node.input_axis(1, 0)):
        return Edit()
    return Edit(attributes={"group": weight[0]})


@rule("Gemm", since=(7, 9, 11, 13))
def gemm(node: NodeView) -> Coupling:
    """A (M, K) times B (K, N): K goes from A to B, N from B and C to the output."""
    weight = node.input_shape(1)
    if node.attribute("transA", 0) or weight is None or not all(isinstance(size, int) for size in weight):
        return Coupling(reason="its first matrix is transposed or its shapes are unknown")
    k, n = (1, 0) if node.attribute("transB", 0) else (0, 1)
    inner, outer = weight[k], weight[n]
    if not isinstance(inner, int) or not isinstance(outer, int):
        return Coupling(reason="its shapes are unknown")
    ties = [
        tie_axes(node.input_axis(0, 1), node.input_axis(1, k), inner),
        tie_axes(node.input_axis(1, n), node.output_axis(1), outer),
    ]
    bias = node.input_shape(2) if node.has_input(2) else None
    if bias and bias[-1] == outer:
        ties.append(tie_axes(node.input_axis(2, -1), node.output_axis(1), outer))
    return Coupling(tuple(ties))


@rule("MatMul", since=(1, 9, 13))
def matmul(node: NodeView) -> Coupling:
    """(..., K) times a constant (K, N)."""
    weight, source, result = node.input_shape(1), node.input_shape(0), node.output_shape()
    if node.constant(1) is None or weight is None or len(weight) != 2:
        return Coupling(reason="its second matrix is no constant of two axes")
    if source is None or result is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return Coupling(reason="its shapes are unknown")
    return Coupling(
        (
            tie_axes(node.input_axis(0, -1), node.input_axis(1, 0), weight[0]),
            tie_axes(node.input_axis(1, 1), node.output_axis(-1), weight[1]),
        )
    )


@rule("BatchNormalization", since=(7, 9, 14, 15))
def batch_normalization(node: NodeView) -> Coupling:
    """Each channel has its own scale, bias, mean and variance."""
    source = node.input_shape(0)
    if source is None or len(source) < 2 or not isinstance(source[1], int):
        return Coupling(reason="its number of channels is unknown")
    if node.attribute("training_mode", 0) or len([t for t in node.node.outputs if not t.is_empty()]) > 1:
        return Coupling(reason="it is in training mode")
    channels = source[1]
    parameters = [tie_axes(node.input_axis(i, 0), node.output_axis(1), channels) for i in range(1, 5)]
    return Coupling((tie_axes(node.input_axis(0, 1), node.output_axis(1), channels), *parameters))


@rule("InstanceNormalization", since=(1, 6, 22))
def instance_normalization(node: NodeView) -> Coupling:
    """Each channel has its own statistics, scale and bias."""
    source = node.input_shape(0)
    if source is None or len(source) < 2 or not isinstance(source[1], int):
        return Coupling(reason="its number of channels is unknown")
    parameters = [tie_axes(node.input_axis(i, 0), node.output_axis(1), source[1]) for i in (1, 2)]
    return Coupling((tie_axes(node.input_axis(0, 1), node.output_axis(1), source[1]), *parameters))


@rule("GroupNormalization", since=(18, 21))
def group_normalization(node: NodeView) -> Coupling:
    """Channels share their statistics: one less changes those of the others."""
    return Coupling(reason="its statistics are taken over several channels")


@rule("LayerNormalization", since=(17,))
def layer_normalization(node: NodeView) -> Coupling:
    """The axes in front of the normalised ones go on; statistics are taken over those."""
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="the shape of its input is unknown")
    if len([tensor for tensor in node.node.outputs if not tensor.is_empty()]) > 1:
        return Coupling(reason="its statistics are read")
    first = int(node.attribute("axis", -1)) % len(source)
    ties = [
        tie_axes(node.input_axis(0, axis), node.output_axis(axis), size)
        for axis, size in enumerate(source[:first])
        if isinstance(size, int)
    ]
    return Coupling(tuple(ties), reason="its statistics are taken over this axis")
