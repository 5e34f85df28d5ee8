"""Piecewise linear activations, and the auxiliary variable of the fit behind one.

An activation r is a list of pieces: on [lower, upper] it is slope v + offset. The element-wise step of the solver of
``nonlinear``::

    z = argmin (t - r(z))^2 + penalty (z - m)^2

is exact: on one piece the minimiser is ``(slope (t - offset) + penalty m) / (slope^2 + penalty)``, clipped to
the piece, and the cheapest piece wins. For a ReLU two pieces need no comparison of costs (Zhang, Zou, He, Sun, TPAMI
2016): z = m where ``m <= -t (((1 + penalty) / penalty)^(1/2) - 1)``, and ``(penalty m + t) / (penalty + 1)``
elsewhere, t being no less than 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.solve.numerics import Array32

__all__ = ["RELU", "Activation", "Piece", "clip", "leaky_relu"]


@dataclass(frozen=True)
class Piece:
    """Piece of an activation: ``slope v + offset`` on [lower, upper]."""

    lower: float
    upper: float
    slope: float
    offset: float


@dataclass(frozen=True)
class Activation:
    """Piecewise linear activation: name of the operator, and pieces in increasing order without gaps."""

    name: str
    pieces: tuple[Piece, ...]

    def __call__(self, values: Array32) -> Array32:
        """Apply the activation: r(values), float32, of the shape of `values`."""
        if self == RELU:
            return np.maximum(values, 0)
        inside = [(values >= piece.lower) & (values <= piece.upper) for piece in self.pieces]
        lines = [values * np.float32(piece.slope) + np.float32(piece.offset) for piece in self.pieces]
        return np.asarray(np.select(inside, lines), dtype=np.float32)

    def wanted_change(self, target: Array32, response: Array32, penalty: float) -> Array32:
        """Compute z - m for each element, from target r(y) and response m, (n, o) float32 each."""
        if self == RELU:
            return _relu_change(target, response, penalty)
        best = np.full(response.shape, np.inf, dtype=np.float32)
        change = np.zeros_like(response)
        for piece in self.pieces:
            slope, offset = np.float32(piece.slope), np.float32(piece.offset)
            z = slope * (target - offset) + np.float32(penalty) * response
            z /= slope * slope + np.float32(penalty)
            np.clip(z, piece.lower, piece.upper, out=z)
            apart = z - response
            cost = np.square(target - slope * z - offset) + np.float32(penalty) * np.square(apart)
            cheaper = cost < best
            best[cheaper], change[cheaper] = cost[cheaper], apart[cheaper]
        return change


RELU = Activation("Relu", (Piece(-np.inf, 0.0, 0.0, 0.0), Piece(0.0, np.inf, 1.0, 0.0)))


def clip(low: float, high: float) -> Activation:
    """Make ``min(max(v, low), high)``, such as ReLU6 by ``clip(0, 6)``; a bound may be infinite.

    Raises:
        ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"clip needs low < high, found {low} and {high}")
    if (low, high) == (0.0, np.inf):
        return RELU
    below = (Piece(-np.inf, low, 0.0, low),) if low > -np.inf else ()
    above = (Piece(high, np.inf, 0.0, high),) if high < np.inf else ()
    return Activation("Clip", (*below, Piece(low, high, 1.0, 0.0), *above))


def leaky_relu(slope: float) -> Activation:
    """Make the activation that is ``v`` above zero and ``slope v`` below."""
    return Activation("LeakyRelu", (Piece(-np.inf, 0.0, slope, 0.0), Piece(0.0, np.inf, 1.0, 0.0)))


def _relu_change(target: Array32, response: Array32, penalty: float) -> Array32:
    reach = np.float32(np.sqrt((1 + penalty) / penalty) - 1)
    change = target - response
    change *= np.float32(1 / (1 + penalty))
    change *= response > -reach * target
    return change
