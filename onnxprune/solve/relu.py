"""Refit for the error behind a ReLU (Zhang, Zou, He, Sun, TPAMI 2016, section 3.3, with the shortcut inside).

Objective, r = ReLU, s the offset that is added before the activation, y the original pre-activation::

    sum ||r(y) - r(s + M x + b)||^2

solved by the published relaxation, with a penalty that is small first::

    minimise over z, M, b   sum ||r(y) - r(z)||^2 + penalty ||z - s - M x - b||^2

by turns. Given m = s + M x + b, z is the cheaper of two candidates for each element: ``min(m, 0)``, and
``max(0, (penalty m + r(y)) / (penalty + 1))``. Compared, the second is taken where
``m > -r(y) (((1 + penalty) / penalty)^(1/2) - 1)``; elsewhere z = m. Given z, M and b are a regression of
z - s on x, pulled toward the linear solution as strongly as that one was toward the original weights; its
matrix never changes and is factorised once, so a turn costs two products with the samples and two triangular
solves.

The number of turns is found on the even samples and judged on the odd ones; only if that beats the linear
solution is it repeated on all. What is returned is never worse on the samples than the linear solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxprune.solve.numerics import Array, Array32, Factor, Indices, blas_threads_for, factorise
from onnxprune.solve.problem import RefitOptions, Samples, Solution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["refit_relu", "wanted_change"]

_BLOCK_ROWS = 2048
_PATIENCE = 5
_LEAST_PULL, _MOST_PULL = 1e-6, 1.0
# An improvement smaller than this share does not count: it is rounding.
_GAIN = 1e-5


def refit_relu(
    linear: Solution, samples: Samples, columns: Indices, moment_count: int, options: RefitOptions
) -> Solution:
    """Improve the ``linear`` solution for ``columns`` ((k,) int64) by the error behind the ReLU.

    ``moment_count``: samples that the linear solution came from. Errors of the returned solution are measured
    behind the ReLU, relative to the variance of r(y); ``error_even`` and ``error_odd`` are both the held-out
    one, measured on the odd samples.
    """
    with blas_threads_for(len(columns)):
        return _refit(linear, samples, columns, moment_count, options)


def _refit(linear: Solution, samples: Samples, columns: Indices, moment_count: int, options: RefitOptions) -> Solution:
    x = samples.x[:, columns]
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = _Rows(x - centre, np.maximum(samples.y, 0), samples.offset)
    start = _Iterate(linear.weight, linear.bias + linear.weight @ centre)
    odd = np.asarray(samples.half) == 1
    before = rows.error(start)
    if odd.all() or not odd.any():
        status = _join(linear.status, "relu: one half has no samples, linear solution kept")
        return replace(linear, error=before, error_even=before, error_odd=before, status=status)
    # A mean-normalised ridge falls as one over the number of samples.
    pull = float(np.clip(linear.ridge * moment_count / len(x), _LEAST_PULL, _MOST_PULL))
    judge = rows.part(odd)
    tried = _descend(rows.part(~odd), judge, start, pull, options.relu_steps)
    held = judge.error(start)
    final = _descend(rows, rows, start, pull, tried.turns) if tried.error < held else None
    if final is None or final.error >= before:
        status = _join(linear.status, "relu: no better than linear on held-out samples, linear solution kept")
        return replace(linear, error=before, error_even=held, error_odd=held, status=status)
    turns = sum(count for _, count in final.turns)
    return Solution(
        weight=final.best.weight,
        bias=final.best.bias - final.best.weight @ centre,
        error=final.error,
        error_even=tried.error,
        error_odd=tried.error,
        ridge=linear.ridge,
        status=_join(linear.status, f"relu: {turns} turns"),
    )


@dataclass(frozen=True)
class _Iterate:
    """weight (o, k) and bias (o,), float64, for centred x."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class _Descent:
    """``turns``: (penalty, turns up to the best iterate) of the phases that helped."""

    best: _Iterate
    error: float
    turns: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class _Sweep:
    """One pass over the samples: the error, and the sums of z - m that the M-step needs.

    ``error``: sum of ||r(y) - r(m)||^2. ``cross``: (k, o) sum of x (z - m)^T. ``change``: (o,) sum of z - m.
    """

    error: float
    cross: Array
    change: Array


