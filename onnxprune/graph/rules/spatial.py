"""Operators that work within each channel: pooling, reductions over space, padding and slicing off the channel axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.graph.rules.registry import Coupling, NodeView, Tie, rule, tie_axes

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


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", since=(1, 11, 12, 13, 18, 20))
def reduction(node: NodeView) -> Coupling:
    """The axes that are not reduced go on."""
    source = node.input_shape(0)
    axes = _integers(node, "axes", 1)
    if source is None or axes is None:
        return Coupling(reason="its axes are computed, or it reduces all of them")
    reduced = {axis % len(source) for axis in axes}
    left = [axis for axis in range(len(source)) if axis not in reduced]
    if node.attribute("keepdims", 1):
        return kept_axes(node, {axis: axis for axis in left})
    return kept_axes(node, {axis: position for position, axis in enumerate(left)})


@rule("Pad", since=(2, 11, 13, 18, 19, 21, 23, 24, 25))
def pad(node: NodeView) -> Coupling:
    """The axes that are not padded go on."""
    source = node.input_shape(0)
    pads = _integers(node, "pads", 1)
    if source is None or pads is None:
        return Coupling(reason="its pads are computed")
    axes = node.constant(3) if node.has_input(3) else np.arange(len(source))
    if axes is None or len(pads) != 2 * len(axes):
        return Coupling(reason="its axes are computed")
    padded = {
        int(axis) % len(source)
        for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
        if before or after
    }
    coupling = kept_axes(node, {axis: axis for axis in range(len(source)) if axis not in padded})
    return Coupling(coupling.ties, reason="it pads this axis")


@rule("Slice", since=(1, 10, 11, 13))
def slice_(node: NodeView) -> Coupling:
    """The axes that are not sliced go on."""
    source = node.input_shape(0)
    starts = _integers(node, "starts", 1)
    if source is None or starts is None:
        return Coupling(reason="its bounds are computed")
    axes = _integers(node, "axes", 3)
    if axes is None and node.has_input(3):
        return Coupling(reason="its axes are computed")
    sliced = {axis % len(source) for axis in (axes if axes is not None else range(len(starts)))}
    coupling = kept_axes(node, {axis: axis for axis in range(len(source)) if axis not in sliced})
    return Coupling(coupling.ties, reason="it slices this axis")


def _integers(node: NodeView, attribute: str, position: int) -> list[int] | None:
    """A list that older revisions keep in an attribute and newer ones in a constant input; None if neither."""
    listed: Any = node.attribute(attribute, None)
    if listed is None:
        listed = node.constant(position)
    return None if listed is None else [int(value) for value in np.ravel(listed)]
