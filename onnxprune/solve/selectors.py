"""Choosing which channels stay: one table of selectors behind one interface.

Every selector orders all units, first removed first, so what a count keeps is part of what any larger count
keeps. The LASSO may also choose a count directly, which need not be nested. The baselines:

================  ====================================================================================
``magnitude``     sum over consumers of |W_I|_1, the L1 norm of the consumers' weights on the channel
``max-response``  E||W_I x_I||^2 / E||y||^2, centred: the moment form of the published "max response",
                  the energy of the channel's own response
``first-k``       the first channels stay
``random``        a seeded permutation
================  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.solve.elimination import obs_order
from onnxprune.solve.lasso import lasso_order, lasso_select
from onnxprune.solve.numerics import Array, Indices
from onnxprune.solve.problem import Regression, Selection, SelectOptions
from onnxprune.solve.quadratic import channel_quadratic

__all__ = ["SELECTORS", "removal_order", "select"]

_Selector = Callable[[Sequence[Regression], int, SelectOptions], Indices]


def removal_order(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    """All units, first removed first: (units,) int64."""
    return SELECTORS[options.selector](problems, units, options)


def select(problems: Sequence[Regression], units: int, keep: int | None, options: SelectOptions) -> Selection:
    """The ``keep`` units that stay.

    ``keep`` may be None for the LASSO with a fixed penalty only, which then finds its own count.
    """
    if keep is None and (options.selector, options.lasso) != ("lasso", "fixed"):
        raise UsageError(
            f"selector {options.selector!r} (lasso {options.lasso!r}) needs the number of channels to keep; "
            "only selector 'lasso' with lasso 'fixed' finds its own"
        )
    if keep is not None and not 0 <= keep <= units:
        raise ValueError(f"keep must be from 0 to {units}, found {keep}")
    if options.selector == "lasso":
        return lasso_select(problems, units, keep, options)
    order = removal_order(problems, units, options)
    return Selection(np.sort(order[units - (keep or 0) :]))


def _obs(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    return obs_order(problems, units)


def _lasso(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    return lasso_order(problems, units)


def _magnitude(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    score = np.zeros(units)
    for problem in problems:
        owned = problem.unit >= 0
        norms = np.abs(problem.weight[:, owned]).sum(axis=0)
        score += np.bincount(problem.unit[owned], weights=norms, minlength=units)
    return _weakest_first(score)


def _max_response(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    score = np.zeros(units)
    for problem in problems:
        quadratic = channel_quadratic(problem.moments.total, problem.weight, problem.unit, units)
        score += problem.scale() * np.diagonal(quadratic.matrix)
    return _weakest_first(score)


def _first_k(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    return np.arange(units - 1, -1, -1, dtype=np.int64)


def _random(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    return np.random.default_rng(options.seed).permutation(units).astype(np.int64)


def _weakest_first(score: Array) -> Indices:
    """Equal scores: the later channel goes first."""
    return np.lexsort((-np.arange(len(score)), score)).astype(np.int64)


SELECTORS: Mapping[str, _Selector] = {
    "obs": _obs,
    "lasso": _lasso,
    "magnitude": _magnitude,
    "max-response": _max_response,
    "first-k": _first_k,
    "random": _random,
}
