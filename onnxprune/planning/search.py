"""Search for the counts and forms of least error within a budget, by a price on cost.

Error and cost are sums over groups and layers, but the cost of a layer depends on the number of channels that its
neighbours keep. For a given price, every layer takes the form, and every group the count, with the least error plus
price times cost while all others are fixed; this is repeated until nothing changes (Everett's generalised Lagrange
multipliers, by coordinates). A fixed grid of prices gives a chain of states from the whole network to the smallest one,
and between two neighbours of the chain the changes are made one by one. The result is the state of least error within
the budget, among all states of the chain and all states one change away from them, which fill the gaps of the chain.
No state of the chain depends on the budget, so a larger budget never gives a larger error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import OutOfReachError
from onnxprune.options.budget import WORDS
from onnxprune.options.planning import Allocation
from onnxprune.planning.assignment import Assignment
from onnxprune.planning.levels import ladders
from onnxprune.planning.space import Space

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnxprune.options.budget import Budget
    from onnxprune.planning.cost import CostModel
    from onnxprune.planning.sensitivity import PredictedErrors

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["search"]


def search(
    cost: CostModel,
    errors: PredictedErrors,
    budget: Budget,
    *,
    allocation: Allocation = "greedy",
    align: int = 1,
    droppable: Collection[str] = (),
) -> Assignment:
    """Choose counts and forms, and return the assignment.

    Args:
        cost: cost model of the network.
        errors: errors of groups and forms, weighted.
        budget: limit on MACs, parameters or milliseconds; or share of the channels that every group keeps, rounded to
            the nearest level, whatever its cost.
        allocation: ``greedy``: least error for the cost. ``uniform``: an equal share of its cost for every layer, and
            of its channels for every group.
        align: multiple to which counts are rounded in groups that are large enough.
        droppable: groups of residual branches that may be removed.

    Raises:
        OutOfReachError: the budget is out of reach; the message has the smallest cost in reach.
    """
    if budget.kind == "keep-ratio":
        rungs = ladders(cost, errors.curves, align, ()).items()
        return Assignment({name: _nearest(ladder, budget.fraction) for name, ladder in rungs})
    space = Space(cost, errors, budget.unit, align, droppable)
    limit = budget.fraction * cost.total(Assignment(), space.unit)
    states = space.chain() if allocation == "greedy" else space.uniform()
    best, best_error, least = None, np.inf, np.inf
    for state in states:
        total = space.total(state)
        least = min(least, total)
        if total <= limit and space.error(state) < best_error:
            best, best_error = state, space.error(state)
        if allocation == "greedy" and space.promising(state, limit, best_error):
            near = space.near(state, limit, best_error)
            best, best_error = (best, best_error) if near is None else (near, space.error(near))
    if best is None:
        full, words = cost.total(Assignment(), space.unit), WORDS[space.unit]
        raise OutOfReachError(
            f"{budget.text} is out of reach: with every layer at its smallest, {least / full:.1%} of the {words} "
            f"remain ({full / (least or 1):.2f}x); choose a milder budget; `onnxprune inspect` names the "
            "layers that cannot be pruned"
        )
    return space.assignment(best)


def _nearest(ladder: tuple[int, ...], fraction: float) -> int:
    """Return the level closest to a fraction of all channels; the larger one of two equally close levels."""
    return min(ladder, key=lambda level: (abs(level - fraction * ladder[0]), -level))
