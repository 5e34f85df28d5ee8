"""Operators that work within each channel: pooling, resizing, reductions, softmax over other axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.channels.rules.registry import Coupling, Edit, NodeView, Tie, fixup, rule, tie_axes

__all__: list[str] = []


def channelwise(node: NodeView) -> Coupling:
    """Axis 1 goes on, whatever happens along the others."""
    return kept_axes(node, {1: 1})


def kept_axes(node: NodeView, mapping: dict[int, int]) -> Coupling:
    """Tie input axes to output axes one to one where their sizes agree and are known."""
    source, result = node.input_shape(0), node.output_shape()
    if source is None or result is None:
        return Coupling(reason="its shapes are unknown")
    ties: list[Tie] = []
    for left, right in mapping.items():
        size = source[left] if left < len(source) else None
        if isinstance(size, int) and right < len(result) and result[right] == size:
            ties.append(tie_axes(node.input_axis(0, left), node.output_axis(right), size))
    return Coupling(tuple(ties))


@rule("MaxPool", since=(1, 8, 10, 11, 12, 22))
def max_pool(node: NodeView) -> Coupling:
    """Axis 1 goes on; the indices, if they are there, count across channels."""
    if len([tensor for tensor in node.node.outputs if not tensor.is_empty()]) > 1:
        return Coupling(reason="it also gives indices, which count the channels")
    return channelwise(node)


rule("AveragePool", since=(7, 10, 11, 19, 22))(channelwise)
rule("LpPool", since=(2, 11, 18, 22))(channelwise)
rule("GlobalAveragePool", "GlobalMaxPool", since=(1, 22))(channelwise)
rule("GlobalLpPool", since=(1, 2, 22))(channelwise)
rule("GridSample", since=(16, 20, 22))(channelwise)


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", since=(1, 11, 12, 13, 18, 20))
@rule("ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare", since=(1, 11, 13, 18))
@rule("ReduceLogSum", "ReduceLogSumExp", since=(1, 11, 13, 18))
def reduction(node: NodeView) -> Coupling:
    """The axes that are not reduced go on."""
    source = node.input_shape(0)
    axes = node.integers("axes", 1)
    if source is None or axes is None:
        return Coupling(reason="its axes are computed, or it reduces all of them")
    reduced = {axis % len(source) for axis in axes}
    left = [axis for axis in range(len(source)) if axis not in reduced]
    kept = node.attribute("keepdims", 1)
    coupling = kept_axes(node, {axis: axis if kept else place for place, axis in enumerate(left)})
    return replace(coupling, reason=coupling.reason or "it reduces this axis")


@rule("ArgMax", "ArgMin", since=(1, 11, 12, 13))
def arg_extreme(node: NodeView) -> Coupling:
    """The axes that are not searched go on; the answers count the slots of the one that is."""
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="its shapes are unknown")
    axis = int(node.attribute("axis", 0)) % len(source)
    left = [other for other in range(len(source)) if other != axis]
    kept = node.attribute("keepdims", 1)
    coupling = kept_axes(node, {other: other if kept else place for place, other in enumerate(left)})
    return Coupling(coupling.ties, reason="its answers are numbers of channels")


@rule("Softmax", "LogSoftmax", "Hardmax", since=(1, 11, 13))
def softmax(node: NodeView) -> Coupling:
    """The other axes go on; before revision 13 everything from the axis on is one."""
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="its shapes are unknown")
    old = node.opset < 13
    axis = int(node.attribute("axis", 1 if old else -1)) % len(source)
    others = [other for other in range(len(source)) if (other < axis if old else other != axis)]
    return Coupling(kept_axes(node, {other: other for other in others}).ties, reason="it sums over this axis")


@rule("LpNormalization", since=(1, 22))
def lp_normalization(node: NodeView) -> Coupling:
    """The other axes go on."""
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="its shapes are unknown")
    axis = int(node.attribute("axis", -1)) % len(source)
    others = {other: other for other in range(len(source)) if other != axis}
    return Coupling(kept_axes(node, others).ties, reason="it sums over this axis")


@rule("MeanVarianceNormalization", since=(9, 13))
def mean_variance_normalization(node: NodeView) -> Coupling:
    """The axes over which no statistics are taken go on."""
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="its shapes are unknown")
    over = {int(axis) % len(source) for axis in node.attribute("axes", (0, 2, 3))}
    others = {other: other for other in range(len(source)) if other not in over}
    return Coupling(kept_axes(node, others).ties, reason="its statistics are taken over this axis")


@rule("CumSum", since=(11, 14))
def cumulative_sum(node: NodeView) -> Coupling:
    """The other axes go on."""
    source, axis = node.input_shape(0), node.constant(1)
    if not source or axis is None or axis.size != 1:
        return Coupling(reason="its axis is computed")
    summed = int(axis.reshape(-1)[0]) % len(source)
    others = {other: other for other in range(len(source)) if other != summed}
    return Coupling(kept_axes(node, others).ties, reason="it sums along this axis")


@rule("Resize", since=(10, 11, 13, 18, 19))
@rule("Upsample", since=(7, 9, 10))
def resize(node: NodeView) -> Coupling:
    """An axis that keeps its size goes on.

    Sizes that are written down follow, see the fix-up; sizes that are computed must be so from a Shape of the input.
    """
    if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return Coupling(reason="it crops")
    source = node.input_shape(0)
    if not source:
        return Coupling(reason="its shapes are unknown")
    if (
        node.has_input(3)
        and node.constant(3) is None
        and not _begins_with_shape(node.node.inputs[3], node.node.inputs[0])
    ):
        return Coupling(reason="its sizes are computed")
    scales = _scales(node, len(source))
    if scales is None:
        return Coupling(reason="its scales are computed")
    whole = {axis: axis for axis in range(len(source)) if scales.get(axis, 1.0) == 1.0}
    return Coupling(kept_axes(node, whole).ties, reason="it resizes this axis")


def _scales(node: NodeView, rank: int) -> dict[int, float] | None:
    """Read the factor of each axis; None where it is computed."""
    listed = node.attribute("scales", None)
    place = 1 if node.op == "Upsample" or node.opset < 11 else 2
    if listed is None and node.has_input(place):
        listed = node.constant(place)
        if listed is None:
            return None
    axes = node.attribute("axes", None) or range(rank)
    return {int(axis) % rank: float(scale) for axis, scale in zip(axes, () if listed is None else listed, strict=False)}


@fixup("Resize")
def resize_sizes(node: NodeView) -> Edit:
    """Sizes that are written down are those of the output."""
    sizes, result = node.constant(3), node.output_shape()
    if sizes is None or result is None or not sizes.size:
        return Edit()
    axes = node.attribute("axes", None) or range(len(result))
    after = [
        result[axis] if isinstance(result[axis], int) else old for axis, old in zip(axes, sizes.tolist(), strict=True)
    ]
    return Edit(constants={3: np.array(after, sizes.dtype)})


def _begins_with_shape(sizes: Any, source: Any) -> bool:
    """Tell whether computed sizes are the input's batch and channels, then constants or arithmetic on space."""
    if not sizes.inputs or sizes.inputs[0].op != "Concat":
        return False
    front = sizes.inputs[0].inputs[0]
    node = front.inputs[0] if front.inputs else None
    while node is not None and node.op == "Cast":
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if node is None or node.op != "Slice" or not node.inputs[0].inputs or node.inputs[0].inputs[0].op != "Shape":
        return False
    bounds = [
        np.ravel(tensor.values).tolist() if isinstance(tensor, gs.Constant) else None for tensor in node.inputs[1:3]
    ]
    return bounds == [[0], [2]] and node.inputs[0].inputs[0].inputs[0].name == source.name
