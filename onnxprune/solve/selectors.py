"""Selection of the channels to keep: one table of selectors with a common interface.

Every selector orders all units, first removed first, so the units kept at one count are a subset of the units kept at
any larger count. The LASSO may also select for one count directly, without this nesting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.options.solve import SelectOptions
from onnxprune.solve.elimination import obs_order
from onnxprune.solve.lasso import lasso_order, lasso_select
from onnxprune.solve.numerics import Indices
from onnxprune.solve.problem import Regression, Selection

__all__ = ["SELECTORS", "removal_order", "select"]


def removal_order(problems: Sequence[Regression], units: int, options: SelectOptions) -> Indices:
    """Order all units by the selector, first removed first: (units,) int64."""
    return SELECTORS[options.selector](problems, units)


def select(problems: Sequence[Regression], units: int, keep: int | None, options: SelectOptions) -> Selection:
    """Select ``keep`` units to keep; None lets the LASSO with a fixed penalty find the count.

    Args:
        problems: regressions of all consumers.
        units: number of units.
        keep: number of units to keep, 0..units; None for the LASSO with a fixed penalty only.
        options: selector and its parameters.

    Raises:
        UsageError: `keep` is None, and the selector finds no count.
        ValueError: `keep` is out of range.
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
"""Selectors by name: functions of the consumers' regressions and the number of units that return the removal order."""
