"""Refit behind the activation (Zhang, Zou, He, Sun, TPAMI 2016, section 3.3, with the shortcut inside).

Objective, with activation r, offset s added before it, and original pre-activation y::

    sum ||r(y) - r(s + M x + b)||^2        and, with a rank,  rank(M) <= rank

solved by the published relaxation, with increasing penalties::

    minimise over z, M, b   sum ||r(y) - r(z)||^2 + penalty ||z - s - M x - b||^2

in alternation. Given m = s + M x + b, z has a closed form for each element, see ``activation``. Given z, M and b are
a regression of z - s on x with a ridge toward the linear solution, as strong as the ridge of the linear solution toward
the original weights; its matrix is constant and factorised once, so an iteration costs two products with the samples
and two triangular solves. With a rank, M is the reduced-rank regression: the full one, projected on the leading
eigenvectors of its outputs' second moments.

The published schedule is 30 iterations with penalty 0.1 and 20 with 1. Here z - m is multiplied by 1 + penalty: for
slope 1 this reaches r(y), the iteration becomes a preconditioned gradient step on ||r(y) - r(s + M x + b)||^2 itself,
and with Nesterov's acceleration a dozen iterations lower the error more than the published 50.

The number of iterations is found by fitting the even half and judging on the odd half; only if that beats the linear
solution of the even half, the fit is repeated on all samples. The result is never worse on the samples than the linear
solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from onnxprune.options.solve import RefitOptions
from onnxprune.solve.activation import Activation
from onnxprune.solve.numerics import (
    Array,
    Array32,
    Factor,
    Indices,
    blas_threads_for,
    factorise,
    fourth_moments,
    trusted_scale,
)
from onnxprune.solve.problem import Samples, Solution

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["behind", "project", "refit_nonlinear"]

_BLOCK_ROWS = 2048
_PATIENCE = 5
_LEAST_PULL, _MOST_PULL = 1e-6, 1.0
# An improvement below this share is rounding and does not count.
_GAIN = 1e-5


def refit_nonlinear(
    linear: Solution,
    original: Array,
    samples: Samples,
    columns: Indices,
    moment_count: int,
    options: RefitOptions,
    rank: int | None = None,
) -> Solution:
    """Improve a linear solution by the error behind the activation.

    Errors of the returned solution are measured behind the activation, relative to the variance of r(y); ``error_even``
    and ``error_odd`` are both the held-out error on the odd half.

    Args:
        linear: the linear solution; with a `rank`, of this rank.
        original: original weights, toward which the linear solution was regularised, (o, k).
        samples: raw samples and their activation.
        columns: columns of the solution, (k,) int64.
        moment_count: number of samples of the linear solution.
        options: steps of the iteration, and whether it is judged on held-out samples.
        rank: largest rank of the weights; None for any.
    """
    with blas_threads_for(len(columns)):
        return _refit(linear, original, samples, columns, moment_count, options, rank)


def behind(solution: Solution, samples: Samples) -> Solution:
    """Return a solution for all columns of ``samples`` with its errors measured behind their activation."""
    rows = _Rows(samples.x, samples.activation(samples.y), samples.offset, samples.activation)
    error = rows.error(_Iterate(solution.weight, solution.bias))
    return replace(solution, error=error, error_even=error, error_odd=error)


def project(weight: Array, gram: Array, rank: int | None) -> Array:
    """Return the (o, k) matrix of a rank with the outputs closest to ``weight``'s, for x of moments ``gram`` (k, k)."""
    if rank is None or rank >= min(weight.shape):
        return weight
    outputs, columns = weight.shape
    if outputs <= columns:
        vectors = _leading(weight @ gram @ weight.T, rank)
    else:  # the same vectors from the smaller side: a classifier has thousands of outputs
        sizes, axes = eigh(gram, check_finite=False)
        spread = weight @ (axes * np.sqrt(np.maximum(sizes, 0.0)))
        vectors, _ = np.linalg.qr(spread @ _leading(spread.T @ spread, rank))
    return np.asarray(vectors @ (vectors.T @ weight), dtype=np.float64)


def _leading(matrix: Array, count: int) -> Array:
    """Return the eigenvectors of the largest eigenvalues of a symmetric (n, n) matrix, (n, count)."""
    last = len(matrix) - 1
    _, vectors = eigh(matrix, subset_by_index=(last + 1 - count, last), check_finite=False)
    return np.asarray(vectors)


