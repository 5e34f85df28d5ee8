"""Residual branches that may go whole, among all that may be done."""

from __future__ import annotations

import numpy as np
import pytest
from graph.families import FAMILIES, SIDE
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.planning import PlanOptions
from onnxprune.planning import explain, search
from onnxprune.planning.candidates import cheaper_sizes
from onnxprune.planning.cost import cost_model
from onnxprune.planning.sensitivity import PredictedErrors, Sensitivity
from onnxprune.planning.space import Space
from onnxprune.steps.eligible import eligible_branches

from .helpers import assigned, candidates_of, costs, digits, predicted
from .test_search import check_changes

COST = costs("resnet")
BRANCHES = tuple(sorted(COST.branches))
NONE = Sensitivity({}, {})


def drawn(seed: int):
    """Falling error curves, and forms of all convs in branches."""
    rng = np.random.default_rng(seed)
    curves = {name: np.linspace(0, 1, size + 1) ** 3 * rng.random() for name, size in COST.sizes.items()}
    candidates = {}
    for name in sorted({node for branch in COST.branches.values() for node in branch.nodes} & set(COST.layers)):
        shape = COST.layers[name].shape
        inputs, outputs = COST.channels(name)
        ranks = cheaper_sizes(shape, inputs, outputs, 8, "macs", spatial=None, first=0)
        scale = rng.random()
        entries = [(Form(rank), float(np.exp(-rank / 20) * scale)) for rank in ranks]
        candidates[name] = candidates_of(entries).useful(shape, inputs, outputs, "macs")
    return curves, candidates


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), tight=st.floats(1.2, 30), loose=st.floats(1.2, 30))
def test_more_budget_is_never_worse_and_budgets_are_kept(seed, tight, loose) -> None:
    curves, candidates = drawn(seed)
    found = {
        speedup: search(
            COST,
            PredictedErrors(curves, candidates),
            BudgetOptions(macs=1 / speedup).budget(),
            align=8,
            droppable=BRANCHES,
        )
        for speedup in (tight, loose)
    }
    for speedup, choice in found.items():
        assert COST.macs(choice) * speedup <= COST.macs() * (1 + 1e-9)
        inside = {node for name in BRANCHES if not choice.counts[name] for node in COST.branches[name].nodes}
        assert not inside & set(choice.forms)
        assert all(choice.counts[name] > 0 for name in COST.sizes if name not in BRANCHES)
    errors = {
        speedup: predicted(COST, choice, PredictedErrors(curves, candidates)) for speedup, choice in found.items()
    }
    assert errors[min(found)] <= errors[max(found)] + 1e-9


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), left=st.floats(0.1, 0.8))
def test_a_budget_in_parameters_is_kept(seed, left) -> None:
    curves, candidates = drawn(seed)
    choice = search(
        COST, PredictedErrors(curves, candidates), BudgetOptions(params=left).budget(), align=8, droppable=BRANCHES
    )
    assert COST.params(choice) <= left * COST.params()


@pytest.mark.parametrize("recipe", ["prune", "3c"])
def test_what_costs_nothing_to_lose_goes_first_and_only_where_it_may(recipe) -> None:
    curves, candidates = drawn(0)
    idle = BRANCHES[1]
    curves[idle] = np.zeros_like(curves[idle])

    def planned(droppable):
        budget = BudgetOptions(macs="1.5x").budget()
        forms = {} if recipe == "prune" else candidates
        return search(COST, PredictedErrors(curves, forms), budget, align=8, droppable=droppable).counts

    assert [name for name, count in planned(BRANCHES).items() if not count] == [idle]
    assert all(planned(()).values())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), speedup=st.floats(3, 40))
def test_explanations_add_up(seed, speedup) -> None:
    curves, candidates = drawn(seed)
    choice = search(
        COST, PredictedErrors(curves, candidates), BudgetOptions(macs=1 / speedup).budget(), align=8, droppable=BRANCHES
    )
    found = explain(COST, PredictedErrors(curves, candidates, NONE), choice, "macs", 8, BRANCHES)
    assert sum(reason.chosen.damage for reason in found.reasons) == pytest.approx(
        predicted(COST, choice, PredictedErrors(curves, candidates))
    )
    said = {reason.name: reason.chosen.what for reason in found.reasons if reason.name in choice.counts}
    for name, count in choice.counts.items():
        assert (said[name] == "branch removed") == (count == 0)
    assert any(count == 0 for count in choice.counts.values()) or speedup < 20


