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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.graph.forms import Form
from onnxprune.plan.allocate import levels
from onnxprune.plan.budget import WORDS

if TYPE_CHECKING:
    from onnxprune.graph.cost import CostModel
    from onnxprune.graph.forms import Unit
    from onnxprune.plan.allocate import Allocation
    from onnxprune.plan.budget import Budget
    from onnxprune.plan.candidates import Candidates

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Choice", "search"]

_PRICES = np.geomspace(1e-5, 1e3, 120)  # error for the cost of the whole network
_MOST_SWEEPS = 12
_UNIFORM_STEPS = 400
_UNIFORM_KEEP = 1 / 1.15  # channels that He et al. keep of a layer that is decomposed as well


@dataclass(frozen=True)
class Choice:
    """Channels to keep per group, and forms per site (dense ones left out)."""

    keep: dict[str, int]
    forms: dict[str, Form]


def search(
    cost: CostModel,
    curves: Mapping[str, Array],
    candidates: Mapping[str, Candidates],
    budget: Budget,
    *,
    allocation: Allocation = "greedy",
    align: int = 1,
) -> Choice:
    """Choose counts and forms.

    Args:
        cost: of the network.
        curves: per group that may shrink, (size + 1,) the error when so many channels are gone.
        candidates: per site that may take another form.
        budget: what to reach, in MACs, parameters or milliseconds.
        allocation: ``greedy``: by error and cost. ``uniform``: the same share of its cost for every layer, and of
            their channels for the groups where they lose any.
        align: counts are multiples of it where groups are large enough.

    Raises:
        PlanError: the budget is out of reach; the message has the closest that is in reach.
    """
    space = _Space(cost, curves, candidates, budget.unit, align)
    limit = budget.fraction * cost.total({}, {}, space.unit)
    states = space.chain() if allocation == "greedy" else space.uniform()
    best, best_error, least = None, np.inf, np.inf
    for state in states:
        total = space.total(state)
        least = min(least, total)
        if total <= limit and space.error(state) < best_error:
            best, best_error = state, space.error(state)
        if allocation == "greedy":
            near = space.near(state, limit, best_error)
            best, best_error = (best, best_error) if near is None else (near, space.error(near))
    if best is None:
        full, words = cost.total({}, {}, space.unit), WORDS[space.unit]
        raise PlanError(
            f"{budget.text} is out of reach: with every layer at its smallest, {least / full:.1%} of the {words} "
            f"remain ({full / (least or 1):.2f}x); see `onnxprune inspect` for what stays, or ask for less"
        )
    return space.choice(best)


_State = tuple[tuple[int, ...], tuple[int, ...]]
"""Position on each group's ladder, and index among each site's candidates."""