def _refit(
    linear: Solution,
    original: Array,
    samples: Samples,
    columns: Indices,
    moment_count: int,
    options: RefitOptions,
    rank: int | None,
) -> Solution:
    label = samples.activation.name
    x = samples.x if len(columns) == samples.x.shape[1] else samples.x[:, columns]
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = _Rows(x - centre, samples.activation(samples.y), samples.offset, samples.activation)
    start = _Iterate(linear.weight, linear.bias + linear.weight @ centre)
    before = rows.error(start)
    if options.judged and len(np.unique(samples.half)) < 2:
        status = _join(linear.status, f"one half has no samples to judge the {label} by: linear refit")
        return replace(linear, error=before, error_even=before, error_odd=before, status=status)
    # A mean-normalised ridge falls as one over the number of samples.
    pull = float(np.clip(linear.ridge * moment_count / len(x), _LEAST_PULL, _MOST_PULL))
    turns, held, reached = options.relu_steps, before, None
    if options.judged:
        odd = np.asarray(samples.half) == 1
        judge, part = rows.part(odd), rows.part(~odd)
        # The linear solution has seen the odd half; the fair start is a linear fit without it.
        half = _Regression.of(part, replace(start, weight=original), pull, rank)
        fair = half.step(start, part.linear_sweep(start, samples.y[~odd]))
        held = judge.error(fair)
        turns, reached = _trial(replace(half, anchor=fair.weight), fair, judge, options.relu_steps)
    final = _repeated(_Regression.of(rows, start, pull, rank), start, turns) if turns else start
    error = rows.error(final)
    if not error < before:
        status = _join(linear.status, f"no gain behind the {label}: linear refit")
        return replace(linear, error=before, error_even=held, error_odd=held, status=status)
    reached = error if reached is None else reached
    return Solution(
        weight=final.weight,
        bias=final.bias - final.weight @ centre,
        error=error,
        error_even=reached,
        error_odd=reached,
        ridge=linear.ridge,
        status=_join(linear.status, f"fitted behind the {label}"),
    )


@dataclass(frozen=True)
class _Iterate:
    """weight (o, k) and bias (o,), float64, for centred x."""

    weight: Array
    bias: Array

    def beyond(self, other: _Iterate, share: float) -> _Iterate:
        """Extrapolate from another iterate through this one, by a share of the distance."""
        weight, bias = self.weight - other.weight, self.bias - other.bias
        return _Iterate(self.weight + share * weight, self.bias + share * bias)


@dataclass(frozen=True)
class _Sweep:
    """Sums of one pass over the samples, for the regression step.

    ``error``: sum of ||r(y) - r(m)||^2, relative to the power of r(y). ``cross``: sum of x (z - m)^T, (k, o).
    ``change``: sum of z - m, (o,).
    """

    error: float
    cross: Array
    change: Array