def test_no_branch_goes_of_which_a_layer_is_to_stay() -> None:
    _, channels = digits("resnet")

    def named(include=(), exclude=()):
        return eligible_branches(channels, COST.branches.values(), PlanOptions(include=include, exclude=exclude))

    assert named() == set(BRANCHES)
    for name, branch in COST.branches.items():
        assert named(exclude=branch.ends) == set(BRANCHES) - {name}
        assert named(exclude=(name,)) == set(BRANCHES) - {name}
        assert not named(include=branch.ends)
        assert named(include=(name, *branch.ends)) == {name}


def test_what_goes_costs_nothing_in_any_unit() -> None:
    for name, branch in COST.branches.items():
        keep = assigned({name: 0})
        for unit in ("macs", "params"):
            by_layer = COST.layer_costs(keep, unit)
            assert all(by_layer[node] == 0 for node in branch.nodes & set(COST.layers))
        assert COST.layer_axes(branch.ends[0], keep) == (0, 0, 0, 0)
        forms = {branch.ends[0]: Form(4)}
        assert COST.simplified(assigned({}, forms), "macs").forms == forms
        assert COST.simplified(assigned({name: 0}, forms), "macs").forms == {}


class Flat:
    """A clock by which every layer takes a millisecond, whatever its size."""

    def ms(self, parts, inputs, outputs):
        return np.ones(np.broadcast_shapes(np.shape(inputs), np.shape(outputs), (parts.shape[1],)))


def test_under_a_clock_that_knows_no_width_only_whole_branches_save_time() -> None:
    timed = COST.timed(dict.fromkeys(COST.layers, Flat()), 0.0)
    curves, _ = drawn(1)
    budget = BudgetOptions(speedup=1.2).budget()
    choice = search(timed, PredictedErrors(curves, {}), budget, align=8, droppable=BRANCHES)
    gone = [name for name, count in choice.counts.items() if not count]
    assert gone
    assert timed.latency(choice) <= timed.latency() / 1.2
    layers = {node for name in gone for node in COST.branches[name].nodes} & set(COST.layers)
    assert timed.latency(choice) == len(COST.layers) - len(layers)
    with pytest.raises(PlanError, match="out of reach"):
        search(timed, PredictedErrors(curves, {}), budget, align=8)


def test_groups_inside_a_branch_that_goes_are_left_alone() -> None:
    net, _ = fold(load(FAMILIES["resnet_bottleneck"]())[0])
    channels = channel_map(net)
    cost = cost_model(net, channels, {net.input_names[0]: (1, 3, SIDE, SIDE)})
    curves = {name: np.linspace(0, 1, size + 1) ** 2 for name, size in cost.sizes.items()}
    droppable = tuple(cost.branches)
    keep = search(
        cost, PredictedErrors(curves, {}), BudgetOptions(macs="9x").budget(), align=4, droppable=droppable
    ).counts
    gone = [name for name, count in keep.items() if not count]
    assert gone
    assert cost.macs(assigned(keep)) * 9 <= cost.macs()
    for name in gone:
        assert cost.branches[name].inner
        assert all(keep[inner] == cost.sizes[inner] for inner in cost.branches[name].inner)
    found = explain(cost, PredictedErrors(curves, {}, NONE), assigned(keep), "macs", 4, droppable)
    inner = {name for group in gone for name in cost.branches[group].inner}
    assert {reason.name for reason in found.reasons} == set(keep) - inner


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_a_branch_that_is_removed_takes_the_errors_inside_it_along(seed, data) -> None:
    curves, candidates = drawn(seed)
    space = Space(COST, PredictedErrors(curves, candidates), "macs", 8, BRANCHES)
    counts = tuple(data.draw(st.integers(0, len(ladder) - 2)) for ladder in space.ladders)
    check_changes(space, (counts, tuple(data.draw(st.integers(0, len(of) - 1)) for of in space.candidates)))
