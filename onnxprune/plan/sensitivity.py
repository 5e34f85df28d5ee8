"""How much an error counts: by what a trial of it did to the network's outputs.

Trials are made one at a time, while in the end all layers err together and later ones are fitted to put earlier ones
right; taken at their word, they would concentrate the errors in few places. So they are damped: errors are weighted by
the square root of the damage per error over the geometric mean of all. Nothing corrects the errors of the last layers:
they count several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.plan.candidates import Candidates, Kind

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Sensitivity"]

_DAMPING = 0.5  # the power: at 0 all errors would count alike, at 1 as the trials say
_MOST = 100.0  # and at least one over that
_LAST = 4.0  # times as much, what no later layer puts right


@dataclass(frozen=True)
class Sensitivity:
    """Damage at the outputs per relative error.

    Attributes:
        groups: per group, when channels are removed.
        sites: per site and kind of form.
        last: groups and sites behind which nothing is fitted.
    """

    groups: Mapping[str, float]
    sites: Mapping[str, Mapping[Kind, float]]
    last: frozenset[str] = frozenset()

    def curves(self, curves: Mapping[str, Array]) -> dict[str, Array]:
        """Errors of groups, each multiplied by how much it counts."""
        return {name: curve * self._weight(name, self.groups.get(name, np.nan)) for name, curve in curves.items()}

    def candidates(self, candidates: Mapping[str, Candidates]) -> dict[str, Candidates]:
        """Errors of forms, likewise."""
        found = {}
        for name, known in candidates.items():
            error = known.error.copy()
            for kind, places in known.kinds().items():
                error[places] *= self._weight(name, self.sites.get(name, {}).get(kind, np.nan))
            found[name] = replace(known, error=error)
        return found

    def _weight(self, name: str, value: float) -> float:
        """1 for what is not known, and for what is as sensitive as the geometric mean; more for the last layers."""
        return self._damped(value) * (_LAST if name in self.last else 1.0)

    def _damped(self, value: float) -> float:
        known = list(_usable([*self.groups.values(), *(v for kinds in self.sites.values() for v in kinds.values())]))
        if not known or not any(_usable([value])):
            return 1.0
        typical = float(np.exp(np.mean(np.log(known))))
        return float(np.clip(value / typical, 1 / _MOST**2, _MOST**2) ** _DAMPING)


def _usable(values: Iterable[float]) -> Iterable[float]:
    return (value for value in values if np.isfinite(value) and value > 0)
