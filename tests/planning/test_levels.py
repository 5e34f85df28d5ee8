"""Levels of groups, and the search for counts alone: legal, within the budget, never more error for more of it."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import PlanError
from onnxprune.options.budget import Budget
from onnxprune.options.planning import Allocation
from onnxprune.planning import levels, search
from onnxprune.planning.cost import CostModel
from onnxprune.planning.sensitivity import PredictedErrors

from .helpers import assigned, costs

Array = np.ndarray[Any, Any]
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
UNITS: tuple[Literal["macs", "params"], ...] = ("macs", "params")
MODELS = ("vgg", "resnet")

seeds = st.integers(0, 10_000)
fractions = st.floats(0.2, 0.99)
aligns = st.sampled_from([1, 4, 6, 8, 16])


def budget_of(unit: Literal["macs", "params"], fraction: float) -> Budget:
    return Budget(unit, fraction, f"{fraction:.4g} of the {unit}")


def allocate(cost: CostModel, curves: dict[str, Array], budget: Budget, **options: Any) -> dict[str, int]:
    """Channels to keep where no layer may take another form."""
    choice = search(cost, PredictedErrors(curves, {}), budget, **options)
    assert not choice.forms
    return dict(choice.counts)


def random_curves(model: str, seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {
        name: np.concatenate([[0.0], np.cumsum(generator.exponential(generator.uniform(0.01, 10), size))])
        for name, size in costs(model).sizes.items()
    }


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2048), st.integers(1, 64))
def test_levels_fall_from_the_whole_group_to_at_least_one_channel(size: int, align: int) -> None:
    found = levels(size, align)
    assert found[0] == size
    assert found[-1] >= 1
    assert all(left > right for left, right in itertools.pairwise(found))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2048), st.integers(1, 64))
def test_levels_below_the_whole_are_multiples_of_one_step_the_alignment_where_there_is_room(
    size: int, align: int
) -> None:
    found = levels(size, align)
    step = found[-1]
    assert all(level % step == 0 for level in found[1:])
    if align == 1 or size // align >= 3:
        assert found == (size, *(k for k in range(size - 1, 0, -1) if k % align == 0))
    elif size > 1:
        assert step < align
        assert step & (step - 1) == 0
        assert size // step >= min(3, size)
        assert 2 * step >= align or size // (2 * step) < 3


def test_a_group_of_one_channel_has_one_level() -> None:
    assert levels(1, 16) == (1,)


@settings(max_examples=10, deadline=None)
@given(seeds, fractions, aligns, st.sampled_from(MODELS))
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_what_is_kept_is_legal_and_within_the_budget(
    allocation: Allocation, unit: str, seed: int, fraction: float, align: int, model: str
) -> None:
    cost = costs(model)
    curves = random_curves(model, seed)
    keep = allocate(cost, curves, budget_of(unit, fraction), allocation=allocation, align=align)
    total = cost.macs if unit == "macs" else cost.params
    assert total(assigned(keep)) <= fraction * total()
    assert set(keep) == set(curves)
    assert all(count in levels(cost.sizes[name], align) for name, count in keep.items())


def error_of(curves: dict[str, Array], keep: dict[str, int]) -> float:
    return float(sum(curve[len(curve) - 1 - keep[name]] for name, curve in curves.items()))


@settings(max_examples=10, deadline=None)
@given(seeds, fractions, fractions, aligns, st.sampled_from(MODELS))
@pytest.mark.parametrize("unit", [*UNITS, "keep-ratio"])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_larger_budget_never_ends_with_more_error(
    allocation: Allocation, unit: str, seed: int, one: float, other: float, align: int, model: str
) -> None:
    curves = random_curves(model, seed)
    less, more = (
        allocate(costs(model), curves, budget_of(unit, fraction), allocation=allocation, align=align)
        for fraction in sorted((one, other))
    )
    assert error_of(curves, more) <= error_of(curves, less) * (1 + 1e-9)
    if unit == "keep-ratio":
        assert all(more[name] >= count for name, count in less.items())


def plain_greedy(model: str, curves: dict[str, Array], fraction: float, align: int) -> dict[str, int]:
    """Always the cheapest move, until the budget is kept."""
    cost = costs(model)
    keep = {name: cost.sizes[name] for name in curves}

    def price(name: str) -> float:
        to = max((rung for rung in levels(cost.sizes[name], align) if rung < keep[name]), default=0)
        if not to:
            return np.inf
        added = curves[name][cost.sizes[name] - to] - curves[name][cost.sizes[name] - keep[name]]
        return float(added / (cost.macs(assigned(keep)) - cost.macs(assigned({**keep, name: to}))))

    while cost.macs(assigned(keep)) > fraction * cost.macs():
        name = min(keep, key=price)
        keep[name] = max(rung for rung in levels(cost.sizes[name], align) if rung < keep[name])
    return keep


@pytest.mark.parametrize("model", MODELS)
def test_the_answer_is_seldom_worse_than_that_of_the_plain_descent_and_often_better(model: str) -> None:
    ratios = []
    for seed, fraction, align in itertools.product(range(10), (0.3, 0.6, 0.9), (8, 16)):
        curves = random_curves(model, seed)
        keep = allocate(costs(model), curves, budget_of("macs", fraction), align=align)
        ratios.append(error_of(curves, keep) / error_of(curves, plain_greedy(model, curves, fraction, align)))
    assert np.mean(np.array(ratios) > 1 + 1e-9) < 0.2
    assert max(ratios) < 1.25
    assert min(ratios) < 0.9


@pytest.mark.parametrize("value", [np.nan, 0.0])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("unit", UNITS)
def test_curves_that_say_nothing_still_end_within_the_budget(unit: str, allocation: Allocation, value: float) -> None:
    cost = costs("vgg")
    curves = {name: np.full(size + 1, value) for name, size in cost.sizes.items()}
    for curve in curves.values():
        curve[0] = 0.0
    keep = allocate(cost, curves, budget_of(unit, 0.5), allocation=allocation)
    total = cost.macs if unit == "macs" else cost.params
    assert total(assigned(keep)) <= 0.5 * total()


@settings(max_examples=5, deadline=None)
@given(seeds, fractions)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_same_question_has_the_same_answer(allocation: Allocation, seed: int, fraction: float) -> None:
    curves = random_curves("vgg", seed)
    first, again = (
        allocate(costs("vgg"), asked, budget_of("macs", fraction), allocation=allocation)
        for asked in (curves, dict(curves))
    )
    assert first == again


@pytest.mark.parametrize("unit", UNITS)
def test_uniform_leaves_all_groups_within_one_channel_of_a_common_ratio(unit: str) -> None:
    cost = costs("vgg")
    keep = allocate(cost, random_curves("vgg", 0), budget_of(unit, 0.4), allocation="uniform")
    ratios = [count / cost.sizes[name] for name, count in keep.items()]
    assert max(ratios) - min(ratios) <= 1 / min(cost.sizes.values()) + 1e-12


def test_greedy_takes_from_the_group_that_costs_nothing_and_spares_the_one_that_costs_all() -> None:
    cost = costs("vgg")
    curves = {name: np.linspace(0.0, 1.0, size + 1) for name, size in cost.sizes.items()}
    cheap, dear = "stage2.conv1", "stage2.conv2"
    curves[cheap], curves[dear] = curves[cheap] * 1e-9, curves[dear] * 1e9
    keep = allocate(cost, curves, budget_of("macs", 0.8))
    assert keep[cheap] < cost.sizes[cheap]
    assert keep[dear] == cost.sizes[dear]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_keep_ratio_takes_the_nearest_level_of_every_group(fraction: float) -> None:
    cost = costs("vgg")
    keep = allocate(cost, random_curves("vgg", 0), budget_of("keep-ratio", fraction), align=8)
    for name, count in keep.items():
        rungs = levels(cost.sizes[name], 8)
        assert abs(count - fraction * rungs[0]) == min(abs(rung - fraction * rungs[0]) for rung in rungs)


def test_groups_without_a_curve_keep_all_of_their_channels() -> None:
    curves = random_curves("vgg", 0)
    del curves["stage2.conv1"]
    assert "stage2.conv1" not in allocate(costs("vgg"), curves, budget_of("macs", 0.6))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_budget_out_of_reach_says_what_is_in_reach(allocation: Allocation, unit: str) -> None:
    cost = costs("vgg")
    curves = {"fc1": np.linspace(0, 1, cost.sizes["fc1"] + 1)}
    with pytest.raises(PlanError, match="out of reach") as caught:
        allocate(cost, curves, budget_of(unit, 0.3), allocation=allocation)
    said = re.search(r"([\d.]+)% of the (MACs|parameters) remain", str(caught.value))
    assert said is not None
    assert said[2] == {"macs": "MACs", "params": "parameters"}[unit]
    assert "\n" not in str(caught.value)
    reachable = float(said[1]) / 100 + 0.001
    assert allocate(cost, curves, budget_of(unit, reachable), allocation=allocation)["fc1"] >= 1


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_without_groups_every_budget_is_out_of_reach(kind: str) -> None:
    with pytest.raises(PlanError, match=r"out of reach: .* 100\.0%"):
        allocate(costs("vgg"), {}, budget_of(kind, 0.5))
