"""Operators that take slots out of an axis, put some in, or repeat them: Split, Slice, Gather, Pad, Expand, Tile, and
those that exchange space with depth.

On an axis where they select, output slot j is tied to the input slot that it comes from; where numbers of slots are
written down in attributes or constants, the fix-ups count those that are left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph.channels.rules.registry import Axis, Coupling, Edit, NodeView, Tie, fixup, rule, tie_axes
from onnxprune.graph.model.net import Dim

__all__: list[str] = []


@rule("Split", since=(1, 2, 11, 13, 18))
def split(node: NodeView) -> Coupling:
    """Each output is a run of the input along the axis; the other axes go on in all of them."""
    source = node.input_shape(0)
    shapes = [node.output_shape(index) for index in range(len(node.node.outputs))]
    if source is None or any(shape is None for shape in shapes):
        return Coupling(reason="its shapes are unknown")
    if not source or (node.has_input(1) and node.constant(1) is None):
        return Coupling(reason="its sizes are computed")
    axis = int(node.attribute("axis", 0)) % len(source)
    ties: list[Tie] = []
    start = 0
    for index, shape in enumerate(shapes):
        size = (shape or ())[axis]
        if not isinstance(size, int):
            return Coupling(reason="the size of one of its outputs is unknown")
        ties.append(tie_axes(node.input_axis(0, axis), node.output_axis(axis, index), size, left_start=start))
        ties += _others(node, source, shape or (), {axis}, index)
        start += size
    if start != source[axis]:
        return Coupling(reason="its parts do not add up to its input")
    return Coupling(tuple(ties))


@fixup("Split")
def split_sizes(node: NodeView) -> Edit:
    """The sizes are those of the outputs; `normalize` has written them down."""
    source = node.input_shape(0) or ()
    axis = int(node.attribute("axis", 0)) % max(len(source), 1)
    sizes = [(node.output_shape(index) or ())[axis] for index in range(len(node.node.outputs))]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes):
        return Edit()
    if node.constant(1) is not None:
        return Edit(constants={1: np.array(known, np.int64)})
    return Edit(attributes={"split": known}) if "split" in node.node.attrs else Edit()


@rule("Slice", since=(1, 10, 11, 13))
def slice_(node: NodeView) -> Coupling:
    """Axes that are not sliced go on; along the others the slots of a window without gaps do."""
    source, result, windows = node.input_shape(0), node.output_shape(), _windows(node)
    if source is None or result is None or windows is None:
        return Coupling(reason="its bounds are computed")
    ties = _others(node, source, result, set(windows))
    for axis, (start, stop, step) in windows.items():
        size = source[axis]
        if isinstance(size, int) and step == 1 and node.opset >= 10:
            first, last, _ = slice(start, stop).indices(size)
            if last > first and result[axis] == last - first:
                ties.append(tie_axes(node.input_axis(0, axis), node.output_axis(axis), last - first, left_start=first))
    return Coupling(tuple(ties), reason="it slices this axis")


@fixup("Slice")
def slice_bounds(node: NodeView) -> Edit:
    """Bounds count the slots in front of them that are left."""
    windows, shape = _windows(node), node.input_shape(0)
    changed = {axis for axis in windows or {} if node.input_axis(0, axis) in node.slots}
    if not changed or windows is None or shape is None:
        return Edit()
    starts, ends = [], []
    for axis, (start, stop, _) in windows.items():
        if axis in changed:
            left, size = node.slots[node.input_axis(0, axis)], node.sizes[node.input_axis(0, axis)]
            first, last, _ = slice(start, stop).indices(size)
            start, stop = (int(np.searchsorted(left, bound)) for bound in (first, last))
        starts.append(start)
        ends.append(stop)
    return Edit(constants={1: _like(node, 1, starts), 2: _like(node, 2, ends)})


def _windows(node: NodeView) -> dict[int, tuple[int, int, int]] | None:
    """(start, stop, step) per axis, in the order in which they are written; None where they are computed."""
    source = node.input_shape(0)
    starts, ends = node.integers("starts", 1), node.integers("ends", 2)
    if source is None or starts is None or ends is None:
        return None
    axes = node.integers("axes", 3)
    steps = node.integers("steps", 4)
    if (axes is None and node.has_input(3)) or (steps is None and node.has_input(4)):
        return None
    if any(len(listed) != len(starts) for listed in (ends, axes, steps) if listed is not None) or not source:
        return None
    places = [axis % len(source) for axis in (range(len(starts)) if axes is None else axes)]
    return dict(zip(places, zip(starts, ends, steps or [1] * len(starts), strict=True), strict=True))


@rule("Gather", since=(1, 11, 13))
def gather(node: NodeView) -> Coupling:
    """With constant indices, output slot j comes from input slot indices[j]; the other axes go on.

    A scalar index, or one of several axes, pins the axis.
    """
    source, result, index = node.input_shape(0), node.output_shape(), node.constant(1)
    if source is None or result is None:
        return Coupling(reason="its shapes are unknown")
    axis = int(node.attribute("axis", 0)) % len(source)
    rank = len(node.input_shape(1) or ()) if node.input_shape(1) is not None else None
    if rank is None or len(result) != len(source) - 1 + rank:
        return Coupling(reason="its shapes are unknown")
    ties: list[Tie] = []
    for other, size in enumerate(source):
        place = other if other < axis else other - 1 + rank
        if other != axis and isinstance(size, int) and result[place] == size:
            ties.append(tie_axes(node.input_axis(0, other), node.output_axis(place), size))
    size = source[axis]
    inside = index is not None and isinstance(size, int) and bool(((index >= -size) & (index < size)).all())
    if index is not None and index.ndim == 1 and len(index) and isinstance(size, int) and inside:
        run = np.arange(len(index), dtype=np.int64)
        ties.append(Tie(node.input_axis(0, axis), index.astype(np.int64) % size, node.output_axis(axis), run))
    return Coupling(tuple(ties), reason="it picks from this axis")


@fixup("Gather")
def gather_indices(node: NodeView) -> Edit:
    """Indices are the places, among what is left, of the slots that are left in the output."""
    index, source = node.constant(1), node.input_shape(0)
    if index is None or source is None or index.ndim != 1:
        return Edit()
    axis = int(node.attribute("axis", 0)) % len(source)
    read, made = node.input_axis(0, axis), node.output_axis(axis)
    if read not in node.slots and made not in node.slots:
        return Edit()
    size = node.sizes[read]
    wanted = (index.astype(np.int64) % size)[node.left(made, len(index))]
    return Edit(constants={1: np.searchsorted(node.left(read, size), wanted).astype(index.dtype)})


@rule("Pad", since=(2, 11, 13, 18, 19, 21, 23, 24, 25))
def pad(node: NodeView) -> Coupling:
    """Axes that are not padded go on; padded with a constant, input slot i is output slot i + pad."""
    source, result, pads = node.input_shape(0), node.output_shape(), _pads(node)
    if source is None or result is None or pads is None:
        return Coupling(reason="its pads are computed")
    padded = {axis for axis, both in pads.items() if any(both)}
    ties = _others(node, source, result, padded)
    for axis in padded:
        size, (before, after) = source[axis], pads[axis]
        plain = node.attribute("mode", "constant") == "constant" and min(before, after) >= 0 and node.opset >= 11
        if isinstance(size, int) and plain:
            ties.append(tie_axes(node.input_axis(0, axis), node.output_axis(axis), size, right_start=before))
    return Coupling(tuple(ties), reason="it pads this axis")


@fixup("Pad")
def pad_counts(node: NodeView) -> Edit:
    """Pads count the slots in front and behind that are left in the output."""
    pads = _pads(node)
    changed = {axis for axis, both in (pads or {}).items() if any(both) and node.output_axis(axis) in node.slots}
    if not changed or pads is None:
        return Edit()
    for axis in changed:
        made = node.output_axis(axis)
        before, after = pads[axis]
        behind = node.sizes[made] - after
        left = node.slots[made]
        pads[axis] = int((left < before).sum()), int((left >= behind).sum())
    flat = [pads[axis][side] for side in (0, 1) for axis in pads]
    return Edit(constants={1: _like(node, 1, flat)})


def _pads(node: NodeView) -> dict[int, tuple[int, int]] | None:
    """(before, after) per axis, in the order in which they are written; None where they are computed."""
    source, pads = node.input_shape(0), node.integers("pads", 1)
    if source is None or pads is None:
        return None
    axes = node.constant(3) if node.has_input(3) else np.arange(len(source))
    if axes is None or len(pads) != 2 * len(axes):
        return None
    half = len(axes)
    return {int(axis) % len(source): (pads[i], pads[i + half]) for i, axis in enumerate(axes)}


@rule("Expand", since=(8, 13))
def expand(node: NodeView) -> Coupling:
    """Axes that are not stretched go on."""
    source, result = node.input_shape(0), node.output_shape()
    if source is None or result is None or node.constant(1) is None:
        return Coupling(reason="its shape is computed")
    offset = len(result) - len(source)
    ties = [
        tie_axes(node.input_axis(0, axis), node.output_axis(axis + offset), size)
        for axis, size in enumerate(source)
        if isinstance(size, int) and size > 1 and result[axis + offset] == size
    ]
    return Coupling(tuple(ties), reason="it stretches this axis")


@fixup("Expand")
def expand_shape(node: NodeView) -> Edit:
    """Where the shape names an axis that goes on, it is as long as the output's; 1 leaves it as it is."""
    target, result, source = node.constant(1), node.output_shape(), node.input_shape(0)
    if target is None or result is None or source is None:
        return Edit()
    behind = result[len(result) - len(target) :]
    sizes = [new if old != 1 and isinstance(new, int) else int(old) for old, new in zip(target, behind, strict=True)]
    return Edit(constants={1: np.array(sizes, np.int64)})


