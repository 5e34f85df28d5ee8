"""Explanation of a plan: the choice for each group and layer, its price, and the runner-up.

A plan trades damage (error times sensitivity weight) for cost. The price of a finished plan is the least damage per
cost saved of any further step. At that price every choice has a score, its damage plus the price times its cost; the
runner-up of a group or layer is its other choice of least score, all other groups and layers being fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.planning.assignment import Assignment
from onnxprune.planning.space import Space

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxprune.graph.channels.forms import Form
    from onnxprune.options.budget import Unit
    from onnxprune.planning.cost import CostModel
    from onnxprune.planning.sensitivity import PredictedErrors

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Explanation", "Option", "Reason", "explain"]

_WORST = 1e9  # in place of infinity, which JSON cannot express


@dataclass(frozen=True)
class Option:
    """Choice of a group or layer.

    Attributes:
        what: the choice in words.
        damage: damage that it adds, error times weight.
        cost: cost of all layers that it affects, everything else as planned: MACs, parameters or milliseconds.
    """

    what: str
    damage: float
    cost: float


@dataclass(frozen=True)
class Reason:
    """Reason for the choice of a group or layer.

    Attributes:
        name: producer of the group, or name of the layer.
        kind: kind of the choice: ``channels`` or ``form``.
        chosen: the choice of the plan.
        error: relative error of the choice, not weighted.
        weight: weight of the error, from the layer's sensitivity; 1 is typical.
        before: cost of the affected layers in the original.
        runner_up: other choice of least damage plus priced cost; None if there is none.
        margin: score of the runner-up minus score of the choice, in damage; below 0 if it is better but exceeds the
            budget.
    """

    name: str
    kind: str
    chosen: Option
    error: float
    weight: float
    before: float
    runner_up: Option | None
    margin: float


@dataclass(frozen=True)
class Explanation:
    """Explanation of a whole plan.

    Attributes:
        unit: unit of all costs.
        price: damage per 1 % of the original's cost.
        reasons: reasons of all groups and layers with a choice.
    """

    unit: Unit
    price: float
    reasons: tuple[Reason, ...]


def explain(
    cost: CostModel,
    errors: PredictedErrors,
    assignment: Assignment,
    unit: Unit,
    align: int,
    droppable: Collection[str] = (),
) -> Explanation:
    """Explain a plan.

    Args:
        cost: cost model of the network.
        errors: errors and sensitivities, not weighted.
        assignment: the plan.
        unit: cost that the budget limits.
        align: alignment of the search.
        droppable: groups of residual branches that the search could remove.
    """
    weighted = errors.weighted
    space = Space(cost, weighted, unit, align, droppable)
    counts, forms = space.state(assignment)
    kept = space.counted(counts)
    inner, gone = space.gone(counts)
    tables = [
        _Table(
            name,
            "channels",
            now,
            [_kept(int(rung), int(ladder[0])) for rung in ladder],
            np.minimum(weighed, _WORST),
            space.group_costs(index, kept, forms),
            _at(errors.curves[name], ladder),
            float(space.group_costs(index, Assignment(), [0] * len(forms))[0]),
        )
        for index, (name, ladder, weighed, now) in enumerate(
            zip(space.groups, space.ladders, space.curves, counts, strict=True)
        )
        if index not in inner
    ]
    for index, (name, of, now) in enumerate(zip(space.sites, space.candidates, forms, strict=True)):
        if index in gone:
            continue
        here, whole = (space.costs_of(index, *cost.channels(name, done)) for done in (kept, Assignment()))
        words = [_form(of.form(i)) for i in range(len(of))]
        tables.append(_Table(name, "form", now, words, of.error, here, errors.candidates[name].error, float(whole[0])))
    price = min((table.cheapest_step() for table in tables), default=np.inf)
    price = price if np.isfinite(price) else 0.0
    return Explanation(unit, price * space.scale / 100, tuple(table.reason(price) for table in tables))


@dataclass(frozen=True)
class _Table:
    """Choices of one group or layer: (n,) damage, cost and error."""

    name: str
    kind: str
    now: int
    words: Sequence[str]
    damage: Array
    costs: Array
    errors: Array
    before: float

    def cheapest_step(self) -> float:
        """Return the least damage per cost saved of all cheaper choices; infinite if there is none."""
        saved, added = self.costs[self.now] - self.costs, self.damage - self.damage[self.now]
        down = saved > 0
        return float(np.maximum(added[down] / saved[down], 0).min()) if down.any() else np.inf

    def reason(self, price: float) -> Reason:
        """Make the reason at a price, in damage per cost."""
        scores = self.damage + price * self.costs
        others = np.array([i for i in range(len(scores)) if i != self.now], dtype=np.int64)
        second = int(others[np.argmin(scores[others])]) if len(others) else None
        error, damage = float(self.errors[self.now]), float(self.damage[self.now])
        return Reason(
            self.name,
            self.kind,
            self._option(self.now),
            error,
            damage / error if error > 0 else 1.0,
            self.before,
            None if second is None else self._option(second),
            0.0 if second is None else float(scores[second] - scores[self.now]),
        )

    def _option(self, index: int) -> Option:
        return Option(self.words[index], float(self.damage[index]), float(self.costs[index]))


def _at(curve: Array, ladder: Array) -> Array:
    found = np.nan_to_num(curve[len(curve) - 1 - ladder], nan=_WORST, posinf=_WORST)
    return np.asarray(found - found[0], dtype=np.float64)


def _kept(count: int, size: int) -> str:
    return f"all {size}" if count == size else f"{count} of {size}" if count else "branch removed"


def _form(form: Form) -> str:
    if form.dense:
        return "one conv"
    parts = [f"{'V, H' if form.first == 0 else 'H, V'} {form.spatial}"] if form.spatial else []
    return ", ".join([*parts, f"P {form.channel}"] if form.channel else parts)
