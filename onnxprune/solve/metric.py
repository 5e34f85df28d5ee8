"""A metric on a layer's outputs: what a squared error of each of them weighs.

With weights f (o,) the error of a fit becomes ``sum_q f_q E(y_q - (W x + b)_q)^2``. Outputs multiplied by ``f^(1/2)``
turn that into the plain error, so every solver works with a metric unchanged: it is given the layer times
``f^(1/2)``, and what it finds is divided by that again. Least squares with all columns fits each output for itself and
does not notice; which channels stay, what a low rank keeps, and how errors add up do.

Behind an activation r that is positively homogeneous, r(c v) = c r(v) for c > 0, the same holds for r's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxprune.solve.moments import Moments, Part
from onnxprune.solve.numerics import Array
from onnxprune.solve.problem import Regression, Samples, Solution

__all__ = ["Metric", "MetricChoice"]

MetricChoice = Literal["none", "fisher"]

_LEAST_SHARE = 1e-2  # of the mean weight: no output is free to be wrong


@dataclass(frozen=True)
class Metric:
    """``scale``: (o,) float64 above zero, square roots of the weights."""

    scale: Array

    @classmethod
    def from_weights(cls, weights: Array) -> Metric | None:
        """(o,) weights not below zero, in any unit; None where they say nothing."""
        mean = float(weights.mean()) if len(weights) else 0.0
        if not (np.isfinite(weights).all() and mean > 0):
            return None
        return cls(np.sqrt(np.maximum(weights / mean, _LEAST_SHARE)))

    def problem(self, problem: Regression) -> Regression:
        """The regression in the metric."""
        moments = Moments(self._part(problem.moments.even), self._part(problem.moments.odd))
        return replace(
            problem, moments=moments, weight=problem.weight * self.scale[:, None], bias=problem.bias * self.scale
        )

    def samples(self, samples: Samples) -> Samples:
        """Raw rows in the metric.

        Raises:
            ValueError: the activation is not positively homogeneous.
        """
        if not samples.activation.homogeneous:
            raise ValueError(f"{samples.activation.name} is not positively homogeneous")
        scale = self.scale.astype(np.float32)
        offset = None if samples.offset is None else samples.offset * scale
        return replace(samples, y=samples.y * scale, offset=offset)

    def solution(self, solution: Solution) -> Solution:
        """What was found in the metric, for the layer as it is; its errors stay those in the metric."""
        return replace(solution, weight=self.rows(solution.weight), bias=solution.bias / self.scale)

    def rows(self, weight: Array) -> Array:
        """(o, k) weights found in the metric, for the layer as it is."""
        return weight / self.scale[:, None]

    def _part(self, part: Part) -> Part:
        return replace(
            part, mean_y=part.mean_y * self.scale, cross=part.cross * self.scale, power=part.power * self.scale**2
        )
