"""Selectors to compare against, under names of their own in the table of selectors.

================  ====================================================================================
``magnitude``     sum over consumers of |W_I|_1, the L1 norm of the consumers' weights on the channel
``max-response``  E||W_I x_I||^2 / E||y||^2, centred: the moment form of the published "max response",
                  the energy of the channel's own response
``first-k``       the first channels are kept
``random``        a seeded permutation
================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from onnxprune.options.solve import SelectOptions, Selector
from onnxprune.solve import SELECTORS, Regression, channel_quadratic

__all__ = ["NAMES", "baseline", "seed_random"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]
_SEED = [0]


def baseline(name: str) -> SelectOptions:
    """Options of one of these selectors.

    Args:
        name: one of `NAMES`.
    """
    return SelectOptions(selector=cast("Selector", name))


def seed_random(seed: int) -> None:
    """Set the seed of the ``random`` selector from here on."""
    _SEED[0] = seed


def _magnitude(problems: Sequence[Regression], units: int) -> Indices:
    score = np.zeros(units)
    for problem in problems:
        owned = problem.unit >= 0
        norms = np.abs(problem.weight[:, owned]).sum(axis=0)
        score += np.bincount(problem.unit[owned], weights=norms, minlength=units)
    return _weakest_first(score)


def _max_response(problems: Sequence[Regression], units: int) -> Indices:
    score = np.zeros(units)
    for problem in problems:
        quadratic = channel_quadratic(problem.moments.total, problem.weight, problem.unit, units)
        score += problem.scale() * np.diagonal(quadratic.matrix)
    return _weakest_first(score)


def _first_k(problems: Sequence[Regression], units: int) -> Indices:
    return np.arange(units - 1, -1, -1, dtype=np.int64)


def _random(problems: Sequence[Regression], units: int) -> Indices:
    return np.random.default_rng(_SEED[0]).permutation(units).astype(np.int64)


def _weakest_first(score: Array) -> Indices:
    """Equal scores: the later channel is removed first."""
    return np.lexsort((-np.arange(len(score)), score)).astype(np.int64)


NAMES = ("magnitude", "max-response", "first-k", "random")
SELECTORS.update(zip(NAMES, (_magnitude, _max_response, _first_k, _random), strict=True))
