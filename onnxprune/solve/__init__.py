"""Linear algebra on second moments: which channels stay, and the weights of what stays.

Knows arrays alone. ``moments`` gathers statistics, ``problem`` states what is asked. ``selectors`` choose
channels (by ``elimination``, ``lasso`` or a baseline), ``refits`` fit weights (``relu`` behind the
activation). ``quadratic`` and ``numerics`` hold what they share.
"""

from onnxprune.solve.elimination import error_curve, obs
from onnxprune.solve.lasso import coordinate_descent
from onnxprune.solve.moments import Moments, MomentsBuilder, Part
from onnxprune.solve.numerics import Factor, factorise
from onnxprune.solve.problem import (
    Elimination,
    LassoVariant,
    Refit,
    RefitOptions,
    Regression,
    Samples,
    Selection,
    SelectOptions,
    Selector,
    Solution,
    dead_units,
    kept_columns,
)
from onnxprune.solve.quadratic import channel_quadratic
from onnxprune.solve.refits import refit
from onnxprune.solve.selectors import SELECTORS, removal_order, select

__all__ = [
    "SELECTORS",
    "Elimination",
    "Factor",
    "LassoVariant",
    "Moments",
    "MomentsBuilder",
    "Part",
    "Refit",
    "RefitOptions",
    "Regression",
    "Samples",
    "SelectOptions",
    "Selection",
    "Selector",
    "Solution",
    "channel_quadratic",
    "coordinate_descent",
    "dead_units",
    "error_curve",
    "factorise",
    "kept_columns",
    "obs",
    "refit",
    "removal_order",
    "select",
]
