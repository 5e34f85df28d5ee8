"""LASSO selection on second moments (He, Zhang, Sun, ICCV 2017, section 3.1).

Objective, z_c = W_c x_c being the response of channel c alone (all centred)::

    1/2 E||y - sum_c beta_c z_c||^2 / E||y||^2  +  alpha |beta|_1

averaged over consumers. Q and q of ``quadratic`` are all it needs: the whole path comes
from ``sklearn.linear_model.lars_path_gram``, and a single penalty from coordinate descent
(``sklearn.linear_model.Lasso``) given the Cholesky factor R of Q = R^T R as X and R^-T q as y.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, lars_path_gram

from onnxprune.solve.numerics import Array, Indices, blas_threads_for, factorise, scale_of
from onnxprune.solve.problem import Regression, Selection, SelectOptions, kept_columns
from onnxprune.solve.quadratic import Quadratic, sum_quadratics

__all__ = ["LASSO_VARIANTS", "coordinate_descent", "lasso_order", "lasso_select"]

_SEARCH_STEPS = 50
_ALTERNATIONS = 60
_GROWTH = 1.3
_JITTER = 1e-10


def coordinate_descent(quadratic: Quadratic) -> Callable[[float], Array]:
    """A solver of ``1/2 b^T Q b - q^T b + alpha |b|_1``: alpha -> beta (units,), by scikit-learn's ``Lasso``.

    Q is factorised once; every call starts from the beta before.
    """
    units = len(quadratic.linear)
    factor = factorise(quadratic.matrix, jitter=_JITTER)
    # scikit-learn divides the squares by twice the number of rows, of which R has one per unit.
    rows = np.sqrt(units) * factor.lower.T * scale_of(quadratic.matrix)
    target = np.sqrt(units) * factor.whiten(quadratic.linear[:, None])[:, 0]
    solver = Lasso(fit_intercept=False, warm_start=True, max_iter=5000, tol=1e-8)

    def minimise(alpha: float) -> Array:
        with warnings.catch_warnings():
            # A not quite converged beta is still a good support; the callers check its count.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.set_params(alpha=alpha).fit(rows, target)
        return np.array(solver.coef_, dtype=np.float64)

    return minimise


def lasso_select(problems: Sequence[Regression], units: int, keep: int | None, options: SelectOptions) -> Selection:
    """Keep the units that the chosen LASSO variant keeps; exactly ``keep`` of them unless it is None."""
    with blas_threads_for(_widest(problems)):
        quadratic = sum_quadratics(problems, [problem.weight for problem in problems], units)
        return LASSO_VARIANTS[options.lasso](problems, quadratic, keep, options)


def lasso_order(problems: Sequence[Regression], units: int) -> Indices:
    """(units,) int64, first removed first: the reverse of the (last) entry into the path."""
    with blas_threads_for(_widest(problems)):
        quadratic = sum_quadratics(problems, [problem.weight for problem in problems], units)
        _, coefficients = _path(quadratic)
    alive = _support(coefficients)
    entered = np.diff(alive, axis=0, prepend=np.zeros((1, units), dtype=bool)) & alive
    last = len(alive) - 1 - np.argmax(entered[::-1], axis=0)
    # Out at the end of the path means that it would enter after everything else.
    last = np.where(alive[-1], last, len(alive))
    return np.lexsort((np.arange(units), quadratic.alone(), -last)).astype(np.int64)


def _by_path(
    problems: Sequence[Regression], quadratic: Quadratic, keep: int | None, options: SelectOptions
) -> Selection:
    """The first knot of the path with ``keep`` to ``(1 + rank_tol) keep`` units, trimmed to ``keep``."""
    count = _wanted(keep)
    alphas, coefficients = _path(quadratic)
    counts = _support(coefficients).sum(axis=1)
    fits = np.flatnonzero((counts >= count) & (counts <= _most(count, options)))
    if len(fits):
        knot = fits[0]
        return Selection(_trim(quadratic, coefficients[knot], count), alpha=float(alphas[knot]))
    return _by_search(quadratic, count, options)


def _by_search(quadratic: Quadratic, keep: int, options: SelectOptions) -> Selection:
    """Bisection on the penalty, for a path that broke off: the published search."""
    minimise = coordinate_descent(quadratic)
    high, low = quadratic.alpha_max, 1e-8 * quadratic.alpha_max
    best, alpha = np.zeros(len(quadratic.linear)), 0.0
    for _ in range(_SEARCH_STEPS if high > 0 else 0):
        middle = float(np.sqrt(low * high))
        beta = minimise(middle)
        count = int(_support(beta).sum())
        if count < keep:
            high = middle
            continue
        best, alpha, low = beta, middle, middle
        if count <= _most(keep, options):
            break
    return Selection(_trim(quadratic, best, keep), alpha=alpha, status="path degenerate: penalty by bisection")


def _by_fixed_penalty(
    problems: Sequence[Regression], quadratic: Quadratic, keep: int | None, options: SelectOptions
) -> Selection:
    """One penalty, ``lasso_alpha / units ** layer_alpha``; the count follows unless ``keep`` is given."""
    units = len(quadratic.linear)
    alpha = options.lasso_alpha / units**options.layer_alpha
    beta = coordinate_descent(quadratic)(alpha)
    found = int(_support(beta).sum())
    status = "ok" if keep in (None, found) else f"the penalty keeps {found}, asked for {keep}"
    return Selection(_trim(quadratic, beta, found if keep is None else keep), alpha=alpha, status=status)


def _by_alternation(
    problems: Sequence[Regression], quadratic: Quadratic, keep: int | None, options: SelectOptions
) -> Selection:
    """He et al. 2017, section 3.1: raise the penalty step by step, W re-estimated on what survives.

    The re-estimation on the scaled inputs beta_c x_c gives W_c = V_c / beta_c, V the least-squares weights of
    the surviving columns; with each channel's norm restored afterwards only the direction of V_c matters.
    """
    count = _wanted(keep)
    units = len(quadratic.linear)
    alpha = 1e-3 * quadratic.alpha_max
    beta, alive = np.ones(units), np.arange(units)
    for _ in range(_ALTERNATIONS):
        tried = np.zeros(units)
        tried[alive] = coordinate_descent(quadratic.restrict(alive))(alpha)
        found = int(_support(tried).sum())
        if found < count:
            break
        beta, alive = tried, np.flatnonzero(_support(tried))
        if found <= _most(count, options):
            break
        weights = [_reestimate(problem, alive) for problem in problems]
        quadratic = sum_quadratics(problems, weights, units)
        alpha *= _GROWTH
    return Selection(_trim(quadratic, beta, count), alpha=float(alpha))


_Variant = Callable[[Sequence[Regression], Quadratic, "int | None", SelectOptions], Selection]

LASSO_VARIANTS: Mapping[str, _Variant] = {
    "path": _by_path,
    "alternating": _by_alternation,
    "fixed": _by_fixed_penalty,
}


def _path(quadratic: Quadratic) -> tuple[Array, Array]:
    """The penalties (knots,) and coefficients (knots, units) of the LASSO path, falling penalty."""
    units, top = len(quadratic.linear), quadratic.alpha_max
    if top <= 0:
        return np.zeros(1), np.zeros((1, units))
    with warnings.catch_warnings():
        # A path that breaks off is seen by its length.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        # Divided by the largest penalty, because the solver's tolerances are absolute.
        alphas, _, coefficients = lars_path_gram(
            Xy=quadratic.linear / top,
            Gram=quadratic.matrix / top,
            n_samples=1,
            method="lasso",
            max_iter=8 * units,
        )
    finite = np.isfinite(coefficients).all(axis=0)
    return top * np.asarray(alphas)[finite], np.asarray(coefficients, dtype=np.float64).T[finite]


def _widest(problems: Sequence[Regression]) -> int:
    return max((len(problem.unit) for problem in problems), default=0)


def _reestimate(problem: Regression, alive: Indices) -> Array:
    """Least-squares weights on the surviving units' columns, each unit's Frobenius norm as it was: (o, p)."""
    columns = kept_columns(problem, alive)
    total = problem.moments.total
    weight = np.zeros_like(problem.weight)
    weight[:, columns] = factorise(total.gram[np.ix_(columns, columns)]).solve(total.cross[columns]).T
    owned = problem.unit >= 0
    slot = problem.unit[owned]
    before = np.bincount(slot, weights=np.square(problem.weight[:, owned]).sum(axis=0))
    after = np.bincount(slot, weights=np.square(weight[:, owned]).sum(axis=0))
    factor = np.sqrt(np.divide(before, after, out=np.zeros_like(before), where=after > 0))
    weight[:, owned] *= factor[slot]
    return weight


def _support(coefficients: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which coefficients are not zero, to rounding: the same shape, bool."""
    size = np.abs(coefficients)
    return np.asarray(size > 1e-10 * size.max(axis=-1, keepdims=True, initial=0.0))


def _trim(quadratic: Quadratic, beta: Array, keep: int) -> Indices:
    """The ``keep`` units that add most, sorted; zeros of beta come last, by what each would answer alone."""
    best_first = np.lexsort((np.arange(len(beta)), -quadratic.alone(), -quadratic.importance(beta)))
    return np.sort(best_first[:keep]).astype(np.int64)


def _wanted(keep: int | None) -> int:
    if keep is None:
        raise ValueError("only the fixed penalty finds its own count; keep must be a number")
    return keep


def _most(keep: int, options: SelectOptions) -> int:
    return int(np.floor((1.0 + options.rank_tol) * keep + 1e-9))