class _Space:
    """Groups, sites, and what their choices cost."""

    def __init__(
        self,
        cost: CostModel,
        curves: Mapping[str, Array],
        candidates: Mapping[str, Candidates],
        unit: Unit,
        align: int,
    ) -> None:
        self.cost, self.unit = cost, unit
        self.groups, self.sites = tuple(curves), tuple(candidates)
        self.ladders = [np.array(levels(cost.sizes[name], align)) for name in self.groups]
        self.curves = [
            np.maximum.accumulate(np.nan_to_num(curves[name], nan=np.inf, posinf=1e9))[cost.sizes[name] - ladder]
            for name, ladder in zip(self.groups, self.ladders, strict=True)
        ]
        for curve in self.curves:
            curve -= curve[0]
        self.candidates = [candidates[name] for name in self.sites]
        self.place = {name: index for index, name in enumerate(self.sites)}
        self.touched = [cost.layers_of(name) for name in self.groups]
        self.scale = float(cost.total({}, {}, unit)) or 1.0
        self.costs_of = cache(self._costs_of)

    def whole(self) -> _State:
        """Nothing removed, nothing decomposed."""
        return (0,) * len(self.groups), (0,) * len(self.sites)

    def keep(self, counts: tuple[int, ...]) -> dict[str, int]:
        """Channels per group."""
        return {name: int(ladder[i]) for name, ladder, i in zip(self.groups, self.ladders, counts, strict=True)}

    def choice(self, state: _State) -> Choice:
        """A state in words."""
        forms = {name: c.form(i) for name, c, i in zip(self.sites, self.candidates, state[1], strict=True) if i}
        return Choice(self.keep(state[0]), forms)

    def total(self, state: _State) -> float:
        """The cost of the whole network."""
        found = self.choice(state)
        return float(self.cost.total(found.keep, found.forms, self.unit))

    def error(self, state: _State) -> float:
        """The sum of all errors."""
        counts, forms = state
        pruned = sum(float(curve[i]) for curve, i in zip(self.curves, counts, strict=True))
        return pruned + sum(float(c.error[i]) for c, i in zip(self.candidates, forms, strict=True))

    def chain(self) -> Iterator[_State]:
        """From the whole network to the smallest."""
        before = self.whole()
        yield before
        for price in _PRICES:
            after = self._settled(before, float(price) / self.scale)
            yield from self._between(before, after)
            before = after
        smallest = tuple(len(ladder) - 1 for ladder in self.ladders), self._cheapest([len(x) - 1 for x in self.ladders])
        yield from self._between(before, smallest)

    def _cheapest(self, counts: list[int]) -> tuple[int, ...]:
        """The form of each site that costs least with these counts."""
        keep = self.keep(tuple(counts))
        channels = [self.cost.channels(name, keep) for name in self.sites]
        return tuple(int(np.argmin(self.costs_of(index, *sizes))) for index, sizes in enumerate(channels))

    def _between(self, before: _State, after: _State) -> Iterator[_State]:
        """The states on the way from one to another, one change at a time; the last one included."""
        counts, forms = list(before[0]), list(before[1])
        for index in (i for i in range(len(counts)) if counts[i] != after[0][i]):
            counts[index] = after[0][index]
            yield tuple(counts), tuple(forms)
        for index in (i for i in range(len(forms)) if forms[i] != after[1][i]):
            forms[index] = after[1][index]
            yield tuple(counts), tuple(forms)

    def near(self, state: _State, limit: float, below: float) -> _State | None:
        """The state of least error that is one change away, costs no more than `limit` and errs less than `below`."""
        counts, forms = state
        keep, total, error = self.keep(counts), self.total(state), self.error(state)
        found: _State | None = None
        for index, name in enumerate(self.sites):
            costs = self.costs_of(index, *self.cost.channels(name, keep))
            errors = self.candidates[index].error
            after = _swapped(total, costs, limit, error, errors, forms[index])
            best = int(np.argmin(after))
            if after[best] < below:
                found, below = (counts, (*forms[:index], best, *forms[index + 1 :])), float(after[best])
        for index, curve in enumerate(self.curves):
            costs = self._group_costs(index, keep, list(forms))
            after = _swapped(total, costs, limit, error, curve, counts[index])
            for best in np.argsort(after, kind="stable"):
                if not after[best] < below:
                    break
                tried = (*counts[:index], int(best), *counts[index + 1 :]), forms
                if self.total(tried) <= limit:  # of parameters, biases count, too
                    found, below = tried, float(after[best])
                    break
        return found

    def _settled(self, state: _State, price: float) -> _State:
        """Every choice the best for the price while all others stay."""
        counts, forms = list(state[0]), list(state[1])
        for _ in range(_MOST_SWEEPS):
            before = (tuple(counts), tuple(forms))
            keep = self.keep(before[0])
            for index, name in enumerate(self.sites):
                inputs, outputs = self.cost.channels(name, keep)
                costs = self.costs_of(index, inputs, outputs)
                forms[index] = int(np.argmin(self.candidates[index].error + price * costs))
            for index in range(len(self.groups)):
                counts[index] = int(np.argmin(self.curves[index] + price * self._group_costs(index, keep, forms)))
                keep[self.groups[index]] = int(self.ladders[index][counts[index]])
            if (tuple(counts), tuple(forms)) == before:
                break
        return tuple(counts), tuple(forms)

    def _costs_of(self, site: int, inputs: int, outputs: int) -> Array:
        of = self.candidates[site]
        return self.cost.costs(self.sites[site], of.spatial, of.first, of.channel, inputs, outputs, self.unit)

    def _group_costs(self, index: int, keep: Mapping[str, int], forms: list[int]) -> Array:
        """Cost of all layers that a group touches, for each rung of its ladder."""
        name, ladder = self.groups[index], self.ladders[index]
        total = np.zeros(len(ladder))
        for layer in self.touched[index]:
            place = self.place.get(layer, -1)
            form = self.candidates[place].form(forms[place]) if place >= 0 else None
            total += self.cost.along(layer, name, ladder, keep, form, self.unit)
        return total

    def uniform(self) -> Iterator[_State]:
        """Each layer with the least error within the same share of what it costs, for smaller and smaller shares."""
        mixed = bool(self.sites)
        for share in np.linspace(1.0, 0.01, _UNIFORM_STEPS):
            wanted = _UNIFORM_KEEP if mixed and share < 1 else share
            counts = tuple(int(np.argmin(np.abs(ladder - wanted * ladder[0]))) for ladder in self.ladders)
            keep = self.keep(counts)
            forms = []
            for index, name in enumerate(self.sites):
                full = self.costs_of(index, *self.cost.channels(name, {}))[0]
                costs = self.costs_of(index, *self.cost.channels(name, keep))
                fitting = np.flatnonzero(costs <= share * full)
                errors = self.candidates[index].error
                forms.append(int(fitting[np.argmin(errors[fitting])]) if len(fitting) else int(np.argmin(costs)))
            yield counts, tuple(forms)


def _swapped(total: float, costs: Array, limit: float, error: float, errors: Array, now: int) -> Array:
    """All errors together, for each choice in the place of `now`; infinity where all costs are above the limit."""
    return np.where(total - costs[now] + costs <= limit, error - errors[now] + errors, np.inf)
