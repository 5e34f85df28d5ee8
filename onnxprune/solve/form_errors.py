"""Held-out errors of low-rank forms of one layer: spatial (V and H), channel (P), and both.

Factors are fitted to one half of the samples and judged on the other, both ways; see ``held_out`` and ``lowrank``. The
rows of V are made orthonormal in the second moments of the patch's columns, one after the other, so that for every r
the first r rows, and their initial H, are the factors of rank r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from onnxprune.solve.held_out import Prefixes, both_ways, expected, parts_of
from onnxprune.solve.lowrank import nested_basis, project_part, start_of
from onnxprune.solve.moments import Moments
from onnxprune.solve.numerics import Array, Indices, blas_threads_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.options.solve import Basis
    from onnxprune.solve.lowrank import Split
    from onnxprune.solve.problem import Regression

__all__ = ["SpatialErrors", "channel_errors", "spatial_errors"]


@dataclass(frozen=True)
class SpatialErrors:
    """Relative errors: ``ranks`` (n,) of V and H at each rank; ``widths`` (o + 1,) per rank, of a P of each width."""

    ranks: Array
    widths: Mapping[int, Array]


def channel_errors(problem: Regression) -> Array:
    """Return the relative held-out error of P at every width: (o + 1,), entry d for width d."""
    weight, moments, found = problem.weight, problem.moments, []
    outputs, columns = weight.shape
    # No more than `columns` directions of the outputs vary: a classifier has thousands of outputs.
    span, weight = np.linalg.qr(weight) if outputs > columns else (None, weight)
    for half in (0, 1):
        parts = parts_of(moments, half)
        answers = [weight @ part.gram @ weight.T for part in parts]
        crossed = [weight @ (part.cross if span is None else part.cross @ span) for part in parts]
        powers = [float(part.power.sum()) for part in parts]
        found.append(_narrowed(answers, crossed, powers))
    errors = np.mean(found, axis=0) / (float(moments.total.power.sum()) or 1.0)
    return np.pad(errors, (0, max(outputs - columns, 0)), mode="edge")


def spatial_errors(
    problem: Regression, split: Split, kind: Basis, ranks: Sequence[int], narrow: Sequence[int]
) -> SpatialErrors:
    """Return the relative held-out errors of V and H at some ranks, and of P behind them.

    Args:
        problem: regression on the layer's own output.
        split: split of its columns, see `lowrank`.
        kind: weighting of the singular values, see `RefitOptions.basis`.
        ranks: ranks in increasing order.
        narrow: subset of `ranks` behind which errors of P are computed.
    """
    width, halves = split.shape[1], []
    with blas_threads_for(len(problem.unit)):
        for half in (0, 1):
            fitted, _ = parts_of(problem.moments, half)
            first = nested_basis(problem.weight, fitted, split, kind, ranks[-1])
            moments = Moments(
                *(project_part(part, first, split) for part in (problem.moments.even, problem.moments.odd))
            )
            sizes = np.minimum(np.array(ranks, dtype=np.int64), len(first)) * width
            halves.append((moments, start_of(problem.weight, fitted, first, split, kind), sizes))
        power = float(problem.moments.total.power.sum())
        errors, ridges = both_ways(halves, power)
        widths: dict[int, Array] = {}
        if len(narrow) and power > 0:
            ridge = float(np.median(ridges))
            both = [_behind(*one, half, ranks, narrow, ridge) for half, one in enumerate(halves)]
            widths = {rank: np.mean([one[rank] for one in both], axis=0) / power for rank in narrow}
    return SpatialErrors(errors, widths)


def _behind(
    moments: Moments, start: Array, sizes: Indices, half: int, ranks: Sequence[int], narrow: Sequence[int], ridge: float
) -> dict[int, Array]:
    """Return the absolute errors of P at every width behind the first `sizes` features, per rank in `narrow`."""
    fit = Prefixes.fit(*parts_of(moments, half), start, ridge)
    outputs = fit.answers.shape[1]
    own, other = _Answers(fit.answers, fit.own, fit.cross_own), _Answers(fit.answers, fit.other, fit.cross_other)
    powers = [float(fit.power_own.sum()), float(fit.power_other.sum())]
    found = {}
    for rank, size in zip(ranks, sizes.tolist(), strict=True):
        answers, crossed = zip(own.up_to(size), other.up_to(size), strict=True)
        if rank in narrow:
            found[rank] = _narrowed(answers, crossed, powers)
            assert len(found[rank]) == outputs + 1
    return found


class _Answers:
    """Second moments of the outputs of a growing number of columns, and of them with the target outputs: (o, o)."""

    def __init__(self, weight: Array, gram: Array, cross: Array) -> None:
        self._weight, self._gram, self._cross, self._done = weight, gram, cross, 0
        outputs = weight.shape[1]
        self._answers, self._crossed = np.zeros((outputs, outputs)), np.zeros((outputs, outputs))

    def up_to(self, size: int) -> tuple[Array, Array]:
        """Return both moments for the first `size` columns, which must not be fewer than in the previous call."""
        new, old = slice(self._done, size), slice(0, self._done)
        rows = self._weight[new]
        mixed = rows.T @ (self._gram[new, old] @ self._weight[old])
        self._answers = self._answers + mixed + mixed.T + rows.T @ (self._gram[new, new] @ rows)
        self._crossed = self._crossed + rows.T @ self._cross[new]
        self._done = size
        return self._answers, self._crossed


def _narrowed(answers: Sequence[Array], crossed: Sequence[Array], powers: Sequence[float]) -> Array:
    """Estimate the errors of outputs projected on the leading eigenvectors of their second moments, fitted half.

    Args:
        answers: second moments of the outputs on the fitted and on the other half, (o, o) each.
        crossed: second moments of the outputs with the target outputs, (o, o) each.
        powers: E||y - E y||^2 of each half.

    Returns:
        Absolute errors of a fit to both halves, (o + 1,), entry d for d eigenvectors.
    """
    _, vectors = eigh(answers[0], check_finite=False)
    leading = vectors[:, ::-1]
    found = []
    for second, mixed, power in zip(answers, crossed, powers, strict=True):
        gained = np.einsum("ok,ok->k", leading, (2 * mixed - second) @ leading)
        found.append(np.maximum(power - np.concatenate([[0.0], np.cumsum(gained)]), 0.0))
    return expected(*found)
