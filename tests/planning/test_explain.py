"""Explanations: they add up to the plan's damage, and a choice that beats the one taken is always dearer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.options.budget import BudgetOptions
from onnxprune.planning import Assignment, explain, search
from onnxprune.planning.sensitivity import PredictedErrors, Sensitivity

from .helpers import assigned, predicted
from .test_search import COST, drawn

NONE = Sensitivity({}, {})


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), speedup=st.floats(1.2, 5))
def test_damages_add_up_and_what_would_be_better_costs_more(seed, speedup) -> None:
    curves, candidates = drawn(seed)
    choice = search(COST, PredictedErrors(curves, candidates), BudgetOptions(macs=1 / speedup).budget(), align=16)
    found = explain(COST, PredictedErrors(curves, candidates, NONE), choice, "macs", 16)
    assert [(r.name, r.chosen.what) for r in found.reasons if r.name in choice.counts][: len(curves)] == [
        (name, f"{kept} of {COST.sizes[name]}" if kept < COST.sizes[name] else f"all {kept}")
        for name, kept in choice.counts.items()
    ]
    assert len(found.reasons) == len(curves) + len(candidates)
    assert sum(r.chosen.damage for r in found.reasons) == pytest.approx(
        predicted(COST, choice, PredictedErrors(curves, candidates))
    )
    for reason in found.reasons:
        other = reason.runner_up
        assert other is not None
        assert other.what != reason.chosen.what
        if reason.margin < -1e-12:
            assert other.cost > reason.chosen.cost


def test_weights_show_and_multiply() -> None:
    curves, _candidates = drawn(3)
    names = list(curves)
    heavy = Sensitivity({names[0]: 16.0, names[1]: 1.0}, {})
    choice = assigned({name: COST.sizes[name] // 2 for name in names})
    found = {r.name: r for r in explain(COST, PredictedErrors(curves, {}, heavy), choice, "macs", 1).reasons}
    first, second = (found[name] for name in names[:2])
    assert first.weight / second.weight == pytest.approx(4)  # the square root, see `Sensitivity`
    assert first.chosen.damage == pytest.approx(first.error * first.weight)
    whole = explain(COST, PredictedErrors(curves, {}, heavy), Assignment(), "macs", 1)
    assert {r.chosen.what for r in whole.reasons} == {f"all {COST.sizes[name]}" for name in names}
    assert all(r.before == r.chosen.cost for r in whole.reasons)


def test_a_network_without_choices_explains_nothing() -> None:
    assert explain(COST, PredictedErrors({}, {}, NONE), Assignment(), "macs", 16).reasons == ()
