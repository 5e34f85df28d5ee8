"""From a budget to counts and forms together: the least error within it, by a price on cost.

Error and cost are sums over groups and layers, but what a layer costs depends on how many channels its neighbours
keep. For a given price, every layer takes the form, and every group the count, with the least error plus price times
cost while all others stay; again and again until nothing changes (Everett's generalised Lagrange multipliers, by
coordinates). A fixed grid of prices gives a chain of states from the whole network to the smallest one, and between two
neighbours of the chain the changes are made one by one. The answer is the state within the budget with the least
error, of all states of the chain and all that are one change away from one of them: the chain has gaps, and what is
left of the budget is spent. None of these states depends on the budget, so more of it never ends with more error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxprune.errors import OutOfReachError
from onnxprune.plan.budget import WORDS
from onnxprune.plan.levels import ladders
from onnxprune.plan.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnxprune.graph.cost import CostModel
    from onnxprune.plan.budget import Budget
    from onnxprune.plan.candidates import Candidates

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Allocation", "Choice", "search"]

Allocation = Literal["greedy", "uniform"]


def search(
    cost: CostModel,
    curves: Mapping[str, Array],
    candidates: Mapping[str, Candidates],
    budget: Budget,
    *,
    allocation: Allocation = "greedy",
    align: int = 1,
    droppable: Collection[str] = (),
) -> Choice:
    """Choose counts and forms.

    Args:
        cost: of the network.
        curves: per group that may shrink, (size + 1,) the error when so many channels are gone.
        candidates: per site that may take another form.
        budget: what to reach, in MACs, parameters or milliseconds; or the share of channels that every group keeps,
            at the level nearest to it, whatever that costs.
        allocation: ``greedy``: by error and cost. ``uniform``: the same share of its cost for every layer, and of
            their channels for the groups where they lose any.
        align: counts are multiples of it where groups are large enough.
        droppable: groups of branches that may go whole.

    Raises:
        OutOfReachError: the budget is out of reach; the message has the closest that is in reach.
    """
    if budget.kind == "keep-ratio":
        rungs = ladders(cost, curves, align, ()).items()
        return Choice({name: _nearest(ladder, budget.fraction) for name, ladder in rungs}, {})
    space = Space(cost, curves, candidates, budget.unit, align, droppable)
    limit = budget.fraction * cost.total({}, {}, space.unit)
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
        full, words = cost.total({}, {}, space.unit), WORDS[space.unit]
        raise OutOfReachError(
            f"{budget.text} is out of reach: with every layer at its smallest, {least / full:.1%} of the {words} "
            f"remain ({full / (least or 1):.2f}x); see `onnxprune inspect` for what stays, or ask for less"
        )
    return space.choice(best)


def _nearest(ladder: tuple[int, ...], fraction: float) -> int:
    """The level closest to a fraction of all channels; of two, the larger."""
    return min(ladder, key=lambda level: (abs(level - fraction * ladder[0]), -level))
