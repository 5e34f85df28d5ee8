"""Error as a quadratic function of one factor per channel, from second moments.

With z_c = W_c x_c the output of channel c alone (all centred)::

    E||y - sum_c beta_c z_c||^2 = E||y||^2 - 2 q^T beta + beta^T Q beta

    Q[c, d] = E<z_c, z_d>    the block sums of (W^T W) * gram
    q[c]    = E<z_c, y>      the block sums of W * cross^T

A column of no unit has factor 1: its output is subtracted from y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.solve.numerics import Array, Indices, scale_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.solve.moments import Part
    from onnxprune.solve.problem import Regression

__all__ = ["Quadratic", "channel_quadratic", "sum_quadratics"]


@dataclass(frozen=True)
class Quadratic:
    """``1/2 beta^T Q beta - q^T beta``: Q (units, units) float64, q (units,) float64."""

    matrix: Array
    linear: Array

    @property
    def alpha_max(self) -> float:
        """Least penalty at which no unit is kept."""
        return float(np.abs(self.linear).max(initial=0.0))

    def importance(self, beta: Array) -> Array:
        """Compute the size of each unit's contribution, |beta_c| (E||z_c||^2)^(1/2): (units,)."""
        return np.asarray(np.abs(beta) * scale_of(self.matrix), dtype=np.float64)

    def alone(self) -> Array:
        """Compute the fit of each unit alone, |q_c| / Q_cc^(1/2): (units,)."""
        scale = scale_of(self.matrix)
        return np.divide(np.abs(self.linear), scale, out=np.zeros_like(scale), where=scale > 0)

    def restrict(self, index: Indices) -> Quadratic:
        """Restrict the quadratic to the units ``index``: (k,) int64."""
        return Quadratic(self.matrix[np.ix_(index, index)], self.linear[index])


def channel_quadratic(part: Part, weight: Array, unit: Indices, units: int) -> Quadratic:
    """Compute the absolute Q and q of one consumer: weight (o, p), unit (p,) with -1 for columns of no unit."""
    # One slot more than there are units collects the columns of no unit.
    slot = np.where(unit < 0, units, unit)
    by_slot = np.argsort(slot, kind="stable")
    present, starts = np.unique(slot[by_slot], return_index=True)
    products = (weight.T @ weight) * part.gram
    if not np.array_equal(by_slot, np.arange(len(slot))):
        products = products[np.ix_(by_slot, by_slot)]
    sums = np.add.reduceat(np.add.reduceat(products, starts, axis=1), starts, axis=0)
    matrix = np.zeros((units + 1, units + 1))
    matrix[np.ix_(present, present)] = sums
    linear = np.bincount(slot, weights=np.einsum("op,po->p", weight, part.cross), minlength=units + 1)
    return Quadratic(matrix[:units, :units], linear[:units] - matrix[:units, units])


def sum_quadratics(problems: Sequence[Regression], weights: Sequence[Array], units: int) -> Quadratic:
    """Average the relative Q and q over consumers; weights: (o, p) each."""
    matrix, linear = np.zeros((units, units)), np.zeros(units)
    for problem, weight in zip(problems, weights, strict=True):
        one = channel_quadratic(problem.moments.total, weight, problem.unit, units)
        matrix += problem.scale() * one.matrix
        linear += problem.scale() * one.linear
    count = max(len(problems), 1)
    return Quadratic(matrix / count, linear / count)
