"""Low-rank factors of one layer: spatial (V and H), channel (P), and both.

The columns of a weight W (o, p) are channel-major: column ``(c, i, j)``, c a channel, i the place along the kernel
axis that the first factor takes, j the place along the others. A *split* holds the column numbers as an array
(c * i, j). The spatial decomposition (Jaderberg et al., BMVC 2014) is ::

    W[o, (c, i, j)]  ~  sum_r  H[o, (r, j)]  V[r, (c, i)]

With A[(c, i), (o, j)] = W and L L^T = sum_j E x_j x_j^T (the second moments of the patch's columns; the identity for
the plain, data-free one), V spans the leading left singular directions: L^T A = U S R^T, V^T = A R = L^-T U S, which
needs no inverse. The error of that approximation is the discarded part of S^2. V is made orthonormal row by row, so
that its first r rows are the V of rank r for every r. H is then fitted (``refits``) on the features
t[r, j] = V[r] x_j to the target outputs: its columns are r-major, so that the errors of the fits at all ranks follow
from one Cholesky factor, see ``form_errors``.

The channel decomposition (Zhang, Zou, He, Sun, TPAMI 2016) is reduced-rank regression, ``W ~ P W'`` with d columns in
P; see ``refits`` and ``nonlinear``. Behind an H, H takes the place of W.

Finally the factors are balanced: each component has equal norms on both sides, which avoids overflow in float16 and
helps later training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cholesky, qr, svd

from onnxprune.options.solve import Basis, Refit, RefitOptions
from onnxprune.solve.alternating import better_first
from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.nonlinear import behind
from onnxprune.solve.numerics import Array, Array32, Indices, blas_threads_for, factorise, solve_lower
from onnxprune.solve.problem import Regression, Samples, Solution
from onnxprune.solve.refits import refit

__all__ = [
    "Decomposed",
    "Factors",
    "Split",
    "decompose",
    "merge",
    "nested_basis",
    "project_part",
    "spatial_basis",
    "split_columns",
    "start_of",
]

_RIDGE = 1e-6  # share of the mean variance, so that directions absent from the samples still count a little

Split = Indices
"""Column numbers, (c * i, j): c channels, i places along V's kernel axis, j places along the other axes."""


def split_columns(channels: int, kernel: tuple[int, ...], first: int) -> Split:
    """Return the column numbers (channels * kernel[first], other kernel elements) of a conv's weights."""
    numbers = np.arange(channels * int(np.prod(kernel)), dtype=np.int64).reshape(channels, *kernel)
    return np.moveaxis(numbers, 1 + first, 1).reshape(channels * kernel[first], -1)


@dataclass(frozen=True)
class Factors:
    """Factors of a weight matrix, ``W = last @ spread(second, first)``; an absent factor is None.

    ``first``: V, (r, c * i). ``second``: H, (m, r * j), or (m, p) without a V. ``last``: P, (o, m).
    """

    first: Array | None
    second: Array
    last: Array | None

    def weight(self, split: Split | None) -> Array:
        """Multiply the factors to weights (o, p)."""
        whole = self.second if self.first is None or split is None else _spread(self.second, self.first, split)
        return whole if self.last is None else self.last @ whole


@dataclass(frozen=True)
class Decomposed:
    """Balanced factors, and the solution whose weight is their product, for the kept columns."""

    solution: Solution
    factors: Factors


def merge(factors: Factors, split: Split | None, *, spatial: bool, channel: bool) -> Factors:
    """Multiply V and H (unless `spatial`), and P (unless `channel`), into the middle factor; the weights are kept."""
    if factors.first is not None and split is not None and not spatial:
        factors = replace(factors, first=None, second=_spread(factors.second, factors.first, split))
    if factors.last is not None and not channel:
        factors = replace(factors, second=factors.last @ factors.second, last=None)
    return factors


