"""Weighting of errors by sensitivity: the damage of a trial at the network's outputs, divided by its error.

Trials are made one at a time, while in the end all layers err together and later ones are fitted to put earlier ones
right; taken at their word, they would concentrate the errors in few places. So they are damped: errors are weighted by
the square root of the damage per error over the geometric mean of all. Nothing corrects the errors of the last layers:
they count several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import Kind
from onnxprune.planning.candidates import Candidates

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["PredictedErrors", "Sensitivity"]

_DAMPING = 0.5  # exponent: 0 weights all errors equally, 1 by their sensitivities
_MOST = 100.0  # largest weight before `_LAST`; its inverse is the least
_LAST = 4.0  # factor for errors that no later layer corrects


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities: damage at the outputs divided by relative error.

    Attributes:
        groups: sensitivity to the removal of channels, per group.
        sites: sensitivity to decomposition, per site and kind of form.
        last: groups and sites behind which no other site is fitted.
    """

    groups: Mapping[str, float]
    sites: Mapping[str, Mapping[Kind, float]]
    last: frozenset[str] = frozenset()

    def curves(self, curves: Mapping[str, Array]) -> dict[str, Array]:
        """Weight the error curves of groups by sensitivity."""
        return {name: curve * self._weight(name, self.groups.get(name, np.nan)) for name, curve in curves.items()}

    def candidates(self, candidates: Mapping[str, Candidates]) -> dict[str, Candidates]:
        """Weight the errors of forms by sensitivity."""
        found = {}
        for name, known in candidates.items():
            error = known.error.copy()
            for kind, places in known.kinds().items():
                error[places] *= self._weight(name, self.sites.get(name, {}).get(kind, np.nan))
            found[name] = replace(known, error=error)
        return found

    def _weight(self, name: str, value: float) -> float:
        """Return the weight: 1 for an unknown sensitivity and for the geometric mean; more for the last layers."""
        return self._damped(value) * (_LAST if name in self.last else 1.0)

    def _damped(self, value: float) -> float:
        known = list(_usable([*self.groups.values(), *(v for kinds in self.sites.values() for v in kinds.values())]))
        if not known or not any(_usable([value])):
            return 1.0
        typical = float(np.exp(np.mean(np.log(known))))
        return float(np.clip(value / typical, 1 / _MOST**2, _MOST**2) ** _DAMPING)


@dataclass(frozen=True)
class PredictedErrors:
    """Errors that a plan trades for cost.

    Attributes:
        curves: (size + 1,) error by number of removed channels, per group.
        candidates: forms and their errors, per site that may be decomposed.
        sensitivity: sensitivity of groups and sites, by which the errors are to be weighted.
    """

    curves: Mapping[str, Array]
    candidates: Mapping[str, Candidates]
    sensitivity: Sensitivity = Sensitivity({}, {})

    @cached_property
    def weighted(self) -> PredictedErrors:
        """The errors weighted by sensitivity, and no sensitivity."""
        by = self.sensitivity
        return PredictedErrors(by.curves(self.curves), by.candidates(self.candidates))


def _usable(values: Iterable[float]) -> Iterable[float]:
    return (value for value in values if np.isfinite(value) and value > 0)