@rule("Tile", since=(6, 13))
def tile(node: NodeView) -> Coupling:
    """Output slot j comes from input slot j modulo the input's size."""
    source, result, repeats = node.input_shape(0), node.output_shape(), node.constant(1)
    if source is None or result is None or repeats is None:
        return Coupling(reason="its repeats are computed")
    if repeats.shape != (len(source),) or len(result) != len(source):
        return Coupling(reason="its repeats do not fit its input")
    ties = []
    for axis, times in enumerate(repeats.tolist()):
        size = source[axis]
        if isinstance(size, int) and result[axis] == size * times:
            run = np.arange(size * times, dtype=np.int64)
            ties.append(Tie(node.input_axis(0, axis), run % size, node.output_axis(axis), run))
    return Coupling(tuple(ties), reason="it repeats this axis")


@rule("DepthToSpace", since=(1, 11, 13))
def depth_to_space(node: NodeView) -> Coupling:
    """Every output channel comes from as many input channels as the square of the block size."""
    result = node.output_shape()
    if result is None or not isinstance(result[1], int):
        return Coupling(reason="its shapes are unknown")
    return _blocks(node.output_axis(1), node.input_axis(0, 1), result[1], node, node.attribute("mode", "DCR") == "CRD")


@rule("SpaceToDepth", since=(1, 13))
def space_to_depth(node: NodeView) -> Coupling:
    """Every input channel becomes as many output channels as the square of the block size."""
    source = node.input_shape(0)
    if source is None or not isinstance(source[1], int):
        return Coupling(reason="its shapes are unknown")
    return _blocks(node.input_axis(0, 1), node.output_axis(1), source[1], node, False)


