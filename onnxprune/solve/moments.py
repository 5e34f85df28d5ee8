"""Second moments of what a layer sees and of what it should answer, in two halves.

Over the sampled positions, x being the input patch (p values) and y the wanted response (o values)::

    gram  = E[(x - E x)(x - E x)^T]     cross = E[(x - E x)(y - E y)^T]     power = E[(y - E y)^2] per output

All are means, so they do not grow with the number of samples. The two halves (even and odd images) are kept
apart: the error on one half of a solution fitted on the other is then known in closed form.

Accuracy: rows are shifted by the mean of the first few thousand before anything is multiplied, so no large
mean cancels later; a block of rows is multiplied in float32 (one triangle of the symmetric product) and
summed in float64. That leaves a relative error of about 1e-6.

Fourth moments tell which columns vary in a few samples only: the channel of a ReLU that is dead but for three pixels
of the calibration. A weight fitted to these answers their errors, whatever its size, and is wrong by as much wherever
else the channel wakes up; such columns are *rare*, and their weights stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from onnxprune.errors import DataError
from onnxprune.solve.numerics import Array, Array32, blas_threads_for, fourth_moments, mirror_lower, trusted_scale

__all__ = ["Moments", "MomentsBuilder", "Part"]

_ONE_THREAD_COLUMNS = 1000  # products of fewer columns gain nothing from a second thread, beside onnxruntime's
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 64 << 20


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
        """(p,), D of the pull of ``refits``: the standard deviation, zero where nothing is to be fitted: columns that
        are constant, and rare ones."""
        return trusted_scale(self.gram, self.fourth, self.count)

    def error(self, weight: Array, bias: Array) -> float:
        """``E||y - W x - b||^2`` for weight (o, p) and bias (o,): absolute, not below zero."""
        offset = self.mean_y - weight @ self.mean_x - bias
        fitted = weight @ self.gram
        quadratic = float(np.vdot(fitted, weight)) - 2.0 * float(np.vdot(self.cross.T, weight))
        return max(float(self.power.sum()) + quadratic, 0.0) + float(offset @ offset)


@dataclass(frozen=True)
class Moments:
    """Moments of the even and of the odd half."""

    even: Part
    odd: Part

    @cached_property
    def total(self) -> Part:
        """Moments of all samples, exactly as if they had been gathered in one part."""
        return _pool(self.even, self.odd)

    @property
    def count(self) -> int:
        """Number of samples in both halves."""
        return self.even.count + self.odd.count

    def half(self, number: int) -> Moments:
        """The even (0) or the odd (1) half in the place of both."""
        part = self.odd if number else self.even
        return Moments(part, part)

    def columns(self, index: npt.ArrayLike) -> Moments:
        """The same with x restricted to the columns ``index``: (k,) integers."""
        index = np.asarray(index, dtype=np.int64)
        return Moments(_columns(self.even, index), _columns(self.odd, index))

    def with_response(self, weight: Array, bias: Array) -> Moments:
        """The same with ``y := W x + b``, weight (o, p), bias (o,): in closed form, from gram alone."""
        return Moments(_respond(self.even, weight, bias), _respond(self.odd, weight, bias))


class MomentsBuilder:
    """Gathers ``Moments`` batch by batch; memory does not grow with the number of samples."""

    def __init__(self, columns: int, outputs: int) -> None:
        """Expect patches of ``columns`` values and responses of ``outputs`` values (0: no responses)."""
        self._halves = (_Sums(columns, outputs), _Sums(columns, outputs))

    def add(self, x: Array32, y: Array32 | None, half: int) -> None:
        """Add samples x: (n, p) float32 and y: (n, o) float32 to half 0 (even) or 1 (odd)."""
        self._halves[half].add(x, y)

    def finish(self) -> Moments:
        """The moments of everything that was added."""
        even, odd = self._halves
        return Moments(even.finish(), odd.finish())


class _Sums:
    """Shifted sums of one half: rows wait in a block, a full block is multiplied once."""

    def __init__(self, columns: int, outputs: int) -> None:
        self.columns, self.outputs, self.count, self.waiting = columns, outputs, 0, 0
        self.rows = max(64, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * max(1, columns + outputs))))
        self.sum = np.zeros(columns + outputs)
        self.gram = np.zeros((columns, columns), order="F")
        self.cross = np.zeros((columns, outputs))
        self.power = np.zeros(outputs)
        self.fourth = np.zeros(columns)
        self.shift = np.zeros(columns + outputs, dtype=np.float32)
        self.block_x = np.empty((0, columns), dtype=np.float32)
        self.block_y = np.empty((0, outputs), dtype=np.float32)

    def add(self, x: Array32, y: Array32 | None) -> None:
        y = np.empty((len(x), 0), dtype=np.float32) if y is None else y
        if x.shape != (len(x), self.columns) or y.shape != (len(x), self.outputs):
            raise ValueError(f"expected (n, {self.columns}) and (n, {self.outputs}), found {x.shape} and {y.shape}")
        if len(x) and not len(self.block_x):
            self.block_x = np.empty((self.rows, self.columns), dtype=np.float32)
            self.block_y = np.empty((self.rows, self.outputs), dtype=np.float32)
        done = 0
        while done < len(x):
            take = min(self.rows - self.waiting, len(x) - done)
            place = slice(self.waiting, self.waiting + take)
            self.block_x[place] = x[done : done + take]
            self.block_y[place] = y[done : done + take]
            self.waiting += take
            done += take
            if self.waiting == self.rows:
                self._multiply()

    def _multiply(self) -> None:
        with blas_threads_for(self.columns, _ONE_THREAD_COLUMNS):
            self._add_block()

    def _add_block(self) -> None:
        x, y = self.block_x[: self.waiting], self.block_y[: self.waiting]
        if not self.count:
            mean = np.concatenate([x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)])
            self.shift = mean.astype(np.float32)
        x -= self.shift[: self.columns]
        y -= self.shift[self.columns :]
        ones = np.ones(len(x), dtype=np.float32)
        self.sum += np.concatenate([ones @ x, ones @ y])
        # The transposed view is already in BLAS order: no copy, and one triangle is half of the work.
        self.gram += blas.ssyrk(1.0, x.T, lower=1)
        self.fourth += fourth_moments(x) * len(x)
        if self.outputs:
            self.cross += x.T @ y
            self.power += np.einsum("no,no->o", y, y)
        self.count += len(x)
        self.waiting = 0

    def finish(self) -> Part:
        if self.waiting:
            self._multiply()
        count = max(self.count, 1)
        mean = self.sum / count
        mean_x, mean_y = mean[: self.columns], mean[self.columns :]
        gram = mirror_lower(self.gram / count)
        gram -= np.outer(mean_x, mean_x)
        if not np.isfinite(mean).all() or not np.isfinite(gram).all():
            raise DataError(
                "sampled activations must be finite, found NaN or infinity; check the preprocessing of the "
                "calibration inputs, and that the model itself does not overflow"
            )
        return Part(
            count=self.count,
            mean_x=self.shift[: self.columns] + mean_x,
            mean_y=self.shift[self.columns :] + mean_y,
            gram=gram,
            cross=self.cross / count - np.outer(mean_x, mean_y),
            power=np.maximum(self.power / count - mean_y**2, 0.0),
            fourth=self.fourth / count,
        )


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
    gram += share_two * two.gram
    gram += np.outer(between * apart_x, apart_x)
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
