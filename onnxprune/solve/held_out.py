"""Held-out errors of refits on all prefixes of the columns at once.

The target output of a layer is its own, ``y = W0 x + b``, so an error on the samples of the fit says little more than
the number of unknowns: N columns fit any output of N samples. Here everything (removal order, factors, weights) is
fitted to one half of the samples and judged on the other, both ways.

The fit is the ridge of ``refits``, on a prefix S of the columns::

    E_A||y - W x_S - b||^2 + ridge ||(W - W0_S) D||^2,        D^2 = diag(G)

With L L^T = G + ridge D^2 and Z = L^-1 (C + ridge D^2 W0^T), the outputs of the fit on the first s columns are
``Z_s^T v_s`` with v = L^-1 x, since L is lower triangular: one factor serves all prefixes. On the other half, with its
moments about the means of the fitted half (so that the bias is judged, too)::

    error(s) = P - 2 tr(Z_s^T C_v,s) + tr(Z_s^T G_v,ss Z_s),       C_v = L^-1 C,   G_v = L^-1 G L^-T

which are cumulative sums over columns. The ridge of each size is the one of least error, as in the final fit.

A fit to half of the samples has a larger error than a fit to all. With r unknowns per sample and an irreducible error
e, the error of least squares is e (1 - r) on its own samples and e / (1 - r) on new ones. The errors on both halves
thus give r and e; with twice the samples r is halved. The estimate is never less than the mean of both errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cholesky, lapack

from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.numerics import JITTER, Array, Indices, blas_threads_for, mirror_lower, solve_lower

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxprune.solve.problem import Regression

__all__ = ["Prefixes", "both_ways", "expected", "held_out_curve", "parts_of"]

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, np.inf)  # weakest first; infinity: the original weights and a fitted bias
_HELD = 1e4  # ridge of columns that are not refitted: rare ones, see `moments`


@dataclass(frozen=True)
class Prefixes:
    """Fits of all prefixes of some columns to one half of the samples, at one ridge.

    Attributes:
        answers: Z, (p, o); the first s rows are the fit on the first s columns.
        own: second moments of v on the fitted half, (p, p).
        other: second moments of v on the other half about the means of the fitted half, (p, p).
        cross_own: second moments of v and the target outputs on the fitted half, (p, o).
        cross_other: second moments of v and the target outputs on the other half, (p, o).
        power_own: variance of the target outputs on the fitted half, (o,).
        power_other: second moments of the target outputs on the other half, (o,).
    """

    answers: Array
    own: Array
    other: Array
    cross_own: Array
    cross_other: Array
    power_own: Array
    power_other: Array

    @classmethod
    def fit(cls, fitted: Part, judged: Part, start: Array, ridge: float) -> Prefixes:
        """Fit every prefix of the columns.

        Args:
            fitted: moments of the half to fit, p columns and o outputs.
            judged: moments of the other half about the means of the fitted half, see `parts_of`.
            start: W0, the original weights, (o, p).
            ridge: strength of the ridge, relative to D^2; infinity keeps `start`.
        """
        if np.isinf(ridge):
            return cls(start.T, fitted.gram, judged.gram, fitted.cross, judged.cross, fitted.power, judged.power)
        scale = np.sqrt(np.maximum(np.diagonal(fitted.gram), 0.0))
        alive = scale > 0
        scale[~alive] = 1.0
        pull = np.where(alive & (fitted.scale > 0), ridge, _HELD)
        system = fitted.gram / scale
        system /= scale[:, None]
        own = system.copy()
        system[np.diag_indices_from(system)] += pull + JITTER
        lower = _factor(system)
        start = start.T * scale[:, None]
        answers = solve_lower(lower, fitted.cross / scale[:, None] + (pull + JITTER)[:, None] * start)
        other = judged.gram / scale
        other /= scale[:, None]
        return cls(
            answers,
            _congruent(own, lower),
            _congruent(other, lower),
            solve_lower(lower, fitted.cross / scale[:, None]),
            solve_lower(lower, judged.cross / scale[:, None]),
            fitted.power,
            judged.power,
        )

    def errors(self, sizes: Indices) -> tuple[Array, Array]:
        """Return the absolute errors on the fitted and on the other half for (n,) numbers of columns: (n,) each."""
        own = _errors(self.answers, self.own, self.cross_own, float(self.power_own.sum()))
        other = _errors(self.answers, self.other, self.cross_other, float(self.power_other.sum()))
        return own[sizes], other[sizes]


def held_out_curve(problems: Sequence[Regression], orders: tuple[Indices, Indices]) -> Array:
    """Estimate the relative error of the final fit on new samples without the first k units, summed over consumers.

    Args:
        problems: regressions of the units' consumers on the outputs of the original layers.
        orders: (units,) each, first removed first: found on the even and on the odd half.

    Returns:
        (units + 1,) errors, not decreasing. Entry 0: nothing removed.
    """
    curve = np.zeros(len(orders[0]) + 1)
    for problem in problems:
        with blas_threads_for(len(problem.unit)):
            halves = (_ranked(problem, order) for order in orders)  # one at a time: they are large
            errors, _ = both_ways(halves, float(problem.moments.total.power.sum()))
        curve += errors
    return np.maximum.accumulate(curve)


def both_ways(halves: Iterable[tuple[Moments, Array, Indices]], power: float) -> tuple[Array, Array]:
    """Fit on each half, judge on the other, and take the ridge of least error for each size.

    Args:
        halves: for the even and the odd half, each with its own order of the columns: moments, W0 (o, p), and the
            numbers of columns (n,) to judge at.
        power: E||y - E y||^2 over all samples.

    Returns:
        Relative errors (n,), and ridges (n,).
    """
    found, measured = [], []
    for half, (moments, start, sizes) in enumerate(halves):
        parts = parts_of(moments, half)
        errors = [Prefixes.fit(*parts, start, ridge).errors(sizes) for ridge in _STRENGTHS]
        measured.append([other for _, other in errors])
        found.append([expected(own, other) for own, other in errors])
    best = np.argmin(np.mean(measured, axis=0), axis=0)
    errors_of_best = np.mean(found, axis=0)[best, np.arange(len(best))]
    return errors_of_best / power if power > 0 else np.zeros(len(best)), np.array(_STRENGTHS)[best]


def expected(own: Array, other: Array) -> Array:
    """Estimate the errors of a fit to all samples on new samples, from errors of fits to one half on each half."""
    left = np.sqrt(np.divide(np.minimum(own, other), other, out=np.ones_like(other), where=other > 0))  # 1 - r
    return np.asarray(np.maximum(other * 2 * left / (1 + left), (np.minimum(own, other) + other) / 2), dtype=np.float64)


def parts_of(moments: Moments, half: int) -> tuple[Part, Part]:
    """Return the moments of the half to fit, and of the other half about the means of the first."""
    fitted, judged = (moments.even, moments.odd) if half == 0 else (moments.odd, moments.even)
    return fitted, _about(judged, fitted)


def _ranked(problem: Regression, order: Indices) -> tuple[Moments, Array, Indices]:
    """Return moments and weights with the last removed columns first, and the sizes, see `_ranked_columns`."""
    columns, sizes = _ranked_columns(problem.unit, order)
    return problem.moments.columns(columns), problem.weight[:, columns], sizes


def _ranked_columns(unit: Indices, order: Indices) -> tuple[Indices, Indices]:
    """Return the columns, last removed first, and the number of columns left without the first k units of an order.

    Args:
        unit: (p,), the unit of each column; -1 for none.
        order: (units,), first removed first.

    Returns:
        (p,) columns, and (units + 1,) sizes.
    """
    stays = np.zeros(max(int(unit.max(initial=-1)), int(order.max(initial=-1))) + 2, dtype=np.int64)
    stays[order + 1] = np.arange(len(order), 0, -1)
    rank = stays[unit + 1]
    by_rank = np.argsort(rank, kind="stable")
    counts = np.bincount(rank, minlength=len(order) + 1)
    return by_rank.astype(np.int64), np.cumsum(counts)[::-1].astype(np.int64)


def _about(part: Part, other: Part) -> Part:
    """Return the moments of a part about the means of another part."""
    apart_x, apart_y = part.mean_x - other.mean_x, part.mean_y - other.mean_y
    return replace(
        part,
        mean_x=other.mean_x,
        mean_y=other.mean_y,
        gram=part.gram + np.outer(apart_x, apart_x),
        cross=part.cross + np.outer(apart_x, apart_y),
        power=part.power + np.square(apart_y),
    )


def _errors(answers: Array, gram: Array, cross: Array, power: float) -> Array:
    """Compute P - 2 tr(Z_s^T C_s) + tr(Z_s^T G_ss Z_s) for s from 0 to p: (p + 1,)."""
    lower = np.tril(gram, -1)
    lower *= 2.0
    lower[np.diag_indices_from(lower)] = np.diagonal(gram)
    steps = np.einsum("po,po->p", answers, lower @ answers) - 2.0 * np.einsum("po,po->p", answers, cross)
    return np.maximum(power + np.concatenate([[0.0], np.cumsum(steps)]), 0.0)


def _congruent(matrix: Array, lower: Array) -> Array:
    """Compute ``L^-1 A L^-T`` for symmetric (p, p) A; A is overwritten."""
    if not len(lower):
        return matrix
    found, info = lapack.dsygst(np.asfortranarray(matrix), lower, itype=1, lower=1, overwrite_a=1)
    if info:
        raise AssertionError(f"dsygst: argument {-info} is wrong")
    return mirror_lower(np.asarray(found, dtype=np.float64))


def _factor(system: Array) -> Array:
    """Compute the Cholesky factor of a correlation matrix with a ridge; jitter grows until the factor exists."""
    jitter = JITTER
    while True:
        try:
            return np.asarray(cholesky(system, lower=True, check_finite=False), dtype=np.float64)
        except np.linalg.LinAlgError:
            if jitter >= 1.0:
                raise
            jitter *= 10
            system[np.diag_indices_from(system)] += jitter
