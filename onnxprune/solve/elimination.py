"""Block Optimal Brain Surgeon on second moments (Hassibi & Stork 1993; Frantar & Alistarh 2022).

Objective, over the kept columns and free weights::

    sum_i  E||y_i - W_i x_i - b_i||^2 / E||y_i - E y_i||^2

With H = gram^-1 and W the least-squares solution, removing the columns I and refitting the rest costs exactly
``tr(W_I (H_II)^-1 W_I^T)``. The cheapest unit is removed first, then

    W <- W - W_I (H_II)^-1 H_I,:        H <- H - H_:,I (H_II)^-1 H_I,:

All is computed in the correlation form (see ``numerics``), which changes no cost. Units whose columns never vary are
removed first: the bias replaces them exactly. In wide layers several units are removed between two scorings of all: the
cheapest candidates are copied, and removed from the copy one by one with exact costs, so that two copies of one channel
are never removed together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas, cholesky

from onnxprune.solve.numerics import (
    JITTER,
    Array,
    Indices,
    blas_threads_for,
    factorise,
    scale_of,
    solve_lower,
)
from onnxprune.solve.problem import Regression, dead_units

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["obs_order"]

_ONE_BY_ONE_UNITS = 256
_ONE_BY_ONE_COLUMNS = 2000
_BATCH_SHARE = 0.02
_CANDIDATES_PER_REMOVAL = 4
_COMPACT_BELOW = 0.85


def obs_order(problems: Sequence[Regression], units: int) -> Indices:
    """Return the greedy removal order: (units,) int64, first removed first."""
    with blas_threads_for(max((len(problem.unit) for problem in problems), default=0)):
        return _greedy_order(problems, units)


def _greedy_order(problems: Sequence[Regression], units: int) -> Indices:
    dead = dead_units(problems, units)
    alive = ~dead
    order: list[int] = np.flatnonzero(dead).tolist()
    states = [_start(problem, alive) for problem in problems]
    columns = max((state.size for state in states), default=0)
    wide = units > _ONE_BY_ONE_UNITS or columns > _ONE_BY_ONE_COLUMNS
    while alive.any():
        remaining = np.flatnonzero(alive)
        scores = _scores(states, units)[remaining]
        batch = int(np.ceil(_BATCH_SHARE * len(remaining))) if wide else 1
        cheapest = remaining[np.argsort(scores, kind="stable")[: batch * _CANDIDATES_PER_REMOVAL]]
        chosen = _cheapest_together(states, cheapest, batch, units) if batch > 1 else [int(cheapest[0])]
        for state in states:
            state.remove(chosen)
        alive[chosen] = False
        order += chosen
    return np.array(order, dtype=np.int64)


def _cheapest_together(states: Sequence[_State], candidates: Indices, count: int, units: int) -> list[int]:
    """Choose ``count`` of the candidates by removing them one by one from copies restricted to the candidates."""
    copies = [state.restrict(candidates) for state in states]
    chosen: list[int] = []
    left = np.sort(candidates)
    for _ in range(count):
        best = int(left[np.argmin(_scores(copies, units)[left])])
        chosen.append(best)
        left = left[left != best]
        for state in copies:
            state.remove([best])
    return chosen


def _scores(states: Sequence[_State], units: int) -> Array:
    scores = np.zeros(units)
    for state in states:
        state.add_scores(scores)
    return scores


@dataclass
class _Blocks:
    """Units with equally many columns: ids (m,), columns (m, size)."""

    ids: Indices
    columns: Indices


class _State:
    """State of one consumer during the elimination.

    ``inverse``: H of the remaining columns, (p, p) float64 in Fortran order. ``weight``: W^T, (p, o) float64. ``unit``:
    (p,) int64. Rows of removed units become zero, and are deleted when 15 % of the rows are zero.
    """

    def __init__(self, inverse: Array, weight: Array, unit: Indices, scale: float) -> None:
        self.inverse = np.asfortranarray(inverse)
        self.weight = weight
        self.unit = unit
        self.scale = scale
        self.blocks = _blocks(unit)

    @property
    def size(self) -> int:
        return len(self.unit)

    def add_scores(self, scores: Array) -> None:
        """Add the cost of removing each unit to scores (units,)."""
        for blocks in self.blocks:
            columns = blocks.columns
            own = self.inverse[columns[:, :, None], columns[:, None, :]]
            weight = self.weight[columns]
            if columns.shape[1] == 1:
                cost = np.einsum("uko,uko->u", weight, weight) / own[:, 0, 0]
            else:
                products = weight @ weight.transpose(0, 2, 1)
                cost = np.einsum("ukk->u", np.linalg.solve(own, products))
            scores[blocks.ids] += self.scale * cost

    def remove(self, units: Sequence[int]) -> None:
        gone = np.flatnonzero(np.isin(self.unit, units))
        if not len(gone):
            return
        lower = cholesky(self.inverse[np.ix_(gone, gone)], lower=True, check_finite=False)
        rows = solve_lower(lower, self.inverse[:, gone].T)
        change = solve_lower(lower, self.weight[gone])
        # In place: a temporary as large as H would cost more than the product.
        self.inverse = blas.dgemm(-1.0, rows, rows, beta=1.0, c=self.inverse, trans_a=1, overwrite_c=1)
        self.weight -= rows.T @ change
        self.unit = self.unit.copy()
        self.unit[gone] = _GONE
        self._compact()

    def restrict(self, units: Indices) -> _State:
        """Copy the state of the columns of ``units``; their costs equal the costs among all columns."""
        index = np.flatnonzero(np.isin(self.unit, units))
        return _State(self.inverse[np.ix_(index, index)], self.weight[index], self.unit[index], self.scale)

    def _compact(self) -> None:
        alive = np.flatnonzero(self.unit != _GONE)
        if len(alive) < _COMPACT_BELOW * self.size:
            self.inverse = np.asfortranarray(self.inverse[np.ix_(alive, alive)])
            self.weight = self.weight[alive]
            self.unit = self.unit[alive]
        self.blocks = _blocks(self.unit)


_GONE = -2


def _start(problem: Regression, alive: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> _State:
    total = problem.moments.total
    index = np.flatnonzero((problem.unit < 0) | alive[problem.unit])
    gram = total.gram if len(index) == len(problem.unit) else total.gram[np.ix_(index, index)]
    factor = factorise(gram, jitter=JITTER)
    weight = factor.solve(total.cross[index]) * scale_of(gram)[:, None]
    return _State(factor.inverse, weight, problem.unit[index], problem.scale())


def _blocks(unit: Indices) -> list[_Blocks]:
    owned = np.flatnonzero(unit >= 0)
    owned = owned[np.argsort(unit[owned], kind="stable")]
    ids, starts, counts = np.unique(unit[owned], return_index=True, return_counts=True)
    return [
        _Blocks(ids[counts == size], owned[starts[counts == size][:, None] + np.arange(size)])
        for size in np.unique(counts)
    ]