@dataclass(frozen=True)
class _Rows:
    """Samples, float32: centred x (n, k), target r(y) (n, o), offset (n, o) or None; and r."""

    x: Array32
    target: Array32
    offset: Array32 | None
    activation: Activation

    @cached_property
    def power(self) -> float:
        """Sum of squares of r(y) about its mean; 1 if that is zero."""
        return float(self.target.var(axis=0, dtype=np.float64).sum()) * len(self.target) or 1.0

    def part(self, rows: npt.NDArray[np.bool_]) -> _Rows:
        offset = None if self.offset is None else self.offset[rows]
        return _Rows(self.x[rows], self.target[rows], offset, self.activation)

    def responses(self, iterate: _Iterate) -> Iterator[tuple[Array32, Array32, Array32]]:
        """Yield x, target and m = s + M x + b in blocks that fit in the processor's cache."""
        weight, bias = iterate.weight.T.astype(np.float32), iterate.bias.astype(np.float32)
        for first in range(0, len(self.x), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            response = self.x[block] @ weight
            response += bias
            if self.offset is not None:
                response += self.offset[block]
            yield self.x[block], self.target[block], response

    def error(self, iterate: _Iterate) -> float:
        """Return the relative error behind the activation."""
        return sum(self._squares(target, response) for _, target, response in self.responses(iterate)) / self.power

    def sweep(self, iterate: _Iterate, penalty: float) -> _Sweep:
        error, cross, change = 0.0, np.zeros(iterate.weight.T.shape), np.zeros(len(iterate.bias))
        for x, target, response in self.responses(iterate):
            error += self._squares(target, response)
            wanted = self.activation.wanted_change(target, response, penalty)
            cross += x.T @ wanted
            change += wanted.sum(axis=0)
        return _Sweep(error / self.power, cross, change)

    def linear_sweep(self, iterate: _Iterate, wanted: Array32) -> _Sweep:
        """Return the sums of `sweep` for z = ``wanted`` (n, o), the target before the activation; its error is 0."""
        cross, change, done = np.zeros(iterate.weight.T.shape), np.zeros(len(iterate.bias)), 0
        for x, _, response in self.responses(iterate):
            apart = wanted[done : done + len(x)] - response
            cross += x.T @ apart
            change += apart.sum(axis=0)
            done += len(x)
        return _Sweep(0.0, cross, change)

    def _squares(self, target: Array32, response: Array32) -> float:
        """Return the sum of ||r(y) - r(m)||^2 over a block."""
        apart = self.activation(response)
        apart -= target
        return float(np.vdot(apart, apart))


_Turns = tuple[tuple[float, int], ...]
"""Pairs (penalty, number of iterations), in order."""


def _trial(regression: _Regression, start: _Iterate, judge: _Rows, steps: _Turns) -> tuple[_Turns, float]:
    """Find the iterations that lower the held-out error, possibly none; return them and the least held-out error.

    Each penalty starts from the best iterate so far.
    """
    best, error = start, judge.error(start)
    done: list[tuple[float, int]] = []
    for penalty, most in steps:
        helped = 0
        for turn, iterate in enumerate(islice(regression.turns(best, penalty), most), start=1):
            now = judge.error(iterate)
            if now < error * (1 - _GAIN):
                found, error, helped = iterate, now, turn
            elif turn - helped >= _PATIENCE:
                break
        if helped:
            best = found
            done.append((penalty, helped))
    return tuple(done), error


def _repeated(regression: _Regression, start: _Iterate, steps: _Turns) -> _Iterate:
    """Run the given iterations without judging them."""
    current = start
    for penalty, count in steps:
        *_, current = islice(regression.turns(current, penalty), count)
    return current


@dataclass(frozen=True)
class _Regression:
    """Regression step for M and b, its matrix factorised once.

    Attributes:
        rows: samples.
        mean: mean of x, (k,).
        factor: factor of the regularised second moments of x.
        damping: ridge times each column's variance, (k,).
        anchor: weights toward which the ridge pulls, (o, k).
        gram: second moments of x plus the damping, (k, k).
        rank: largest rank of the weights; None for any.
    """

    rows: _Rows
    mean: Array
    factor: Factor
    damping: Array
    anchor: Array
    gram: Array
    rank: int | None

    @classmethod
    def of(cls, rows: _Rows, anchor: _Iterate, pull: float, rank: int | None) -> _Regression:
        mean = rows.x.mean(axis=0, dtype=np.float64)
        # Centred before the product: of a constant column, the other way would leave nothing but rounding.
        centred = rows.x - mean.astype(np.float32)
        gram = (centred.T @ centred).astype(np.float64) / len(rows.x)
        damping = pull * np.diagonal(gram)
        factor = factorise(gram, ridge=pull, scale=trusted_scale(gram, fourth_moments(centred), len(centred)))
        return cls(rows, mean, factor, damping, anchor.weight, gram + np.diag(damping), rank)

    def turns(self, start: _Iterate, penalty: float) -> Iterator[_Iterate]:
        """Yield iterates endlessly: over-relaxed, accelerated (Nesterov), restarted when the error grows."""
        before = point = start
        pace, error = 1.0, np.inf
        while True:
            sweep = self.rows.sweep(point, penalty)
            pace, error = 1.0 if sweep.error > error else pace, sweep.error
            after = self.step(point, sweep, 1 + penalty)
            faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
            point, before, pace = after.beyond(before, (pace - 1) / faster), after, faster
            yield after

    def step(self, current: _Iterate, sweep: _Sweep, relaxation: float = 1.0) -> _Iterate:
        """Regress z - s on x, with z - m being `relaxation` times the sums of the sweep."""
        scale = relaxation / len(self.rows.x)
        change = sweep.change * scale
        cross = sweep.cross * scale - np.outer(self.mean, change)
        cross -= self.damping[:, None] * (current.weight - self.anchor).T
        weight = project(current.weight + self.factor.solve(cross).T, self.gram, self.rank)
        return _Iterate(weight, current.bias + change - (weight - current.weight) @ self.mean)


def _join(*remarks: str) -> str:
    return "; ".join(remark for remark in remarks if remark != "ok")
