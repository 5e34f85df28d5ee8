"""Second moments of a layer's inputs and target outputs, in two halves.

Over the sampled positions, with input patch x (p values) and target output y (o values)::

    gram  = E[(x - E x)(x - E x)^T]     cross = E[(x - E x)(y - E y)^T]     power = E[(y - E y)^2] per output

All are means, independent of the number of samples. The two halves (blocks of inputs, see `data.split`; called even
and odd) are kept apart, so that the error on one half of a solution fitted to the other is known in closed form.

Accuracy: rows are shifted by the mean of the first block before they are multiplied, so that no large mean cancels
later; a block of rows is multiplied in float32 (one triangle of the symmetric product) and summed in float64. The
relative error is about 1e-6.

Memory: a builder holds `held_bytes`. Rows are multiplied in blocks of up to 4096 rows or 16 MiB, but at least 1024;
smaller batches wait for more rows. The product is made and added panel by panel, so that nothing of the size of the
moments is allocated besides them.

Fourth moments identify columns that vary in a few samples only, such as the channel of a ReLU that is active in three
pixels of the calibration. A weight fitted to a few samples fits their errors, and is wrong wherever else the channel is
active; such columns are *rare*, and their weights are not refitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from onnxprune.errors import DataError
from onnxprune.solve.numerics import Array, Array32, blas_threads_for, fourth_moments, mirror_lower, trusted_scale

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Moments", "MomentsBuilder", "Part", "held_bytes"]

_ONE_THREAD_COLUMNS = 1000  # products of fewer columns gain nothing from a second thread besides onnxruntime's
_FEW_ROWS = 1024  # smaller batches are collected first: small products are slow, and the shift needs a good mean
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 16 << 20
_PANEL = 1024  # columns
_USUAL_EXPONENT = 24  # of two: sums of products of four such values are far from the ends of float32
_MOST_EXPONENT = 120


@dataclass(frozen=True)
class Part:
    """Moments over one set of samples; all arrays float64, means over samples.

    ``count``: number of samples. ``mean_x``: (p,). ``mean_y``: (o,). ``gram``: (p, p) centred, both
    triangles. ``cross``: (p, o) centred. ``power``: (o,) the variance of each response. ``fourth``: (p,)
    E[(x - E x)^4], up to what the mean of the first samples is off.
    """

    count: int
    mean_x: Array
    mean_y: Array
    gram: Array
    cross: Array
    power: Array
    fourth: Array

    @cached_property
    def scale(self) -> Array:
        """D of the ridge of ``refits``, (p,): standard deviation per column; zero for columns that are not refitted,
        constant and rare ones."""
        return trusted_scale(self.gram, self.fourth, self.count)

    def error(self, weight: Array, bias: Array) -> float:
        """Compute ``E||y - W x - b||^2`` for weight (o, p) and bias (o,): absolute, not below zero."""
        offset = self.mean_y - weight @ self.mean_x - bias
        fitted = weight @ self.gram
        quadratic = float(np.vdot(fitted, weight)) - 2.0 * float(np.vdot(self.cross.T, weight))
        return max(float(self.power.sum()) + quadratic, 0.0) + float(offset @ offset)


@dataclass(frozen=True)
class Moments:
    """Moments of the two halves of the samples: ``even`` of half 0, ``odd`` of half 1."""

    even: Part
    odd: Part

    @cached_property
    def total(self) -> Part:
        """Moments of all samples, pooled exactly from the two halves."""
        return self.even if self.even is self.odd else _pool(self.even, self.odd)

    @property
    def count(self) -> int:
        """Number of samples in both halves."""
        return self.even.count if self.even is self.odd else self.even.count + self.odd.count

    def half(self, number: int) -> Moments:
        """Return moments with the even (0) or the odd (1) half in place of both."""
        part = self.odd if number else self.even
        return Moments(part, part)

    def columns(self, index: npt.ArrayLike) -> Moments:
        """Return the moments with x restricted to the columns ``index``: (k,) integers."""
        index = np.asarray(index, dtype=np.int64)
        if np.array_equal(index, np.arange(len(self.even.mean_x))):
            return self
        return Moments(_columns(self.even, index), _columns(self.odd, index))

    def with_response(self, weight: Array, bias: Array) -> Moments:
        """Return the moments with ``y := W x + b``, weight (o, p), bias (o,): in closed form, from gram alone."""
        return Moments(_respond(self.even, weight, bias), _respond(self.odd, weight, bias))


class MomentsBuilder:
    """Accumulator of ``Moments`` by batches; its memory does not grow with the number of samples."""

    def __init__(self, columns: int, outputs: int) -> None:
        """Expect patches of ``columns`` values and responses of ``outputs`` values (0: no responses)."""
        self._halves = [_Sums(columns, outputs), _Sums(columns, outputs)]

    def add(self, x: Array32, y: Array32 | None, half: int) -> None:
        """Add samples x: (n, p) float32 and y: (n, o) float32 to half 0 (even) or 1 (odd)."""
        self._halves[half].add(x, y)

    def finish(self) -> Moments:
        """Return the moments of all added samples, in the builder's own arrays: nothing can be added afterwards."""
        even, odd = self._halves
        self._halves = []
        return Moments(even.finish(), odd.finish())


