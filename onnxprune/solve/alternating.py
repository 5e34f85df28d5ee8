"""V given H: the other half of alternating least squares for a spatial decomposition.

With W[o, (c, i, j)] = sum_r H[o, (r, j)] V[r, (c, i)], x_j the columns of the patch that V meets at place j, and H
fixed, V is a least-squares problem of its own::

    sum_jk (H_j^T H_k) V E[x_k x_j^T]  =  sum_j H_j^T E[y x_j^T]

r c i unknowns, too many to factorise, so conjugate gradients solve it, preconditioned by the Kronecker product
``(sum_j H_j^T H_j)^-1 x (mean_j E[x_j x_j^T])^-1``. The pull toward the V that is there is the ridge of the
layer's refit, seen through H: it penalises what the layer's weights change by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.numerics import Array, Factor, Indices, factorise

__all__ = ["better_first"]

_TURNS = 25
_ENOUGH = 1e-4  # of the first residual, squared, as the preconditioner sees it


def better_first(moments: Moments, first: Array, second: Array, split: Indices, ridge: float) -> Array | None:
    """V for the H that is there, if held-out samples gain from it.

    Args:
        moments: of the patches and the wanted answers.
        first: (r, c * i), V as it is.
        second: (o, r * j), H, with P in it if there is one; columns r-major.
        split: (c * i, j) column numbers.
        ridge: relative to each column's variance.

    Returns:
        (r, c * i); None if it does no better on the half that it was not fitted on.
    """
    if not np.isfinite(ridge) or min(moments.even.count, moments.odd.count) < 2:
        return None
    places = np.moveaxis(second.reshape(len(second), len(first), split.shape[1]), 2, 0)  # (j, o, r)
    before = after = 0.0
    for fitted, judge in ((moments.even, moments.odd), (moments.odd, moments.even)):
        found = _solve(fitted, first, places, split, ridge)
        before += _error(judge, first, places, split)
        after += _error(judge, found, places, split)
    return _solve(moments.total, first, places, split, ridge) if after < before else None


def _solve(part: Part, first: Array, places: Array, split: Indices, ridge: float) -> Array:
    """Preconditioned conjugate gradients for what V changes by."""
    system = _System.of(part, places, split, ridge)
    residual = system.unanswered(part, first)
    ahead = system.precondition(residual)
    change, direction = np.zeros_like(first), ahead
    level = start = float(np.vdot(residual, ahead))
    for _ in range(_TURNS):
        if not level > _ENOUGH * start:
            break
        applied = system.apply(direction)
        step = level / float(np.vdot(direction, applied))
        change = change + step * direction
        residual = residual - step * applied
        ahead = system.precondition(residual)
        level, previous = float(np.vdot(residual, ahead)), level
        direction = ahead + (level / previous) * direction
    return first + change


@dataclass(frozen=True)
class _System:
    """``places``: (j, o, r), H. ``pairs``: (j, k, r, r), H_j^T H_k. ``rows``: per k, E[x_k x^T] (c * i, j * c * i), the
    ridge included. ``left``, ``right``: the preconditioner's factors. ``fitted``: (c * i,) of 1 and 0, what of V is
    not that of rare columns alone, and changes."""

    places: Array
    split: Indices
    pairs: Array
    rows: tuple[Array, ...]
    left: Factor
    right: Factor
    fitted: Array

    @classmethod
    def of(cls, part: Part, places: Array, split: Indices, ridge: float) -> _System:
        gram = part.gram + np.diag(ridge * np.diagonal(part.gram))
        order = split.T.reshape(-1)
        rows = tuple(np.ascontiguousarray(gram[np.ix_(split[:, k], order)]) for k in range(split.shape[1]))
        pairs = np.einsum("jor,kos->jkrs", places, places, optimize=True)
        width = len(split)
        mean = sum((row[:, k * width : (k + 1) * width] for k, row in enumerate(rows)), start=np.zeros(())) / len(rows)
        left = np.einsum("jjrs->rs", pairs)
        fitted = np.asarray((part.scale[split] > 0).any(axis=1), dtype=np.float64)
        return cls(places, split, pairs, rows, factorise(left), factorise(np.asarray(mean)), fitted)

    def unanswered(self, part: Part, first: Array) -> Array:
        """sum_j H_j^T E[(y - W x) x_j^T]: (r, c * i)."""
        apart = part.cross.T - _spread(first, self.places, self.split) @ part.gram
        return np.asarray(sum(self.places[j].T @ apart[:, self.split[:, j]] for j in range(len(self.places))))

    def apply(self, direction: Array) -> Array:
        """The left side of the equation, ridge included."""
        width = direction.shape[1]
        result = np.zeros_like(direction)
        for k, row in enumerate(self.rows):
            seen = direction @ row
            for j in range(len(self.rows)):
                result += self.pairs[j, k] @ seen[:, j * width : (j + 1) * width]
        return result

    def precondition(self, residual: Array) -> Array:
        return self.right.solve(self.left.solve(residual * self.fitted).T).T * self.fitted


def _spread(first: Array, places: Array, split: Indices) -> Array:
    """The (o, p) weights that V and H make."""
    whole = np.empty((places.shape[1], split.size))
    for j, place in enumerate(places):
        whole[:, split[:, j]] = place @ first
    return whole


def _error(part: Part, first: Array, places: Array, split: Indices) -> float:
    weight = _spread(first, places, split)
    return part.error(weight, part.mean_y - weight @ part.mean_x)
