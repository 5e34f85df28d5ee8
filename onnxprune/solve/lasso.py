"""LASSO selection on second moments (He, Zhang, Sun, ICCV 2017, section 3.1).

Objective, with z_c = W_c x_c the output of channel c alone (all centred)::

    1/2 E||y - sum_c beta_c z_c||^2 / E||y||^2  +  alpha |beta|_1

averaged over consumers. It depends on Q and q of ``quadratic`` only: the whole path is computed by
``sklearn.linear_model.lars_path_gram``, a single penalty by coordinate descent (``sklearn.linear_model.Lasso``) on the
Cholesky factor R of Q = R^T R as X and R^-T q as y.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.options.solve import SelectOptions
from onnxprune.solve.numerics import Array, Indices, blas_threads_for, factorise, scale_of
from onnxprune.solve.problem import Regression, Selection, kept_columns
from onnxprune.solve.quadratic import Quadratic, sum_quadratics

__all__ = ["LASSO_VARIANTS", "coordinate_descent", "lasso_order", "lasso_select"]

_SEARCH_STEPS = 50
_ALTERNATIONS = 60
_GROWTH = 1.3
_JITTER = 1e-10


def coordinate_descent(quadratic: Quadratic) -> Callable[[float], Array]:
    """Make a solver of ``1/2 b^T Q b - q^T b + alpha |b|_1``: alpha -> beta (units,), by scikit-learn's ``Lasso``.

    Q is factorised once; every call starts from the beta of the previous call.
    """
    units = len(quadratic.linear)
    factor = factorise(quadratic.matrix, jitter=_JITTER)
    # scikit-learn divides the squares by twice the number of rows; R has one row per unit.
    rows = np.sqrt(units) * factor.lower.T * scale_of(quadratic.matrix)
    target = np.sqrt(units) * factor.whiten(quadratic.linear[:, None])[:, 0]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    solver = Lasso(fit_intercept=False, warm_start=True, max_iter=5000, tol=1e-8)

    def minimise(alpha: float) -> Array:
        with warnings.catch_warnings():
            # An almost converged beta still has a good support; the callers check its count.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.set_params(alpha=alpha).fit(rows, target)
        return np.array(solver.coef_, dtype=np.float64)

    return minimise


def lasso_select(problems: Sequence[Regression], units: int, keep: int | None, options: SelectOptions) -> Selection:
    """Select units by the LASSO variant of the options: exactly ``keep`` of them, unless it is None."""
    with blas_threads_for(_widest(problems)):
        quadratic = sum_quadratics(problems, [problem.weight for problem in problems], units)
        return LASSO_VARIANTS[options.lasso](problems, quadratic, keep, options)


def lasso_order(problems: Sequence[Regression], units: int) -> Indices:
    """Order units by the reverse of their last entry into the path: (units,) int64, first removed first."""
    with blas_threads_for(_widest(problems)):
        quadratic = sum_quadratics(problems, [problem.weight for problem in problems], units)
        _, coefficients = _path(quadratic)
    alive = _support(coefficients)
    entered = np.diff(alive, axis=0, prepend=np.zeros((1, units), dtype=bool)) & alive
    last = len(alive) - 1 - np.argmax(entered[::-1], axis=0)
    # A unit outside the support at the end of the path ranks as if it entered last.
    last = np.where(alive[-1], last, len(alive))
    return np.lexsort((np.arange(units), quadratic.alone(), -last)).astype(np.int64)


def _by_path(
    problems: Sequence[Regression], quadratic: Quadratic, keep: int | None, options: SelectOptions
) -> Selection:
    """Take the first knot of the path with ``keep`` to ``(1 + rank_tol) keep`` units, trimmed to ``keep``."""
    count = _wanted(keep)
    alphas, coefficients = _path(quadratic)
    counts = _support(coefficients).sum(axis=1)
    fits = np.flatnonzero((counts >= count) & (counts <= _most(count, options)))
    if len(fits):
        knot = fits[0]
        return Selection(_trim(quadratic, coefficients[knot], count), alpha=float(alphas[knot]))
    return _by_search(quadratic, count, options)


def _by_search(quadratic: Quadratic, keep: int, options: SelectOptions) -> Selection:
    """Bisect on the penalty, as published, for a path that ends early."""
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
    """Solve for the penalty ``lasso_alpha / units ** layer_alpha``; it gives the count, unless ``keep`` is given."""
    units = len(quadratic.linear)
    alpha = options.lasso_alpha / units**options.layer_alpha
    beta = coordinate_descent(quadratic)(alpha)
    found = int(_support(beta).sum())
    status = "ok" if keep in (None, found) else f"the penalty keeps {found}, asked for {keep}"
    return Selection(_trim(quadratic, beta, found if keep is None else keep), alpha=alpha, status=status)


def _by_alternation(
    problems: Sequence[Regression], quadratic: Quadratic, keep: int | None, options: SelectOptions
) -> Selection:
    """Raise the penalty in steps, re-estimating W on the surviving channels (He et al. 2017, section 3.1).

    The re-estimation on the scaled inputs beta_c x_c gives W_c = V_c / beta_c, with V the least-squares weights of
    the surviving columns; because each channel's norm is restored afterwards, only the direction of V_c matters.
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
    """Return the penalties (knots,) and coefficients (knots, units) of the LASSO path, by falling penalty."""
    units, top = len(quadratic.linear), quadratic.alpha_max
    if top <= 0:
        return np.zeros(1), np.zeros((1, units))
    from sklearn.exceptions import ConvergenceWarning  # scikit-learn is imported only where the LASSO runs
    from sklearn.linear_model import lars_path_gram

    with warnings.catch_warnings():
        # The callers notice a path that ends early by its length.
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
    """Return least-squares weights on the surviving units' columns, each unit's Frobenius norm restored: (o, p)."""
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
    """Return a bool array, of the coefficients' shape, that is True where a coefficient is not zero, to rounding."""
    size = np.abs(coefficients)
    return np.asarray(size > 1e-10 * size.max(axis=-1, keepdims=True, initial=0.0))


def _trim(quadratic: Quadratic, beta: Array, keep: int) -> Indices:
    """Return the ``keep`` units of largest importance, sorted; zeros of beta rank last, by the fit of each alone."""
    best_first = np.lexsort((np.arange(len(beta)), -quadratic.alone(), -quadratic.importance(beta)))
    return np.sort(best_first[:keep]).astype(np.int64)


def _wanted(keep: int | None) -> int:
    if keep is None:
        raise ValueError("only the fixed penalty finds its own count; keep must be a number")
    return keep


def _most(keep: int, options: SelectOptions) -> int:
    return int(np.floor((1.0 + options.rank_tol) * keep + 1e-9))
