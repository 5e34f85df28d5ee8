"""Options of the solvers: selection of channels, and refit of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnxprune.errors import UsageError

__all__ = ["Basis", "LassoVariant", "Refit", "RefitOptions", "SelectOptions", "Selector"]

Selector = Literal["obs", "lasso"]


LassoVariant = Literal["path", "alternating", "fixed"]


Refit = Literal["auto", "linear", "ridge", "scale-only", "none"]


Basis = Literal["data", "plain"]


def _check(flag: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{flag} must be 0 or more, found {value:g}")


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Options of the selection of channels.

    Raises:
        UsageError: a number is negative or not finite.
    """

    selector: Selector = "obs"
    "Choice of the channels to keep: obs (block Optimal Brain Surgeon) or lasso (He et al. 2017)."

    lasso: LassoVariant = "path"
    "LASSO variant: path (no search), alternating (weights re-estimated between steps) or fixed (finds its own counts)."

    rank_tol: float = 0.1
    "LASSO path: share by which the count may exceed the wanted one before it is trimmed."

    lasso_alpha: float = 1e-4
    "LASSO fixed: penalty, divided by the number of channels to the power of --layer-alpha."

    layer_alpha: float = 0.0
    "LASSO fixed: exponent of the number of channels."

    def __post_init__(self) -> None:
        _check("--rank-tol", self.rank_tol)
        _check("--lasso-alpha", self.lasso_alpha)
        _check("--layer-alpha", self.layer_alpha)


@dataclass(frozen=True, kw_only=True)
class RefitOptions:
    """Options of the refit of weights.

    Raises:
        UsageError: `ridge` or `rounds` is negative or not finite.
    """

    refit: Refit = "auto"
    """Fit: auto (behind the ReLU, Clip or LeakyRelu that follows, else linear), linear (toward the original weights),
    ridge (toward zero), scale-only (one factor per channel) or none."""

    basis: Basis = "data"
    "Weighting of a spatial decomposition's singular values: data (second moments) or plain (none, as published)."

    rounds: int = 1
    "Alternating least-squares rounds between the factors of a spatial decomposition; 0 keeps the SVD's first factor."

    ridge: float = 1e-4
    "Strength of refit ridge, relative to the mean variance of the inputs."

    strengths: tuple[float, ...] = (math.inf, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0)
    "Strengths of refit linear to choose among, relative to each column's variance; inf keeps the original weights."

    relu_steps: tuple[tuple[float, int], ...] = ((1.0, 6), (5.0, 14))
    "Refit auto behind an activation: penalty and largest number of iterations of each step, in order."

    judged: bool = True
    "Refit auto behind an activation: early stopping by the error on held-out samples."

    downstream: bool = True
    "Refit of layers whose inputs change although none of their channels is removed."

    def __post_init__(self) -> None:
        _check("--ridge", self.ridge)
        _check("--rounds", self.rounds)