def decompose(
    problem: Regression,
    columns: Indices,
    split: Split | None,
    spatial: int | None,
    channel: int | None,
    options: RefitOptions,
    samples: Samples | None = None,
) -> Decomposed:
    """Fit factors of given ranks to the target outputs.

    Args:
        problem: regression with p columns and o outputs.
        columns: columns to keep, (k,) int64.
        split: split of the k columns; needed for a spatial rank.
        spatial: rank r of V; None for no V.
        channel: width d in front of P; None for no P.
        options: options of the refit of H and P; ``none`` takes plain, data-free singular values.
        samples: raw samples with all p columns; needed by ``auto`` only.
    """
    dense = refit(problem, columns, _dense_options(options))
    restricted = Regression(problem.moments.columns(columns), dense.weight, dense.bias, problem.unit[columns])
    linear = replace(options, refit="linear") if options.refit == "auto" else options
    kept = None
    if options.refit == "auto":
        if samples is None:
            raise ValueError("refit 'auto' needs raw samples, found none")
        kept = replace(samples, x=samples.x[:, columns])
    with blas_threads_for(len(columns)):
        if spatial is None or split is None:
            solution, first = _fit(restricted, linear, channel), None
            if kept is not None:
                solution = _aware(restricted, solution, options, kept, channel)
        else:
            found = _fit_spatial(restricted, split, spatial, channel, linear)
            solution, first = found.solution, found.first
            if kept is not None:
                rows = replace(kept, x=_feature_rows(kept.x, first, split))
                solution = _aware(found.features, solution, options, rows, channel)
    factors = _balanced(_factors(solution.weight, first, channel), split)
    return Decomposed(replace(solution, weight=factors.weight(split)), factors)


def _dense_options(options: RefitOptions) -> RefitOptions:
    """Return the options of the refit before the decomposition: linear, or none."""
    kind: Refit = "none" if options.refit == "none" else "linear"
    return replace(options, refit=kind)


def _fit_spatial(problem: Regression, split: Split, rank: int, channel: int | None, linear: RefitOptions) -> _Spatial:
    """Fit V and H from the better of the data's and the plain basis, by linear error; then alternate between them."""
    total = problem.moments.total
    plain = spatial_basis(problem.weight, total, split, "plain", rank)
    if linear.refit == "none" or linear.basis == "plain":
        found = _Spatial.fit(problem, plain, split, "plain", linear, channel)
    else:
        found = _Spatial.fit(
            problem, spatial_basis(problem.weight, total, split, "data", rank), split, "data", linear, channel
        )
        if _least_error(total, plain, split) < found.solution.error:
            other = _Spatial.fit(problem, plain, split, "plain", linear, channel)
            found = min(found, other, key=lambda one: one.solution.error)
        for _ in range(linear.rounds):
            better = found.turned(problem, split, linear, channel)
            if better is None:
                break
            found = better
    return found


def _fit(problem: Regression, options: RefitOptions, channel: int | None) -> Solution:
    everything = np.arange(len(problem.unit), dtype=np.int64)
    fitted = refit(problem, everything, options, rank=channel)
    if channel is None or options.refit == "none":
        return fitted
    # The projection does not minimise the ridge, so plain singular values may, rarely, be better.
    plain = refit(problem, everything, replace(options, refit="none"), rank=channel)
    return fitted if fitted.error <= plain.error else plain


def _aware(
    problem: Regression, linear: Solution, options: RefitOptions, samples: Samples, channel: int | None
) -> Solution:
    """Fit behind the activation; return the linear solution if that has a smaller error there."""
    everything = np.arange(len(problem.unit), dtype=np.int64)
    fitted, known = refit(problem, everything, options, samples, rank=channel), behind(linear, samples)
    return fitted if fitted.error <= known.error else known


