"""The search for counts and forms: within the budget, never worse for more of it, no worse than either kind alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import DENSE, Form, LayerShape
from onnxprune.options.budget import BudgetOptions
from onnxprune.planning import search
from onnxprune.planning.candidates import cheaper_sizes
from onnxprune.planning.sensitivity import PredictedErrors
from onnxprune.planning.space import Space

from .helpers import candidates_of, costs, predicted

COST = costs("vgg")
SHAPES = {name: COST.layers[name].shape for name in ("stage1.conv2", "stage2.conv2", "stage3.conv2")}


def drawn(seed: int):
    """Falling error curves for two groups, and forms of two sites."""
    rng = np.random.default_rng(seed)
    curves = {name: np.sort(rng.random(size + 1)) ** 3 for name, size in COST.sizes.items()}
    for curve in curves.values():
        curve[0] = 0
    candidates = {}
    for name, shape in SHAPES.items():
        inputs, outputs = COST.channels(name)
        entries = []
        for first in (0, 1):
            ranks = cheaper_sizes(shape, inputs, outputs, 16, "macs", spatial=None, first=first)
            entries += [(Form(r, first), float(np.exp(-r / 20) * rng.random())) for r in ranks]
            entries += [
                (Form(r, first, d), float(np.exp(-r / 20) + np.exp(-d / 9)) * rng.random())
                for r in ranks
                for d in cheaper_sizes(shape, inputs, outputs, 16, "macs", spatial=r, first=first)
            ]
        widths = cheaper_sizes(shape, inputs, outputs, 16, "macs", spatial=0, first=0)
        entries += [(Form(channel=d), float(np.exp(-d / 9) * rng.random())) for d in widths]
        candidates[name] = candidates_of(entries).useful(shape, inputs, outputs, "macs")
    return curves, candidates


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), tight=st.floats(1.2, 5), loose=st.floats(1.2, 5))
def test_more_budget_is_never_worse_and_budgets_are_kept(seed, tight, loose) -> None:
    curves, candidates = drawn(seed)
    found = {
        s: search(COST, PredictedErrors(curves, candidates), BudgetOptions(macs=1 / s).budget(), align=16)
        for s in (tight, loose)
    }
    for speedup, choice in found.items():
        assert COST.macs(choice) * speedup <= COST.macs() * (1 + 1e-9)
    errors = {
        speedup: predicted(COST, choice, PredictedErrors(curves, candidates)) for speedup, choice in found.items()
    }
    assert errors[min(found)] <= errors[max(found)] + 1e-9


def test_what_the_chain_leaves_of_the_budget_is_spent(monkeypatch) -> None:
    gains = []
    for seed in range(8):
        curves, candidates = drawn(seed)
        found = search(COST, PredictedErrors(curves, candidates), BudgetOptions(macs="2.3x").budget(), align=16)
        with monkeypatch.context() as patched:
            patched.setattr(Space, "near", lambda *_: None)
            chain = search(COST, PredictedErrors(curves, candidates), BudgetOptions(macs="2.3x").budget(), align=16)
        gains.append(
            predicted(COST, chain, PredictedErrors(curves, candidates))
            - predicted(COST, found, PredictedErrors(curves, candidates))
        )
    assert min(gains) >= -1e-9
    assert max(gains) > 1e-4


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_a_budget_in_parameters_is_kept(seed) -> None:
    curves, candidates = drawn(seed)
    choice = search(COST, PredictedErrors(curves, candidates), BudgetOptions(params="40%").budget(), align=16)
    assert COST.params(choice) <= 0.4 * COST.params()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_uniform_gives_every_layer_the_best_form_within_one_share(seed) -> None:
    _, candidates = drawn(seed)
    choice = search(COST, PredictedErrors({}, candidates), BudgetOptions(macs="1.5x").budget(), allocation="uniform")
    chosen, shares = {}, {}
    for name, found in candidates.items():
        costs_of_forms = SHAPES[name].costs(found.parts, *COST.channels(name), "macs")
        shares[name] = costs_of_forms / costs_of_forms[0]
        form = choice.forms.get(name, DENSE)
        chosen[name] = next(i for i in range(len(found)) if found.form(i) == form)
    most = max(shares[name][index] for name, index in chosen.items())
    for name, index in chosen.items():
        assert candidates[name].error[index] <= candidates[name].error[shares[name] <= most].min()


def test_what_is_out_of_reach_is_said_with_what_is_in_reach() -> None:
    _, candidates = drawn(0)
    with pytest.raises(PlanError, match=r"out of reach: .* remain \(\d"):
        search(COST, PredictedErrors({}, candidates), BudgetOptions(macs="100x").budget())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_useful_candidates_get_cheaper_and_worse(seed) -> None:
    _, candidates = drawn(seed)
    for name, found in candidates.items():
        costs = SHAPES[name].costs(found.parts, *COST.channels(name), "macs")
        assert found.form(0).dense
        assert (np.diff(costs) < 0).all()
        assert (np.diff(found.error) > 0).all()


@settings(deadline=None, max_examples=60)
@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    kernel=st.sampled_from([(3, 3), (1, 1), (5, 3), ()]),
    align=st.sampled_from([1, 8]),
)
def test_sizes_to_try_are_cheaper_than_the_layer(inputs, outputs, kernel, align) -> None:
    shape = LayerShape(kernel, 1, 10.0, (12.0,) * len(kernel))
    dense = float(shape.cost(DENSE, inputs, outputs, "macs"))
    for width in cheaper_sizes(shape, inputs, outputs, align, "macs", spatial=0, first=0):
        assert float(shape.cost(Form(channel=width), inputs, outputs, "macs")) < dense
    for first in shape.axes():
        for rank in cheaper_sizes(shape, inputs, outputs, align, "macs", spatial=None, first=first):
            assert float(shape.cost(Form(rank, first), inputs, outputs, "macs")) < dense


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), fraction=st.floats(0.1, 0.95), slack=st.floats(0, 1), data=st.data())
def test_what_is_passed_over_could_not_have_helped(seed, fraction, slack, data) -> None:
    curves, candidates = drawn(seed)
    unit = data.draw(st.sampled_from(["macs", "params"]))
    space = Space(COST, PredictedErrors(curves, candidates), unit, 16)
    counts = tuple(data.draw(st.integers(0, len(ladder) - 1)) for ladder in space.ladders)
    forms = tuple(data.draw(st.integers(0, len(of) - 1)) for of in space.candidates)
    limit = fraction * space.total(space.whole())
    below = space.error((counts, forms)) * (0.5 + slack)
    if not space.promising((counts, forms), limit, below):
        assert space.near((counts, forms), limit, below) is None


def test_an_error_that_falls_as_more_is_removed_is_not_believed() -> None:
    """A held-out curve is noisy: a dip would draw every plan to it, and past it nothing would be worse than in it."""
    curves = {name: np.zeros(size + 1) for name, size in COST.sizes.items()}
    name, size = next(iter(COST.sizes.items()))
    curves[name] = np.linspace(0, 1, size + 1)
    curves[name][-3] = 0.0
    space = Space(COST, PredictedErrors(curves, {}), "macs", 1)
    assert (np.diff(space.curves[space.groups.index(name)]) >= 0).all()
    keep = search(COST, PredictedErrors(curves, {}), BudgetOptions(macs="1.3x").budget()).counts
    assert keep[name] == size


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_the_error_of_one_change_is_the_difference_of_two_states(seed, data) -> None:
    curves, candidates = drawn(seed)
    space = Space(COST, PredictedErrors(curves, candidates), "macs", 16)
    counts = tuple(data.draw(st.integers(0, len(ladder) - 1)) for ladder in space.ladders)
    state = counts, tuple(data.draw(st.integers(0, len(of) - 1)) for of in space.candidates)
    check_changes(space, state)


def check_changes(space: Space, state) -> None:
    """What the search adds up for each change of one group is what the changed state has."""
    for index, now in enumerate(state[0]):
        errors = space._errors(index, state)
        for rung in range(len(errors)):
            after = space._moved(state, index, rung)
            assert space.error(after) - space.error(state) == pytest.approx(errors[rung] - errors[now], abs=1e-9)
