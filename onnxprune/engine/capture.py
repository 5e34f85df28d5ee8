"""Sampling of output positions, the input patches under them, and the outputs at them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.sites import Site, Window

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]
    Words = np.ndarray[Any, np.dtype[np.uint64]]

__all__ = ["Positions", "answers", "output_extents", "patches"]

_ROWS_PER_COLUMN = 30  # rows of all inputs together
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Positions:
    """Positions drawn for each image and size of the output, independent of the batch.

    They come from a hash of seed, image, size and number, so nothing is stored. Of two draws for one image and size,
    the smaller one is part of the larger. The original and the compressed network are sampled at equal positions.
    """

    def __init__(self, inputs: int, points: int | None = None, seed: int = 0, least: int = 10) -> None:
        """Set the number of positions and the seed.

        Args:
            inputs: number of calibration inputs.
            points: positions per input and layer; None for 30 rows per column of the layer over all inputs.
            seed: seed of the draw.
            least: smallest number of positions per input and layer if `points` is None; He et al. draw 10.
        """
        self.inputs, self.points, self.seed, self.least = inputs, points, seed, least

    def count(self, columns: int) -> int:
        """Return the positions per input for a layer with some columns, before the size of its output limits them."""
        return self.points or max(self.least, -(-_ROWS_PER_COLUMN * columns // max(self.inputs, 1)))

    def draw(self, images: Sequence[int], extents: tuple[int, ...], columns: int) -> Indices:
        """Draw coordinates (images, points, axes) int64, without repeats; all positions if there are no more.

        Args:
            images: numbers of the images.
            extents: sizes of the output's axes except batch and channel.
            columns: number of columns of the layer.
        """
        total, points = math.prod(extents), self.count(columns)
        numbers = np.array(images, dtype=np.uint64)
        if not extents:
            return np.zeros((len(numbers), 1, 0), dtype=np.int64)
        if total <= points:
            flat = np.broadcast_to(np.arange(total, dtype=np.int64), (len(numbers), total))
        else:
            key = np.uint64(0)
            for word in (self.seed, *extents):
                key = _mixed(np.atleast_1d(key ^ np.uint64(word)))[0]
            flat = _drawn(_mixed(numbers[:, None] + key), total, points)
        return np.stack(np.unravel_index(flat, extents), axis=-1).astype(np.int64)


def _drawn(keys: Words, total: int, points: int) -> Indices:
    """Return the first `points` different numbers below `total` of the sequence of each key: (keys, points) int64."""
    if total > 4 * points:
        tried = np.arange(2 * points + 8, dtype=np.uint64)
        numbers = (_mixed(keys + tried * _STEP) % np.uint64(total)).astype(np.int64)
        new = ~_seen_before(numbers)
        new &= np.cumsum(new, axis=1) <= points
        if (new.sum(axis=1) == points).all():
            return numbers[new].reshape(len(keys), points)
    order = np.argsort(_mixed(keys + np.arange(total, dtype=np.uint64) * _STEP), axis=1, kind="stable")
    return order[:, :points].astype(np.int64)


def _seen_before(numbers: Indices) -> Mask:
    """Find the entries of (n, m) numbers that repeat one further left in their row: (n, m) bool."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    again = np.zeros(numbers.shape, dtype=np.bool_)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def _mixed(words: Words) -> Words:
    """Hash each of some 64-bit words (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = words + _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def output_extents(site: Site, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the axes of a site's output except batch and channel, for a source of this shape."""
    if site.window is not None:
        return site.window.outputs(tuple(shape[2:]))
    return tuple(shape[1:-1])


def patches(source: Array, site: Site, where: Indices) -> Array:
    """Extract the input patches under output positions.

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
    """Return per spatial axis the input's index under each kernel element and its validity: (B, P, elements) each."""
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
    """Extract the values of all channels at positions: (B * P, channels) float32.

    Args:
        response: (B, C, *spatial) with `channel_axis` 1, or (B, ..., C) with -1.
        where: (B, P, axes) output positions.
        channel_axis: axis of the channels, 1 or -1.
    """
    batch, points, rank = where.shape
    rows = np.arange(batch)[:, None]
    index = tuple(where[:, :, axis] for axis in range(rank))
    place: Any = (rows, slice(None), *index) if channel_axis == 1 else (rows, *index)
    taken = response[place]
    return np.ascontiguousarray(taken, dtype=np.float32).reshape(batch * points, -1)