@dataclass(frozen=True)
class _Spatial:
    """V, the regression on its features, and the fitted H (the solution's weight)."""

    first: Array
    features: Regression
    solution: Solution

    @classmethod
    def fit(
        cls, problem: Regression, first: Array, split: Split, kind: Basis, options: RefitOptions, channel: int | None
    ) -> _Spatial:
        features = _features(problem, first, split, kind)
        return cls(first, features, _fit(features, options, channel))

    def turned(self, problem: Regression, split: Split, options: RefitOptions, channel: int | None) -> _Spatial | None:
        """Fit V to this H, then H to the new V, with the ridge kept; return None if the error is not lower."""
        better = better_first(problem.moments, self.first, self.solution.weight, split, self.solution.ridge)
        if better is None:
            return None
        columns, _ = qr(better.T, mode="economic", check_finite=False)
        first = np.asarray(columns.T, dtype=np.float64)
        as_strong = replace(options, strengths=(self.solution.ridge,))
        found = _Spatial.fit(problem, first, split, "data", as_strong, channel)
        return found if found.solution.error < self.solution.error else None


def _least_error(total: Part, first: Array, split: Split) -> float:
    """Return the least relative error of any H for this V."""
    part = project_part(total, first, split)
    explained = float(np.square(factorise(part.gram).whiten(part.cross)).sum())
    return 1.0 - explained / (float(part.power.sum()) or 1.0)


def spatial_basis(weight: Array, part: Part, split: Split, kind: Basis, rank: int | None = None) -> Array:
    """Compute V with orthonormal rows, the most important first: (r, c * i).

    Args:
        weight: weights, (o, p).
        part: moments of the patches.
        split: split of the p columns.
        kind: weighting of the singular values, see ``RefitOptions.basis``.
        rank: largest number of rows; None for the full rank.
    """
    long = weight[:, split].transpose(1, 0, 2).reshape(len(split), -1)
    root = np.eye(len(split)) if kind == "plain" else _root(part, split)
    # An SVD resolves the directions with all digits, a Gram matrix with half of them.
    _, _, right = svd(root.T @ long, full_matrices=False, check_finite=False)
    count = len(right) if rank is None else min(rank, len(right))
    basis, _ = qr(long @ right[:count].T, mode="economic", check_finite=False)
    return np.asarray(basis.T, dtype=np.float64)


def _root(part: Part, split: Split) -> Array:
    """Compute L of L L^T = sum over j of the second moments of the patch's columns at place j: (c * i, c * i)."""
    summed = sum((part.gram[np.ix_(split[:, j], split[:, j])] for j in range(split.shape[1])), start=np.zeros(()))
    summed = np.asarray(summed, dtype=np.float64)
    level = max(float(np.trace(summed)) / len(split), 1e-30)
    factor = factorise(summed, ridge=_RIDGE, scale=np.full(len(split), np.sqrt(level)))
    return np.asarray(np.sqrt(level) * factor.lower, dtype=np.float64)


def _features(problem: Regression, first: Array, split: Split, kind: Basis) -> Regression:
    """Make the regression of the outputs on t[r, j] = V[r] x_j, columns r-major; its weights are the initial H."""
    moments = Moments(
        project_part(problem.moments.even, first, split),
        project_part(problem.moments.odd, first, split),
    )
    start = start_of(problem.weight, problem.moments.total, first, split, kind)
    unit = np.repeat(np.arange(len(first), dtype=np.int64), split.shape[1])
    return Regression(moments, start, problem.bias, unit)


def start_of(weight: Array, part: Part, first: Array, split: Split, kind: Basis) -> Array:
    """Compute the initial H, (o, r * j), which with V (r, c * i) is nearest to the weights (o, p) in the basis."""
    long = weight[:, split]  # (o, c * i, j)
    if kind == "plain":
        found = np.einsum("rk,okj->roj", first, long, optimize=True)
    else:
        root = _root(part, split)
        seen = first @ root
        right = seen @ np.einsum("lk,olj->koj", root, long, optimize=True).reshape(len(root), -1)
        found = np.linalg.solve(seen @ seen.T, right)
    return np.asarray(found.reshape(len(first), len(weight), -1).transpose(1, 0, 2).reshape(len(weight), -1))


