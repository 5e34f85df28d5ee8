"""Refits of the weights of the kept columns. All errors are relative to E||y - E y||^2.

==============  ========================================================================================
``linear``      E||y - W x - b||^2 + ridge ||(W - W0) D||^2, D = diag(gram)^(1/2), W0 the original weights; the
                weights of rare columns (see ``moments``) are kept
``ridge``       E||y - W x - b||^2 + ridge mean(diag(gram)) ||W||^2: ordinary ridge regression, toward zero
``scale-only``  E||y - sum_c beta_c W0_c x_c - b||^2: one factor per channel; 1 for columns of no unit and for
                channels with rare columns only
``auto``        the error behind the activation, see ``nonlinear``
``none``        the original weights and bias
==============  ========================================================================================

With a rank, W is the reduced-rank regression (Zhang et al. 2016): the fit, projected on the leading eigenvectors of the
second moments of its outputs, so that the added error is the sum of the discarded eigenvalues; ``none`` projects by the
singular values of the weights alone, as published for the data-free case.

``linear`` chooses its ridge from a few ``strengths`` by two-fold cross-validation between the halves: each candidate
is fitted to one half and judged on the other in closed form. The default grid contains infinity, the original weights
with a refitted bias, so the cross-validated error never exceeds theirs. The unknown is W - W0, so that W0 is returned
to the last digit if nothing has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.options.solve import RefitOptions
from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.nonlinear import project, refit_nonlinear
from onnxprune.solve.numerics import Array, Indices, blas_threads_for, factorise
from onnxprune.solve.problem import Regression, Samples, Solution
from onnxprune.solve.quadratic import channel_quadratic

__all__ = ["refit"]

_UNTUNED_RIDGE = 1e-2
# A gain below this share of the output's power is the rounding of float32 sums.
_NOISE = 1e-7
_ROWS_PER_COLUMN = 10
_PATIENCE = 2

_Fit = Callable[[Part], tuple[Array, Array]]


def refit(
    problem: Regression,
    kept_columns: Indices,
    options: RefitOptions,
    samples: Samples | None = None,
    rank: int | None = None,
) -> Solution:
    """Fit the weights of some columns to the target outputs.

    Args:
        problem: the regression, with p columns.
        kept_columns: columns to fit, (k,) int64, see ``problem.kept_columns``.
        options: kind and strength of the refit.
        samples: raw samples with all p columns; needed by ``auto`` only.
        rank: largest rank of the weights; None for any.

    Raises:
        ValueError: there are no samples, or no raw samples for ``auto``.
    """
    kept_columns = np.asarray(kept_columns, dtype=np.int64)
    if not problem.moments.count:
        raise ValueError("expected moments of at least one sample, found none")
    if options.refit == "auto":
        if samples is None:
            raise ValueError("refit 'auto' needs raw samples: moments do not give the error behind an activation")
        linear = refit(problem, kept_columns, replace(options, refit="linear"), rank=rank)
        original = problem.weight[:, kept_columns]
        return refit_nonlinear(linear, original, samples, kept_columns, problem.moments.count, options, rank)
    kept = _Kept(
        moments=problem.moments.columns(kept_columns),
        weight=problem.weight[:, kept_columns],
        bias=problem.bias,
        unit=problem.unit[kept_columns],
        rank=rank,
    )
    with blas_threads_for(len(kept_columns)):
        return _REFITS[options.refit](kept, options)


@dataclass(frozen=True)
class _Kept:
    """Restricted problem: moments of k columns, original weight (o, k) and bias (o,), unit (k,); rank of the result."""

    moments: Moments
    weight: Array
    bias: Array
    unit: Indices
    rank: int | None

    def low(self, fit: _Fit) -> _Fit:
        """Return the fit with its weights projected to the rank."""

        def reduced(part: Part) -> tuple[Array, Array]:
            weight, _ = fit(part)
            return _with_bias(project(weight, part.gram, self.rank), part)

        return fit if self.rank is None else reduced


def _linear(kept: _Kept, options: RefitOptions) -> Solution:
    moments = kept.moments
    scale = moments.total.scale
    if min(moments.even.count, moments.odd.count) < 2:
        return _solution(kept, kept.low(_toward(kept.weight, scale, _UNTUNED_RIDGE)), _UNTUNED_RIDGE)
    if len(options.strengths) == 1:
        return _solution(kept, kept.low(_toward(kept.weight, scale, options.strengths[0])), options.strengths[0])
    folds = _folds(options.strengths, lambda s: _cross_errors(moments, kept.low(_toward(kept.weight, scale, s))))
    totals = {ridge: sum(errors) for ridge, errors in folds.items()}
    # The strongest ridge as good as the best: a gain within rounding is no reason to change the weights.
    enough = min(totals.values()) + _NOISE
    ridge = max(ridge for ridge, total in totals.items() if total <= enough)
    return _solution(kept, kept.low(_toward(kept.weight, scale, ridge)), ridge, folds[ridge])


def _folds(
    strengths: Sequence[float], cross: Callable[[float], tuple[float, float]]
) -> dict[float, tuple[float, float]]:
    """Cross-validate the strongest ridge, then the others from the weakest up until the error only grows."""
    order = sorted(strengths)
    found = {order[-1]: cross(order[-1])}
    before, grown = math.inf, 0
    for strength in order[:-1]:
        found[strength] = cross(strength)
        total = sum(found[strength])
        grown = grown + 1 if total > before + _NOISE else 0
        before = total
        if grown == _PATIENCE:
            break
    return found


def _ridge(kept: _Kept, options: RefitOptions) -> Solution:
    def fit(part: Part) -> tuple[Array, Array]:
        diagonal = np.diagonal(part.gram)
        level = np.full(len(diagonal), np.sqrt(max(float(diagonal.mean()), 0.0))) if len(diagonal) else diagonal
        weight = factorise(part.gram, ridge=options.ridge, scale=level).solve(part.cross).T
        return _with_bias(weight, part)

    return _solution(kept, kept.low(fit), options.ridge)


def _scale_only(kept: _Kept, options: RefitOptions) -> Solution:
    chosen = (kept.unit >= 0) & np.isin(kept.unit, kept.unit[kept.moments.total.scale > 0])
    ids, unit = np.unique(kept.unit[chosen], return_inverse=True)
    compact = np.full(len(kept.unit), -1, dtype=np.int64)
    compact[chosen] = unit

    def fit(part: Part) -> tuple[Array, Array]:
        quadratic = channel_quadratic(part, kept.weight, compact, len(ids))
        factors = factorise(quadratic.matrix).solve(quadratic.linear[:, None])[:, 0]
        return _with_bias(kept.weight * np.append(factors, 1.0)[compact], part)

    return _solution(kept, kept.low(fit), 0.0)


def _none(kept: _Kept, options: RefitOptions) -> Solution:
    weight = project(kept.weight, np.eye(kept.weight.shape[1]), kept.rank)
    return _solution(kept, lambda part: (weight, kept.bias), np.inf)


_REFITS: dict[str, Callable[[_Kept, RefitOptions], Solution]] = {
    "linear": _linear,
    "ridge": _ridge,
    "scale-only": _scale_only,
    "none": _none,
}


def _toward(original: Array, scale: Array, ridge: float) -> _Fit:
    """Make the ridge regression toward ``original`` (o, k), with strength ``ridge`` relative to scale^2."""

    def fit(part: Part) -> tuple[Array, Array]:
        if np.isinf(ridge):
            return _with_bias(original, part)
        unanswered = part.cross - part.gram @ original.T
        change = factorise(part.gram, ridge=ridge, scale=scale).solve(unanswered).T
        return _with_bias(original + change, part)

    return fit


def _with_bias(weight: Array, part: Part) -> tuple[Array, Array]:
    return weight, part.mean_y - weight @ part.mean_x


def _cross_errors(moments: Moments, fit: _Fit) -> tuple[float, float]:
    """Return the relative errors on the even and on the odd half, each of a fit to the other half."""
    power = float(moments.total.power.sum()) or 1.0
    return moments.even.error(*fit(moments.odd)) / power, moments.odd.error(*fit(moments.even)) / power


def _solution(kept: _Kept, fit: _Fit, ridge: float, crossed: tuple[float, float] | None = None) -> Solution:
    moments = kept.moments
    weight, bias = fit(moments.total)
    power = float(moments.total.power.sum()) or 1.0
    error = moments.total.error(weight, bias) / power
    remarks = []
    if min(moments.even.count, moments.odd.count) < 2:
        crossed = (error, error)
        remarks.append("one half has no samples: errors are not cross-validated")
    even, odd = crossed or _cross_errors(moments, fit)
    if moments.count < _ROWS_PER_COLUMN * len(kept.unit):
        remarks.append("few samples")
    return Solution(weight, bias, error, even, odd, float(ridge), "; ".join(remarks) or "ok")