def held_bytes(columns: int, outputs: int) -> int:
    """Return the bytes that a ``MomentsBuilder`` and then its ``Moments`` hold: both halves, and the waiting rows."""
    width = columns + outputs
    sums = 8 * columns * width + 8 * (2 * width + columns)
    return 2 * (sums + 4 * (_FEW_ROWS + 1) * width)


class _Sums:
    """Shifted sums of one half; of ``gram`` only the upper triangle."""

    def __init__(self, columns: int, outputs: int) -> None:
        self.columns, self.outputs, self.count, self.waiting = columns, outputs, 0, 0
        self.rows = max(_FEW_ROWS, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * max(1, columns + outputs))))
        self.sum = np.zeros(columns + outputs)
        self.gram = np.zeros((columns, columns))
        self.cross = np.zeros((columns, outputs))
        self.power = np.zeros(outputs)
        self.fourth = np.zeros(columns)
        self.shift = np.zeros(columns + outputs, dtype=np.float32)
        self.few_x = np.empty((0, columns), dtype=np.float32)
        self.few_y = np.empty((0, outputs), dtype=np.float32)

    def add(self, x: Array32, y: Array32 | None) -> None:
        y = np.empty((len(x), 0), dtype=np.float32) if y is None else y
        if x.shape != (len(x), self.columns) or y.shape != (len(x), self.outputs):
            raise ValueError(f"expected (n, {self.columns}) and (n, {self.outputs}), found {x.shape} and {y.shape}")
        done = 0
        while done < len(x):
            left = len(x) - done
            if self.waiting or left < _FEW_ROWS:
                taken = slice(done, done + min(_FEW_ROWS - self.waiting, left))
                self._wait(x[taken], y[taken])
            else:
                taken = slice(done, done + min(self.rows, left))
                self._multiply(x[taken], y[taken])
            done = taken.stop

    def _wait(self, x: Array32, y: Array32) -> None:
        if not len(self.few_x):
            self.few_x = np.empty((_FEW_ROWS, self.columns), dtype=np.float32)
            self.few_y = np.empty((_FEW_ROWS, self.outputs), dtype=np.float32)
        place = slice(self.waiting, self.waiting + len(x))
        self.few_x[place], self.few_y[place] = x, y
        self.waiting = place.stop
        if self.waiting == _FEW_ROWS:
            self._multiply_waiting()

    def _multiply_waiting(self) -> None:
        self._multiply(self.few_x[: self.waiting], self.few_y[: self.waiting])
        self.waiting = 0

    def _multiply(self, x: Array32, y: Array32) -> None:
        if not self.count:
            mean = np.concatenate([x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)])
            self.shift = mean.astype(np.float32)
        with blas_threads_for(self.columns, _ONE_THREAD_COLUMNS):
            self._add_block(x - self.shift[: self.columns], y - self.shift[self.columns :])

    def _add_block(self, x: Array32, y: Array32) -> None:
        of_x, of_y = _into_range(x), _into_range(y)
        ones = np.ones(len(x), dtype=np.float32)
        self.sum += np.concatenate([of_x * (ones @ x), of_y * (ones @ y)])
        self.fourth += of_x**4 * fourth_moments(x) * len(x)
        for own in _panels(self.columns):
            panel, later = x[:, own].T, slice(own.stop, None)
            # One triangle is half of the work. BLAS is column-major: its lower triangle is our upper one.
            _add(self.gram[own, own], blas.ssyrk(1.0, panel, lower=1).T, of_x[own], of_x[own])
            _add(self.gram[own, later], panel @ x[:, later], of_x[own], of_x[later])
            _add(self.cross[own], panel @ y, of_x[own], of_y)
        self.power += of_y**2 * np.einsum("no,no->o", y, y)
        self.count += len(x)

    def finish(self) -> Part:
        if self.waiting:
            self._multiply_waiting()
        count = max(self.count, 1)
        mean = self.sum / count
        mean_x, mean_y = mean[: self.columns], mean[self.columns :]
        self.gram /= count
        self.cross /= count
        _subtract_outer(self.gram, mean_x, mean_x)
        _subtract_outer(self.cross, mean_x, mean_y)
        # No entry of a gram is larger than the largest of its diagonal.
        if not all(np.isfinite(found).all() for found in (mean, np.diagonal(self.gram), self.power)):
            raise DataError(
                "expected finite sampled activations with finite squares, found NaN or infinity; check the "
                "preprocessing of the calibration inputs, and that the model itself does not overflow"
            )
        mirror_lower(self.gram.T)
        return Part(
            count=self.count,
            mean_x=self.shift[: self.columns] + mean_x,
            mean_y=self.shift[self.columns :] + mean_y,
            gram=self.gram,
            cross=self.cross,
            power=np.maximum(self.power / count - mean_y**2, 0.0),
            fourth=self.fourth / count,
        )