def _blocks(few: Axis, many: Axis, channels: int, node: NodeView, channel_first: bool) -> Coupling:
    times = int(node.attribute("blocksize", 1)) ** 2
    run = np.arange(channels * times, dtype=np.int64)
    return Coupling((Tie(few, run // times if channel_first else run % channels, many, run),))


@rule("TopK", since=(10, 11, 24))
def top_k(node: NodeView) -> Coupling:
    """The other axes go on, in values and indices."""
    source = node.input_shape(0)
    if source is None:
        return Coupling(reason="its shapes are unknown")
    axis = int(node.attribute("axis", -1)) % len(source)
    ties = [tie for index in (0, 1) for tie in _others(node, source, node.output_shape(index) or (), {axis}, index)]
    return Coupling(tuple(ties), reason="its answers are numbers of channels")


def _others(
    node: NodeView, source: Sequence[Dim], result: Sequence[Dim], without: set[int], output: int = 0
) -> list[Tie]:
    """Ties of all axes but some, of the first input with one output, where sizes are known and agree."""
    return [
        tie_axes(node.input_axis(0, axis), node.output_axis(axis, output), size)
        for axis, size in enumerate(source)
        if axis not in without and isinstance(size, int) and axis < len(result) and result[axis] == size
    ]


def _like(node: NodeView, position: int, values: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Integers in the type of the constant that they replace."""
    old = node.constant(position)
    return np.array(values, np.int64 if old is None else old.dtype)
