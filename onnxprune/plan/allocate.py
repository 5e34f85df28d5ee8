"""From a budget to a count for every group, by single moves.

All groups start with all of their channels and go down by levels (`levels`), one group at a time. ``greedy`` takes the
group whose next level adds least error for what it saves; ``uniform`` does so among the groups that are furthest above
the common ratio. The errors are those of `solve.held_out_curve`, known before anything is removed. Of all states on the
way, and all that are one move away from them, the one within the budget that has the least error is the answer: the
last move need not be the greedy one. The way is the same for every budget, so more of it never ends with more error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxprune.errors import OutOfReachError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from onnxprune.graph.cost import CostModel
    from onnxprune.plan.budget import Budget

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Allocation", "allocate", "ladders", "levels"]

Allocation = Literal["greedy", "uniform"]

_LEAST_LEVELS = 3


def levels(size: int, align: int) -> tuple[int, ...]:
    """Counts that a group of `size` channels may keep, largest first: `size`, then multiples of the alignment.

    Groups of fewer than three multiples of it get a finer one: the largest power of two below it that gives them
    three, at least 1.
    """
    step = align
    while step > 1 and size // step < _LEAST_LEVELS:
        step = 1 << ((step - 1).bit_length() - 1)
    return (size, *range((size - 1) // step * step, 0, -step))


def ladders(
    cost: CostModel, groups: Iterable[str], align: int, droppable: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Counts that each group may keep, largest first: its levels, and 0 for those of branches that may go whole."""
    return {name: (*levels(cost.sizes[name], align), *((0,) if name in droppable else ())) for name in groups}


def allocate(
    cost: CostModel,
    curves: Mapping[str, Array],
    budget: Budget,
    *,
    allocation: Allocation = "greedy",
    align: int = 1,
    droppable: Collection[str] = (),
) -> dict[str, int]:
    """Channels to keep, per group.

    Args:
        cost: of the network.
        curves: per group, (size + 1,) the error when so many channels are gone; its keys are the groups that may
            shrink.
        budget: what to reach; for the kind ``selector`` there is nothing to allocate.
        allocation: how the moves are ordered.
        align: counts are multiples of it where groups are large enough.
        droppable: groups of branches that may go whole.

    Raises:
        OutOfReachError: the budget is out of reach; the message has the closest that is in reach.
    """
    ladder = ladders(cost, curves, align, droppable if budget.kind != "keep-ratio" else ())
    if budget.kind == "keep-ratio":
        return {name: _nearest(ladder[name], budget.fraction) for name in ladder}
    unit: Literal["macs", "params"] = "params" if budget.kind == "params" else "macs"
    total = cost.params if unit == "params" else cost.macs
    limit = budget.fraction * total({})
    _check_reach(cost, ladder, unit, budget)
    keep = {name: rungs[0] for name, rungs in ladder.items()}
    place = dict.fromkeys(ladder, 0)
    left, error = float(total(keep)), 0.0
    best, best_error = dict(keep), np.inf
    while left > limit:
        moves = []
        for name, to in _next_levels(ladder, place, keep, cost, allocation).items():
            inner = () if to else [other for other in cost.branches[name].inner if other in keep]
            back = sum(_added(curves[other], cost.sizes[other], keep[other]) for other in inner)
            added = max(_added(curves[name], keep[name], to) - back, 0.0)
            moves.append(_Move(name, to, cost.saving(keep, name, to, unit=unit), added))
        for move in moves:
            if left - move.saved <= limit and error + move.added < best_error:
                best, best_error = cost.tidied({**keep, move.group: move.to}), error + move.added
        chosen = min(moves, key=lambda move: move.price)
        left, error = left - chosen.saved, error + chosen.added
        keep[chosen.group] = chosen.to
        place[chosen.group] += 1
    return best if best_error < np.inf else cost.tidied(keep)  # curves that are not finite order nothing


@dataclass(frozen=True)
class _Move:
    """One group goes down to its next level; ``saved``: of the cost, ``added``: to the error."""

    group: str
    to: int
    saved: float
    added: float

    @property
    def price(self) -> float:
        """Error per cost saved."""
        return self.added / self.saved if self.saved > 0 else np.inf


def _next_levels(
    ladder: Mapping[str, tuple[int, ...]],
    place: Mapping[str, int],
    keep: Mapping[str, int],
    cost: CostModel,
    allocation: Allocation,
) -> dict[str, int]:
    """The groups that may go down one level, and to what."""
    moves = {name: ladder[name][rung + 1] for name, rung in place.items() if rung + 1 < len(ladder[name])}
    if allocation == "greedy":
        return moves
    ratios = {name: (keep[name] + to) / cost.sizes[name] for name, to in moves.items()}
    most = max(ratios.values())
    return {name: to for name, to in moves.items() if ratios[name] == most}


def _added(curve: Array, before: int, after: int) -> float:
    size = len(curve) - 1
    return max(float(curve[size - after] - curve[size - before]), 0.0)


def _nearest(rungs: tuple[int, ...], fraction: float) -> int:
    """The level closest to a fraction of all; of two, the larger."""
    return min(rungs, key=lambda level: (abs(level - fraction * rungs[0]), -level))


def _check_reach(
    cost: CostModel, ladder: Mapping[str, tuple[int, ...]], unit: Literal["macs", "params"], budget: Budget
) -> None:
    total = cost.params if unit == "params" else cost.macs
    least, full = total({name: rungs[-1] for name, rungs in ladder.items()}), total({})
    if least > budget.fraction * full:
        words = "MACs" if unit == "macs" else "parameters"
        raise OutOfReachError(
            f"{budget.text} is out of reach: with every prunable group at its smallest, {least / full:.1%} of the "
            f"{words} remain ({full / max(least, 1):.2f}x); see `onnxprune inspect` for what stays, or ask for less"
        )
