"""Sampled output positions, the input patches under them, and the answers at them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.sites import Site, Window

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Positions", "answers", "output_extents", "patches"]


class Positions:
    """Positions drawn once per image and size of the output, whatever batch the image comes in.

    Layers whose outputs have the same size share them, and so do the original and the compressed network.
    """

    def __init__(self, points: int, seed: int) -> None:
        """Draw up to ``points`` positions an image."""
        self.points, self.seed = points, seed
        self._drawn: dict[tuple[int, tuple[int, ...]], Indices] = {}

    def draw(self, images: Sequence[int], extents: tuple[int, ...]) -> Indices:
        """Coordinates (images, points, axes) int64; all positions where there are no more than `points`."""
        return np.stack([self._image(int(image), extents) for image in images])

    def _image(self, image: int, extents: tuple[int, ...]) -> Indices:
        key = (image, extents)
        if key not in self._drawn:
            total = math.prod(extents)
            if total <= self.points:
                flat = np.arange(total)
            else:
                generator = np.random.default_rng((self.seed, image, *extents))
                flat = generator.choice(total, self.points, replace=False, shuffle=False)
            coordinates = np.unravel_index(flat, extents) if extents else ()
            stacked = np.stack(coordinates, axis=-1) if extents else np.zeros((1, 0))
            self._drawn[key] = stacked.astype(np.int64)
        return self._drawn[key]


def output_extents(site: Site, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the axes of a site's output that are neither batch nor channel, for a source of this shape."""
    if site.window is not None:
        return site.window.outputs(tuple(shape[2:]))
    return tuple(shape[1:-1])


def patches(source: Array, site: Site, where: Indices) -> Array:
    """Input patches under output positions.

    Args:
        source: (B, C, *spatial), or (B, ..., C) for Gemm and MatMul.
        site: the layer.
        where: (B, P, axes) output positions.

    Returns:
        (B * P, C * kernel elements) float32, channel-major.
    """
    if site.window is None:
        return answers(source, where, -1)
    return _windows(source, site.window, where)


def _windows(source: Array, window: Window, where: Indices) -> Array:
    batch, points, rank = where.shape
    extents = source.shape[2:]
    lines, hits = _lines(window, where, tuple(extents))
    inside = np.ones((batch, points) + (1,) * rank, dtype=np.bool_)
    index: list[Array] = [np.arange(batch).reshape((batch,) + (1,) * (rank + 1))]
    for axis in range(rank):
        shape = (batch, points) + (1,) * axis + (-1,) + (1,) * (rank - 1 - axis)
        inside = inside & hits[axis].reshape(shape)
        index.append(lines[axis].reshape(shape).clip(0, extents[axis] - 1))
    # Indices on both sides of the channel axis put it last: (B, P, *kernel, C).
    place: Any = (index[0], slice(None), *index[1:])
    taken = source[place]
    if not inside.all():
        taken *= inside[..., None]
    ordered = np.moveaxis(taken, -1, 2)
    return np.ascontiguousarray(ordered, dtype=np.float32).reshape(batch * points, -1)


def _lines(window: Window, where: Indices, extents: tuple[int, ...]) -> tuple[list[Indices], list[Array]]:
    """Per spatial axis, the input's index under each kernel element and whether there is one: (B, P, elements)."""
    begins, lines, hits = window.begins(extents), [], []
    for axis, extent in enumerate(extents):
        stride, offsets = window.strides[axis], np.arange(window.kernel[axis]) * window.dilations[axis]
        if window.transposed:
            line, rest = np.divmod(where[:, :, axis, None] + begins[axis] - offsets, stride)
            hit = (rest == 0) & (line >= 0) & (line < extent)
        else:
            line = where[:, :, axis, None] * stride + offsets - begins[axis]
            hit = (line >= 0) & (line < extent)
        lines.append(line)
        hits.append(hit)
    return lines, hits


def answers(response: Array, where: Indices, channel_axis: int) -> Array:
    """Values of all channels at positions: (B * P, channels) float32.

    Args:
        response: (B, C, *spatial) with `channel_axis` 1, or (B, ..., C) with -1.
        where: (B, P, axes).
        channel_axis: see above.
    """
    batch, points, rank = where.shape
    rows = np.arange(batch)[:, None]
    index = tuple(where[:, :, axis] for axis in range(rank))
    place: Any = (rows, slice(None), *index) if channel_axis == 1 else (rows, *index)
    taken = response[place]
    return np.ascontiguousarray(taken, dtype=np.float32).reshape(batch * points, -1)
