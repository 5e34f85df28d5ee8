"""Operators that move channels about: Concat, Flatten, Reshape, Transpose, Squeeze and Unsqueeze."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.graph.channels.rules.registry import (
    MOST_SLOTS,
    Axis,
    Coupling,
    Edit,
    IntArray,
    NodeView,
    Tie,
    fixup,
    rule,
    tie_axes,
)
from onnxprune.graph.channels.rules.spatial import kept_axes
from onnxprune.graph.model.net import Dim

__all__: list[str] = []


@rule("Concat", since=(4, 11, 13))
def concat(node: NodeView) -> Coupling:
    """Each input is a run of the output along the axis; the other axes are shared by all."""
    result = node.output_shape()
    if result is None:
        return Coupling(reason="the shape of its output is unknown")
    axis = int(node.attribute("axis", 1)) % len(result)
    ties: list[Tie] = []
    start = 0
    shapes = [node.input_shape(index) for index in node.inputs()]
    agreed = {other for other, extent in enumerate(result) if all(s is not None and s[other] == extent for s in shapes)}
    for index, shape in enumerate(shapes):
        size = shape[axis] if shape else None
        if shape is None or not isinstance(size, int):
            return Coupling(reason="the size of one of its inputs is unknown")
        ties.append(tie_axes(node.input_axis(index, axis), node.output_axis(axis), size, right_start=start))
        ties += [
            tie_axes(node.input_axis(index, other), node.output_axis(other), extent)
            for other, extent in enumerate(shape)
            if other != axis and isinstance(extent, int) and other in agreed
        ]
        start += size
    return Coupling(tuple(ties))


@rule("Transpose", since=(1, 13, 21, 23, 24, 25))
def transpose(node: NodeView) -> Coupling:
    """Every axis goes on, elsewhere."""
    source = node.input_shape(0)
    if source is None:
        return Coupling(reason="the shape of its input is unknown")
    order = node.attribute("perm", None) or list(range(len(source)))[::-1]
    return kept_axes(node, {int(axis): position for position, axis in enumerate(order)})


@rule("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25))
def flatten(node: NodeView) -> Coupling:
    """Channel c of (N, C, H, W) becomes the H x W columns from c H W on."""
    return _regrouped(node)


@rule("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25))
def reshape(node: NodeView) -> Coupling:
    """Axes that are merged, or split, of which one is tied; axes that stay."""
    if node.constant(1) is None:
        return Coupling(reason="its target is computed")
    return _regrouped(node)


@rule("Squeeze", "Unsqueeze", since=(1, 11, 13, 21, 23, 24, 25))
def squeeze(node: NodeView) -> Coupling:
    """Axes of size one come or go; the others stay in order. `normalize` has written down which."""
    if node.integers("axes", 1) is None:
        return Coupling(reason="which axes go depends on their sizes")
    return _regrouped(node)


@fixup("Reshape")
def reshape_target(node: NodeView) -> Edit:
    """The sizes written in the target follow the output; 0 (copied) and -1 (what is left) say the same as before."""
    target, result = node.constant(1), node.output_shape()
    if target is None or result is None:
        return Edit()
    sizes = [
        size if isinstance(size, int) and (old > 0 or (old == 0 and node.output_axis(axis) in node.slots)) else int(old)
        for axis, (old, size) in enumerate(zip(target, result, strict=True))
    ]
    return Edit(constants={1: np.array(sizes, np.int64)})


def _regrouped(node: NodeView) -> Coupling:
    """Ties for a reshape that keeps the order of the elements.

    Both shapes are cut into the shortest runs of axes with equal products. In a run (A, B, C) -> (A * B * C) slot b of
    the axis that carries the channels goes with all columns (a * B + b) * C + c, and the same backwards; a run of one
    axis goes on as it is. The first axis that no other node pins carries the channels: A of (C, H, W), C of (H, W, C).
    """
    source, result = node.input_shape(0), node.output_shape()
    if source is None or result is None:
        return Coupling(reason="its shapes are unknown")
    target = node.constant(1) if node.op == "Reshape" and not node.attribute("allowzero", 0) else None
    if target is not None and len(target) == len(result):  # a size of 0 is copied
        result = tuple(source[a] if not old and a < len(source) else result[a] for a, old in enumerate(target))
    runs = _runs(source, result)
    if runs is None:
        return Coupling(reason="how it regroups its axes is unknown")
    ties: list[Tie] = []
    choices: list[tuple[Axis, ...]] = []
    for left, right in runs:
        if not _all_known(tuple(source[i] for i in left), tuple(result[i] for i in right)):
            continue
        wide, narrow = [i for i in left if source[i] != 1], [i for i in right if result[i] != 1]
        if math.prod(size for size in (source[i] for i in wide) if isinstance(size, int)) > MOST_SLOTS:
            continue
        befores, afters = [node.input_axis(0, i) for i in wide], [node.output_axis(i) for i in narrow]
        if len(narrow) == 1 and wide:
            carrier, slots = _carrier(node, befores, [source[i] for i in wide])
            ties.append(Tie(carrier, slots, afters[0], np.arange(len(slots), dtype=np.int64)))
        elif len(wide) == 1 and narrow:
            carrier, slots = _carrier(node, afters, [result[i] for i in narrow])
            ties.append(Tie(befores[0], np.arange(len(slots), dtype=np.int64), carrier, slots))
        else:
            continue
        choices += [tuple(several) for several in (befores, afters) if len(several) > 1]
    return Coupling(tuple(ties), reason="it regroups this axis", choices=tuple(choices))


def _carrier(node: NodeView, axes: Sequence[Axis], sizes: Sequence[Dim]) -> tuple[Axis, IntArray]:
    """Return the axis of a run that carries the channels, and its slot at each place of the run, row by row."""
    extents = [size for size in sizes if isinstance(size, int)]
    place = next((index for index, axis in enumerate(axes) if axis not in node.pinned), 0)
    inner = math.prod(extents[place + 1 :])
    return axes[place], np.arange(math.prod(extents), dtype=np.int64) // inner % extents[place]


def _runs(source: tuple[Dim, ...], result: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]] | None:
    """Shortest runs of axes with equal products; None where open sizes leave all of them undecided.

    Leading and trailing axes of equal sizes are runs of their own; the axes between them are cut if all their sizes are
    known. An open batch axis in front is kept if the other axes have equal products.
    """
    first = _equal(source, result)
    runs = [([axis], [axis]) for axis in range(first)]
    if _all_known(source[first:], result[first:]):
        between = _cut(source, result, first)
        return None if between is None else runs + between
    if first == 0 and source and result and _all_known(source[1:], result[1:]):
        return _cut(source, result, 1)
    last = _equal(source[first:][::-1], result[first:][::-1])
    runs += [([len(source) - back], [len(result) - back]) for back in range(last, 0, -1)]
    return runs or None


def _equal(source: tuple[Dim, ...], result: tuple[Dim, ...]) -> int:
    """Number of axes in front that have equal sizes in both."""
    count = 0
    for left, right in zip(source, result, strict=False):
        if left is None or left != right:
            break
        count += 1
    return count


def _all_known(*shapes: tuple[Dim, ...]) -> bool:
    return all(isinstance(size, int) for shape in shapes for size in shape)


def _cut(source: tuple[Dim, ...], result: tuple[Dim, ...], first: int) -> list[tuple[list[int], list[int]]] | None:
    """Cut two shapes, of known sizes from axis `first` on, into the shortest runs of axes with equal products."""
    left, right = ([s for s in shape[first:] if isinstance(s, int)] for shape in (source, result))
    if math.prod(left) != math.prod(right):
        return None
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        members: tuple[list[int], list[int]] = ([], [])
        a = b = 1
        while True:
            if a <= b and i < len(left):
                a *= left[i]
                members[0].append(i + first)
                i += 1
            elif j < len(right):
                b *= right[j]
                members[1].append(j + first)
                j += 1
            else:
                return None
            if (a == b and a > 1) or (i == len(left) and j == len(right)):
                break
        runs.append(members)
    return runs
