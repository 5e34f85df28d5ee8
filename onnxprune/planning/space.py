"""Space of states: the assignments of all groups and layers, with the cost and error of each state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import DENSE
from onnxprune.planning.assignment import REMOVED, Assignment
from onnxprune.planning.levels import ladders

if TYPE_CHECKING:
    from onnxprune.options.budget import Unit
    from onnxprune.planning.cost import CostModel
    from onnxprune.planning.sensitivity import PredictedErrors

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Space", "State"]

_PRICES = np.geomspace(1e-5, 1e3, 120)  # error per cost of the whole network
_MOST_SWEEPS = 12
_UNKNOWN = 1e9  # in place of an error that is not finite
_ROUNDING = 1e-4  # MACs of layers are whole numbers
_UNIFORM_STEPS = 400
_UNIFORM_KEEP = 1 / 1.15  # share of the channels that He et al. keep in a layer that is decomposed as well


State = tuple[tuple[int, ...], tuple[int, ...]]
"""Position on each group's ladder, and index among each site's candidates."""


class Space:
    """States of groups and sites, with their costs and errors."""

    def __init__(
        self,
        cost: CostModel,
        errors: PredictedErrors,
        unit: Unit,
        align: int,
        droppable: Collection[str] = (),
    ) -> None:
        self.cost, self.unit = cost, unit
        self.groups, self.sites = tuple(errors.curves), tuple(errors.candidates)
        self.ladders = [np.array(rungs) for rungs in ladders(cost, self.groups, align, droppable).values()]
        self.curves = [
            np.maximum.accumulate(np.nan_to_num(errors.curves[name], nan=_UNKNOWN, posinf=_UNKNOWN))[
                cost.sizes[name] - ladder
            ]
            for name, ladder in zip(self.groups, self.ladders, strict=True)
        ]
        for curve in self.curves:
            curve -= curve[0]
        self.candidates = [errors.candidates[name] for name in self.sites]
        self.place = {name: index for index, name in enumerate(self.sites)}
        self.touched = [cost.layers_of(name) for name in self.groups]
        self.placed = [tuple(self.place[layer] for layer in touched if layer in self.place) for touched in self.touched]
        self.beside = [
            tuple(
                name
                for name, others in zip(self.groups, self.touched, strict=True)
                if name != own and set(others) & set(touched)
            )
            for own, touched in zip(self.groups, self.touched, strict=True)
        ]
        self.inside = [self._inside(name) for name in self.groups]
        self.inner = [self._inner(name) for name in self.groups]
        self.known: dict[tuple[int, tuple[int | None, ...], tuple[int, ...]], Array] = {}
        self.scale = float(cost.total(Assignment(), unit)) or 1.0
        self.costs_of, self.total = cache(self._costs_of), cache(self._total)

    def _inside(self, name: str) -> tuple[int, ...]:
        """Return the places of the sites in the residual branch that is removed with the last channel of a group."""
        branch = self.cost.branches.get(name)
        return tuple(self.place[node] for node in branch.nodes if node in self.place) if branch is not None else ()

    def _inner(self, name: str) -> tuple[int, ...]:
        """Return the places of the other groups in the residual branch that is removed with a group's last channel."""
        branch = self.cost.branches.get(name)
        return tuple(i for i, other in enumerate(self.groups) if branch is not None and other in branch.inner)

    def gone(self, counts: Sequence[int]) -> tuple[frozenset[int], frozenset[int]]:
        """Return the places of the groups and of the sites inside removed residual branches."""
        dropped = [index for index, count in enumerate(counts) if not self.ladders[index][count]]
        return (
            frozenset(place for index in dropped for place in self.inner[index]),
            frozenset(place for index in dropped for place in self.inside[index]),
        )

    def state(self, assignment: Assignment) -> State:
        """Return the state of an assignment; a count that is not on its ladder becomes the nearest level."""
        kept = assignment.counts
        counts = (int(np.argmin(np.abs(x - kept.get(n, x[0])))) for n, x in zip(self.groups, self.ladders, strict=True))
        forms = (
            next((i for i in range(len(of)) if of.form(i) == assignment.forms.get(name, DENSE)), 0)
            for name, of in zip(self.sites, self.candidates, strict=True)
        )
        return tuple(counts), tuple(forms)

    def whole(self) -> State:
        """Return the state of the original: nothing removed, nothing decomposed."""
        return (0,) * len(self.groups), (0,) * len(self.sites)

    def counted(self, counts: tuple[int, ...]) -> Assignment:
        """Return the assignment of a state's counts alone."""
        rungs = zip(self.groups, self.ladders, counts, strict=True)
        return Assignment({name: int(ladder[i]) or REMOVED for name, ladder, i in rungs})

    def assignment(self, state: State) -> Assignment:
        """Return the assignment of a state."""
        forms = {name: c.form(i) for name, c, i in zip(self.sites, self.candidates, state[1], strict=True) if i}
        return replace(self.counted(state[0]), forms=forms)

    def _total(self, state: State) -> float:
        """Return the cost of the whole network in a state."""
        return float(self.cost.total(self.assignment(state), self.unit))

    def error(self, state: State) -> float:
        """Return the sum of all errors of a state."""
        counts, forms = state
        pruned = sum(float(curve[i]) for curve, i in zip(self.curves, counts, strict=True))
        return pruned + sum(float(c.error[i]) for c, i in zip(self.candidates, forms, strict=True))

    def chain(self) -> Iterator[State]:
        """Yield the states from the whole network to the smallest, one change at a time."""
        before = self.whole()
        yield before
        for price in _PRICES:
            after = self._optimised(before, float(price) / self.scale)
            yield from self._between(before, after)
            before = after
        least = tuple(len(ladder) - 1 for ladder in self.ladders)
        inner, _ = self.gone(least)
        least = tuple(0 if place in inner else rung for place, rung in enumerate(least))
        yield from self._between(before, (least, self._cheapest(least)))

    def _cheapest(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the cheapest form of each site with these counts."""
        kept = self.counted(counts)
        channels = [self.cost.channels(name, kept) for name in self.sites]
        return tuple(int(np.argmin(self.costs_of(index, *sizes))) for index, sizes in enumerate(channels))

    def _between(self, before: State, after: State) -> Iterator[State]:
        """Yield the states from one to another, one change at a time; the first one is left out."""
        state = before
        for index, rung in enumerate(after[0]):
            if state[0][index] != rung:
                state = self._moved(state, index, rung)
                yield state
        for index, form in enumerate(after[1]):
            if state[1][index] != form:
                state = state[0], (*state[1][:index], form, *state[1][index + 1 :])
                yield state

    def promising(self, state: State, limit: float, below: float) -> bool:
        """Return False if no single change can lead both within `limit` and below an error, as from most states."""
        counts, forms = state
        errors = [float(curve[i]) for curve, i in zip(self.curves, counts, strict=True)]
        errors += [float(c.error[i]) for c, i in zip(self.candidates, forms, strict=True)]
        if sum(errors) - max(errors, default=0.0) >= below:
            return False
        if self.unit == "params":  # biases count, too, but not as cost of a layer
            return True
        costs = self.cost.layer_costs(self.assignment(state), self.unit)
        saved = [sum(costs[name] for name in touched) for touched in self.touched] + [
            costs[name] for name in self.sites
        ]
        return self.total(state) - max(saved, default=0.0) <= limit * (1 + _ROUNDING)

    def near(self, state: State, limit: float, below: float) -> State | None:
        """Return the state of least error one change away, of cost at most `limit` and error less than `below`."""
        counts, forms = state
        kept, total, error = self.counted(counts), self.total(state), self.error(state)
        found: State | None = None
        for index, name in enumerate(self.sites):
            costs = self.costs_of(index, *self.cost.channels(name, kept))
            errors = self.candidates[index].error
            after = _swapped(total, costs, limit, error, errors, forms[index])
            best = int(np.argmin(after))
            if after[best] < below:
                found, below = (counts, (*forms[:index], best, *forms[index + 1 :])), float(after[best])
        for index in range(len(self.groups)):
            costs = self.group_costs(index, kept, forms)
            after = _swapped(total, costs, limit, error, self._errors(index, state), counts[index])
            for best in np.argsort(after, kind="stable"):
                if not after[best] < below:
                    break
                tried = self._moved(state, index, int(best))
                if self.total(tried) <= limit:  # of parameters, biases count, too
                    found, below = tried, float(after[best])
                    break
        return found

    def _optimised(self, state: State, price: float) -> State:
        """Optimise each choice for a price with all others fixed, until nothing changes."""
        for _ in range(_MOST_SWEEPS):
            before, kept = state, self.counted(state[0])
            forms = []
            for index, name in enumerate(self.sites):
                inputs, outputs = self.cost.channels(name, kept)
                costs = self.costs_of(index, inputs, outputs)
                forms.append(int(np.argmin(self.candidates[index].error + price * costs)))
            state = state[0], tuple(forms)
            for index in range(len(self.groups)):
                costs = self.group_costs(index, kept, state[1])
                rung = int(np.argmin(self._errors(index, state) + price * costs))
                if rung != state[0][index]:
                    state = self._moved(state, index, rung)
                    kept = self.counted(state[0])
            if state == before:
                break
        return state

    def _errors(self, index: int, state: State) -> Array:
        """Return the error of a group at each rung; at 0, less the errors of groups and sites removed with it."""
        curve: Array = self.curves[index]
        if self.ladders[index][-1]:
            return curve
        counts, forms = state
        gone = sum(float(self.candidates[place].error[forms[place]]) for place in self.inside[index])
        gone += sum(float(self.curves[place][counts[place]]) for place in self.inner[index])
        lowered: Array = np.concatenate([curve[:-1], curve[-1:] - gone])
        return lowered

    def _moved(self, state: State, index: int, rung: int) -> State:
        """Move one group to another rung; groups and sites inside a removed branch return to their first choices."""
        counts, forms = (*state[0][:index], rung, *state[0][index + 1 :]), state[1]
        if not self.ladders[index][rung]:
            counts = tuple(0 if place in self.inner[index] else rung for place, rung in enumerate(counts))
            forms = tuple(0 if place in self.inside[index] else form for place, form in enumerate(forms))
        return counts, forms

    def _costs_of(self, site: int, inputs: int, outputs: int) -> Array:
        return self.cost.costs(self.sites[site], self.candidates[site].parts, inputs, outputs, self.unit)

    def group_costs(self, index: int, kept: Assignment, forms: Sequence[int]) -> Array:
        """Return the cost of all layers that a group affects, for each rung of its ladder.

        It depends on the counts of the other groups on these layers and on the layers' forms; results are cached by
        both.
        """
        key = (
            index,
            tuple(kept.counts.get(name) for name in self.beside[index]),
            tuple(forms[place] for place in self.placed[index]),
        )
        if key not in self.known:
            self.known[key] = self._group_costs(index, kept, forms)
            self.known[key].setflags(write=False)
        return self.known[key]

    def _group_costs(self, index: int, kept: Assignment, forms: Sequence[int]) -> Array:
        name, ladder = self.groups[index], self.ladders[index]
        total = np.zeros(len(ladder))
        for layer in self.touched[index]:
            place = self.place.get(layer, -1)
            form = self.candidates[place].form(forms[place]) if place >= 0 else None
            total += self.cost.along(layer, name, ladder, kept, form, self.unit)
        return total

    def uniform(self) -> Iterator[State]:
        """Yield states in which each layer has the least error within one share of its cost, for decreasing shares."""
        mixed = bool(self.sites)
        for share in np.linspace(1.0, 0.01, _UNIFORM_STEPS):
            wanted = _UNIFORM_KEEP if mixed and share < 1 else share
            counts = tuple(int(np.argmin(np.abs(ladder - wanted * ladder[0]))) for ladder in self.ladders)
            kept = self.counted(counts)
            forms = []
            for index, name in enumerate(self.sites):
                full = self.costs_of(index, *self.cost.channels(name))[0]
                costs = self.costs_of(index, *self.cost.channels(name, kept))
                fitting = np.flatnonzero(costs <= share * full)
                errors = self.candidates[index].error
                forms.append(int(fitting[np.argmin(errors[fitting])]) if len(fitting) else int(np.argmin(costs)))
            yield counts, tuple(forms)


def _swapped(total: float, costs: Array, limit: float, error: float, errors: Array, now: int) -> Array:
    """Return the total error with each choice in place of `now`; infinite if the total cost exceeds the limit."""
    return np.where(total - costs[now] + costs <= limit, error - errors[now] + errors, np.inf)