@dataclass(frozen=True)
class _Rows:
    """Samples, float32: centred x (n, k), rectified target (n, o), offset (n, o) or None."""

    x: Array32
    target: Array32
    offset: Array32 | None

    @cached_property
    def power(self) -> float:
        """Sum of squares of r(y) around its mean."""
        return float(self.target.var(axis=0, dtype=np.float64).sum()) * len(self.target) or 1.0

    def part(self, rows: npt.NDArray[np.bool_]) -> _Rows:
        offset = None if self.offset is None else self.offset[rows]
        return _Rows(self.x[rows], self.target[rows], offset)

    def responses(self, iterate: _Iterate) -> Iterator[tuple[Array32, Array32, Array32]]:
        """Blocks, small enough for the cache, of x, target and m = s + M x + b."""
        weight, bias = iterate.weight.T.astype(np.float32), iterate.bias.astype(np.float32)
        for first in range(0, len(self.x), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            response = self.x[block] @ weight
            response += bias
            if self.offset is not None:
                response += self.offset[block]
            yield self.x[block], self.target[block], response

    def error(self, iterate: _Iterate) -> float:
        """Relative error behind the ReLU."""
        return sum(_squares(target, response) for _, target, response in self.responses(iterate)) / self.power

    def sweep(self, iterate: _Iterate, penalty: float) -> _Sweep:
        error, cross, change = 0.0, np.zeros(iterate.weight.T.shape), np.zeros(len(iterate.bias))
        for x, target, response in self.responses(iterate):
            error += _squares(target, response)
            wanted = wanted_change(target, response, penalty)
            cross += x.T @ wanted
            change += wanted.sum(axis=0)
        return _Sweep(error / self.power, cross, change)


def _descend(rows: _Rows, judge: _Rows, start: _Iterate, pull: float, steps: Sequence[tuple[float, int]]) -> _Descent:
    """Turns on ``rows``, judged on ``judge``; each penalty starts from the best iterate so far."""
    regression = _Regression.of(rows, start, pull)
    best, error = start, judge.error(start)
    done: list[tuple[float, int]] = []
    for penalty, turns in steps:
        current, helped = best, 0
        sweep = rows.sweep(current, penalty)
        for turn in range(1, turns + 1):
            current = regression.step(current, sweep)
            sweep = rows.sweep(current, penalty)
            now = sweep.error if judge is rows else judge.error(current)
            if now < error * (1 - _GAIN):
                best, error, helped = current, now, turn
            elif turn - helped >= _PATIENCE:
                break
        if helped:
            done.append((penalty, helped))
    return _Descent(best, error, tuple(done))


def _squares(target: Array32, response: Array32) -> float:
    """Sum of ||r(y) - r(m)||^2 over a block."""
    apart = np.maximum(response, 0)
    apart -= target
    return float(np.vdot(apart, apart))


def wanted_change(target: Array32, response: Array32, penalty: float) -> Array32:
    """z - m for the cheaper candidate z of each element: (n, o) float32; target r(y), response m."""
    reach = np.float32(np.sqrt((1 + penalty) / penalty) - 1)
    change = target - response
    change *= np.float32(1 / (1 + penalty))
    change *= response > -reach * target
    return change


@dataclass(frozen=True)
class _Regression:
    """The M-step, its matrix factorised once.

    ``mean``: (k,) of these rows. ``damping``: (k,) pull times each column's variance. ``anchor``: (o, k), the
    weights that the pull is toward.
    """

    count: int
    mean: Array
    factor: Factor
    damping: Array
    anchor: Array

    @classmethod
    def of(cls, rows: _Rows, anchor: _Iterate, pull: float) -> _Regression:
        mean = rows.x.mean(axis=0, dtype=np.float64)
        gram = (rows.x.T @ rows.x).astype(np.float64) / len(rows.x) - np.outer(mean, mean)
        return cls(len(rows.x), mean, factorise(gram, ridge=pull), pull * np.diagonal(gram), anchor.weight)

    def step(self, current: _Iterate, sweep: _Sweep) -> _Iterate:
        change = sweep.change / self.count
        cross = sweep.cross / self.count - np.outer(self.mean, change)
        cross -= self.damping[:, None] * (current.weight - self.anchor).T
        weight = current.weight + self.factor.solve(cross).T
        return _Iterate(weight, current.bias + change - (weight - current.weight) @ self.mean)


def _join(*remarks: str) -> str:
    return "; ".join(remark for remark in remarks if remark != "ok")
