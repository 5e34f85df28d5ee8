"""Linear algebra on second moments: which channels stay, and the weights of what stays.

Knows arrays alone. ``moments`` gathers statistics, ``problem`` states what is asked. ``selectors`` choose
channels (by ``elimination``, ``lasso`` or a baseline), ``refits`` fit weights (``nonlinear`` behind an
``activation``), ``lowrank`` fits factors of them. ``metric`` says what
errors of single outputs weigh. ``quadratic`` and ``numerics`` hold what they share.
"""

from onnxprune.solve.activation import RELU, Activation, clip, leaky_relu
from onnxprune.solve.elimination import error_curve, obs
from onnxprune.solve.lasso import coordinate_descent
from onnxprune.solve.lowrank import (
    Decomposed,
    Factors,
    channel_curve,
    decompose,
    merge,
    spatial_basis,
    spatial_curve,
    split_columns,
)
from onnxprune.solve.metric import Metric, MetricChoice
from onnxprune.solve.moments import Moments, MomentsBuilder, Part, held_bytes
from onnxprune.solve.numerics import Factor, factorise
from onnxprune.solve.problem import (
    Basis,
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
    "RELU",
    "SELECTORS",
    "Activation",
    "Basis",
    "Decomposed",
    "Elimination",
    "Factor",
    "Factors",
    "LassoVariant",
    "Metric",
    "MetricChoice",
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
    "channel_curve",
    "channel_quadratic",
    "clip",
    "coordinate_descent",
    "dead_units",
    "decompose",
    "error_curve",
    "factorise",
    "held_bytes",
    "kept_columns",
    "leaky_relu",
    "merge",
    "obs",
    "refit",
    "removal_order",
    "select",
    "spatial_basis",
    "spatial_curve",
    "split_columns",
]
