"""Choosing which channels to keep: one table of selectors behind one interface.

Every selector orders all units, first removed first, so what a count keeps is part of what any larger count
keeps. The LASSO may also choose a count directly, which need not be nested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.solve.elimination import obs_order
from onnxprune.solve.lasso import lasso_order, lasso_select
from onnxprune.solve.numerics import Indices
from onnxprune.solve.problem import Regression, Selection, SelectOptions

__all__ = ["SELECTORS", "removal_order", "select"]


def removal_order(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    """All units, first removed first: (units,) int64."""
    return SELECTORS[options.selector](problems, units)


def select(problems: Sequence[Regression], units: int, keep: int | None, options: SelectOptions) -> Selection:
    """Choose the ``keep`` units to keep.

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


SELECTORS: dict[str, Callable[[Sequence[Regression], int], Indices]] = {"obs": obs_order, "lasso": lasso_order}
"""From the regressions of all consumers and the number of units to the order of removal."""
