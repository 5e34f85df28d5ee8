"""Alternating least squares for a spatial decomposition: the fit of V for a given H.

With W[o, (c, i, j)] = sum_r H[o, (r, j)] V[r, (c, i)], x_j the columns of the patch that V reads at place j, and H
fixed, V solves a linear system::

    sum_jk (H_j^T H_k) V E[x_k x_j^T]  =  sum_j H_j^T E[y x_j^T]

Its r c i unknowns are too many for a factorisation, so it is solved by conjugate gradients, preconditioned by the
Kronecker product ``(sum_j H_j^T H_j)^-1 x (mean_j E[x_j x_j^T])^-1``. The ridge is the one of the layer's refit: it
penalises the change of the layer's weights, through H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.numerics import Array, Factor, Indices, factorise

__all__ = ["better_first"]

_TURNS = 25
_ENOUGH = 1e-4  # share of the first residual's squared norm in the preconditioner, at which iterations stop


def better_first(moments: Moments, first: Array, second: Array, split: Indices, ridge: float) -> Array | None:
    """Fit V for a given H; return it if it lowers the held-out error.

    Args:
        moments: moments of the patches and the target outputs.
        first: current V, (r, c * i).
        second: H, multiplied by P if there is one, (o, r * j); columns r-major.
        split: column numbers, (c * i, j).
        ridge: strength of the ridge, relative to each column's variance.

    Returns:
        New V, (r, c * i); None if its held-out error is not lower, or there is nothing to fit or judge by.
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
    """Solve for the change of V by preconditioned conjugate gradients; return the new V."""
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
    """Linear system of V.

    Attributes:
        places: H, (j, o, r).
        split: column numbers, (c * i, j).
        pairs: H_j^T H_k, (j, k, r, r).
        rows: per k, E[x_k x^T] with the ridge, (c * i, j * c * i).
        left: factor of the preconditioner over r.
        right: factor of the preconditioner over c * i.
        fitted: (c * i,), 1 for the columns of V to fit, 0 for columns that read rare columns only.
    """

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
        """Compute the residual sum_j H_j^T E[(y - W x) x_j^T]: (r, c * i)."""
        apart = part.cross.T - _spread(first, self.places, self.split) @ part.gram
        return np.asarray(sum(self.places[j].T @ apart[:, self.split[:, j]] for j in range(len(self.places))))

    def apply(self, direction: Array) -> Array:
        """Apply the left side of the system, with the ridge, to a (r, c * i) matrix."""
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
    """Multiply V and H to weights (o, p)."""
    whole = np.empty((places.shape[1], split.size))
    for j, place in enumerate(places):
        whole[:, split[:, j]] = place @ first
    return whole


def _error(part: Part, first: Array, places: Array, split: Indices) -> float:
    weight = _spread(first, places, split)
    return part.error(weight, part.mean_y - weight @ part.mean_x)