def nested_basis(weight: Array, part: Part, split: Split, kind: Basis, rank: int) -> Array:
    """Make the rows of `spatial_basis` orthonormal in the metric of the basis, one after the other: (r, c * i).

    The H of rank r from `start_of` then is the first r blocks of columns of the H of any larger rank.
    """
    first = spatial_basis(weight, part, split, kind, rank)
    if kind == "plain":
        return first
    seen = first @ _root(part, split)
    lower = cholesky(seen @ seen.T, lower=True, check_finite=False)
    return solve_lower(np.asarray(lower, dtype=np.float64), first)


def project_part(part: Part, first: Array, split: Split) -> Part:
    """Compute the moments of the features from those of the patches; fourth cumulants add for independent columns."""
    variance = np.diagonal(part.gram)
    excess = np.square(np.square(first)) @ (part.fourth - 3 * np.square(variance))[split]
    rows = _apply(part.gram, first, split)  # (r * j, p)
    gram = _apply(np.ascontiguousarray(rows.T), first, split)
    return replace(
        part,
        mean_x=_apply(part.mean_x[:, None], first, split)[:, 0],
        gram=(gram + gram.T) / 2,
        cross=_apply(part.cross, first, split),
        fourth=np.maximum(3 * np.square(np.diagonal(gram)) + excess.reshape(-1), 0.0),
    )


def _apply(rows: Array, first: Array, split: Split) -> Array:
    """Apply V at every place j of the patch: (p, m) -> (r * j, m)."""
    parts = [first @ rows[split[:, j]] for j in range(split.shape[1])]
    return np.stack(parts, axis=1).reshape(len(first) * split.shape[1], -1)


def _feature_rows(x: Array32, first: Array, split: Split) -> Array32:
    """Apply V to raw samples: (n, p) float32 patches -> (n, r * j) float32 features."""
    narrow = first.T.astype(np.float32)
    parts = [x[:, split[:, j]] @ narrow for j in range(split.shape[1])]
    return np.ascontiguousarray(np.stack(parts, axis=2).reshape(len(x), -1))


def _spread(second: Array, first: Array, split: Split) -> Array:
    """Compute sum_r H[m, (r, j)] V[r, (c, i)] as (m, p)."""
    rank, width = len(first), split.shape[1]
    joined = np.einsum("mrj,rk->mkj", second.reshape(-1, rank, width), first, optimize=True)
    whole = np.zeros((len(second), split.size))
    whole[:, split] = joined
    return whole


def _factors(weight: Array, first: Array | None, channel: int | None) -> Factors:
    """Factorise exactly a fitted weight of rank at most `channel`."""
    if channel is None or channel >= len(weight):
        return Factors(first, weight, None if channel is None else np.eye(len(weight)))
    left, values, right = svd(weight, full_matrices=False, check_finite=False)
    return Factors(first, values[:channel, None] * right[:channel], left[:, :channel])


def _balanced(factors: Factors, split: Split | None) -> Factors:
    """Balance factors: each component gets equal norms on both sides, the product is kept."""
    first, second, last = factors.first, factors.second, factors.last
    if last is not None:
        factor = _ratio(np.linalg.norm(last, axis=0), np.linalg.norm(second, axis=1))
        second, last = second * factor[:, None], last / factor
    if first is not None and split is not None:
        width = split.shape[1]
        blocks = second.reshape(len(second), len(first), width)
        factor = _ratio(np.sqrt(np.square(blocks).sum(axis=(0, 2))), np.linalg.norm(first, axis=1))
        first, second = first * factor[:, None], (blocks / factor[:, None]).reshape(second.shape)
    return Factors(first, second, last)


def _ratio(wanted: Array, found: Array) -> Array:
    """Compute the square root of one norm divided by the other; 1 if either is zero."""
    good = (wanted > 0) & (found > 0)
    return np.sqrt(np.divide(wanted, found, out=np.ones_like(wanted), where=good))
