"""Linear algebra on second moments: selection of the channels to keep, and refits of their weights.

Works on arrays alone. ``moments`` gathers statistics, ``problem`` defines problems, options and solutions.
``selectors`` choose channels (by ``elimination`` or ``lasso``), ``refits`` fit weights (``nonlinear`` behind an
``activation``), ``lowrank`` fits factors (``alternating``: the first of them). ``held_out`` and ``form_errors`` predict
errors on new samples. ``quadratic`` and ``numerics`` are used by the others.
"""

from onnxprune.options.solve import Basis, LassoVariant, Refit, RefitOptions, SelectOptions, Selector
from onnxprune.solve.activation import RELU, Activation, clip, leaky_relu
from onnxprune.solve.form_errors import SpatialErrors, channel_errors, spatial_errors
from onnxprune.solve.held_out import held_out_curve
from onnxprune.solve.lasso import coordinate_descent
from onnxprune.solve.lowrank import (
    Decomposed,
    Factors,
    decompose,
    merge,
    split_columns,
)
from onnxprune.solve.moments import Moments, MomentsBuilder, Part, held_bytes
from onnxprune.solve.numerics import Factor, factorise
from onnxprune.solve.problem import Regression, Samples, Selection, Solution, dead_units, kept_columns
from onnxprune.solve.quadratic import channel_quadratic
from onnxprune.solve.refits import refit
from onnxprune.solve.selectors import SELECTORS, removal_order, select

__all__ = [
    "RELU",
    "SELECTORS",
    "Activation",
    "Basis",
    "Decomposed",
    "Factor",
    "Factors",
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
    "SpatialErrors",
    "channel_errors",
    "channel_quadratic",
    "clip",
    "coordinate_descent",
    "dead_units",
    "decompose",
    "factorise",
    "held_bytes",
    "held_out_curve",
    "kept_columns",
    "leaky_relu",
    "merge",
    "refit",
    "removal_order",
    "select",
    "spatial_errors",
    "split_columns",
]
