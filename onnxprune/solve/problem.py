"""Problems, options and solutions of the solvers: frozen values, no algorithms.

A channel group has ``units`` channels and one ``Regression`` per consumer (per group of a grouped conv).
Errors of several consumers are relative and add up::

    error = sum_i  E||y_i - W_i x_i - b_i||^2 / E||y_i - E y_i||^2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxprune.solve.activation import RELU, Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.solve.moments import Moments, Part
    from onnxprune.solve.numerics import Array, Array32, Indices

__all__ = ["Regression", "Samples", "Selection", "Solution", "dead_units", "kept_columns"]


# Variance below this share of the squared mean is the rounding of a constant in float32.
_DEAD = 1e-13


@dataclass(frozen=True)
class Regression:
    """Regression of one consumer of a channel group: predict y from the columns of x.

    Attributes:
        moments: moments of x (p columns) and y (o outputs).
        weight: original weights, (o, p) float64.
        bias: original bias, (o,) float64.
        unit: unit (channel) of each column, (p,) int64; -1 for a column of no unit of the group, which is always kept.
    """

    moments: Moments
    weight: Array
    bias: Array
    unit: Indices

    def __post_init__(self) -> None:
        columns, outputs = self.moments.even.cross.shape
        if self.weight.shape != (outputs, columns) or self.bias.shape != (outputs,):
            raise ValueError(
                f"moments of {columns} columns and {outputs} outputs need weight ({outputs}, {columns}) "
                f"and bias ({outputs},), found {self.weight.shape} and {self.bias.shape}"
            )
        if self.unit.shape != (columns,):
            raise ValueError(f"unit needs one entry for each of {columns} columns, found {self.unit.shape}")

    def half(self, number: int) -> Regression:
        """Return the regression on the even (0) or the odd (1) half alone."""
        return replace(self, moments=self.moments.half(number))

    def scale(self, part: Part | None = None) -> float:
        """Return the factor from absolute to relative errors of this consumer; 0 if y never varies."""
        power = float((part or self.moments.total).power.sum())
        return 1.0 / power if power > 0 else 0.0


@dataclass(frozen=True)
class Selection:
    """Selected channels.

    Attributes:
        kept: units to keep, (k,) int64, sorted.
        alpha: penalty of the LASSO; None for other selectors.
        status: "ok", or one line on how the count was reached.
    """

    kept: Indices
    alpha: float | None = None
    status: str = "ok"


@dataclass(frozen=True)
class Samples:
    """Raw samples for the solvers whose error is not quadratic.

    Attributes:
        x: inputs, (n, p) float32, all columns of the regression.
        y: target outputs BEFORE the activation, (n, o) float32, including the original network's shortcut.
        half: half of each sample, (n,) integers 0 or 1.
        offset: shortcut of the current network, (n, o) float32, added to the layer's output before the activation; None
            without one.
        activation: activation that follows.
    """

    x: Array32
    y: Array32
    half: npt.NDArray[np.integer]
    offset: Array32 | None = None
    activation: Activation = RELU


@dataclass(frozen=True)
class Solution:
    """Solution of a refit.

    Attributes:
        weight: weights, (o, k) float64, columns in the order of the kept columns.
        bias: bias, (o,) float64.
        error: relative squared error on all samples.
        error_even: relative squared error on the even half of a fit to the odd half.
        error_odd: relative squared error on the odd half of a fit to the even half.
        ridge: strength of the ridge; infinity for the original weights.
        status: "ok", or remarks for the report.
    """

    weight: Array
    bias: Array
    error: float
    error_even: float
    error_odd: float
    ridge: float
    status: str = "ok"


def kept_columns(problem: Regression, kept: npt.ArrayLike) -> Indices:
    """Return the columns of the units ``kept`` and of no unit: (k,) int64, sorted."""
    stays = np.isin(problem.unit, np.asarray(kept, dtype=np.int64)) | (problem.unit < 0)
    return np.flatnonzero(stays).astype(np.int64)


def dead_units(problems: Sequence[Regression], units: int) -> npt.NDArray[np.bool_]:
    """Find the units none of whose columns varies, so that a bias replaces them exactly: (units,) bool."""
    dead = np.ones(units, dtype=np.bool_)
    for problem in problems:
        total = problem.moments.total
        varies = np.diagonal(total.gram) > _DEAD * total.mean_x**2
        dead[problem.unit[varies & (problem.unit >= 0)]] = False
    return dead