def _panels(size: int) -> Iterator[slice]:
    """Yield the indices below ``size`` in slices of up to ``_PANEL``."""
    return (slice(start, min(start + _PANEL, size)) for start in range(0, size, _PANEL))


def _add(total: Array, block: npt.NDArray[np.floating], rows: Array, columns: Array) -> None:
    """Add a block of products to a total; its rows and columns are in units of the given factors."""
    if (rows == 1).all() and (columns == 1).all():
        np.add(total, block, out=total)
        return
    whole = block.astype(np.float64)
    whole *= rows[:, None]
    whole *= columns
    np.add(total, whole, out=total)


def _into_range(values: Array32) -> Array:
    """Multiply, in place, each column whose products would leave float32 by a power of two, which changes no digit.

    Args:
        values: (n, p).

    Returns:
        The factors by which the columns are multiplied to get the former values, (p,).
    """
    peak = np.maximum(values.max(axis=0, initial=0), -values.min(axis=0, initial=0))
    exponents = np.where((peak > 0) & np.isfinite(peak), np.frexp(peak)[1], 0)
    far = np.abs(exponents) > _USUAL_EXPONENT
    if not far.any():
        return np.ones(len(peak))
    exponents = np.clip(np.where(far, exponents, 0), -_MOST_EXPONENT, _MOST_EXPONENT)
    values *= np.ldexp(np.float32(1), -exponents)
    return np.ldexp(1.0, exponents)


def _subtract_outer(matrix: Array, left: Array, right: Array) -> None:
    """Compute ``matrix -= left right^T`` in place, without a second array of its size."""
    for rows in _panels(len(matrix)):
        matrix[rows] -= np.outer(left[rows], right)


def _pool(one: Part, two: Part) -> Part:
    if not two.count:
        return one
    if not one.count:
        return two
    count = one.count + two.count
    share_one, share_two = one.count / count, two.count / count
    # Between-half variance, from the difference of the means: nothing cancels when the means are large.
    apart_x, apart_y = one.mean_x - two.mean_x, one.mean_y - two.mean_y
    between = share_one * share_two
    gram = share_one * one.gram
    for rows in _panels(len(gram)):
        gram[rows] += share_two * two.gram[rows]
    _subtract_outer(gram, -between * apart_x, apart_x)
    return Part(
        count=count,
        mean_x=share_one * one.mean_x + share_two * two.mean_x,
        mean_y=share_one * one.mean_y + share_two * two.mean_y,
        gram=gram,
        cross=share_one * one.cross + share_two * two.cross + between * np.outer(apart_x, apart_y),
        power=share_one * one.power + share_two * two.power + between * apart_y**2,
        fourth=share_one * one.fourth + share_two * two.fourth,
    )


def _columns(part: Part, index: npt.NDArray[np.int64]) -> Part:
    return replace(
        part,
        mean_x=part.mean_x[index],
        gram=part.gram[np.ix_(index, index)],
        cross=part.cross[index, :],
        fourth=part.fourth[index],
    )


def _respond(part: Part, weight: Array, bias: Array) -> Part:
    cross = part.gram @ weight.T
    power = np.maximum(np.einsum("po,op->o", cross, weight), 0.0)
    mean_y = weight @ part.mean_x + bias if part.count else np.zeros(len(bias))
    return replace(part, mean_y=mean_y, cross=cross, power=power)
