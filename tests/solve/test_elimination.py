"""Contracts of the elimination and of the error curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import Regression, SelectOptions, error_curve, kept_columns, obs, removal_order
from onnxprune.solve.problem import dead_units

from .helpers import brute_force_error, make_case, moments_of

seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, outputs=st.integers(1, 5), kernel=st.integers(1, 3))
def test_the_curve_is_the_error_of_the_refit_at_every_count(seed: int, outputs: int, kernel: int) -> None:
    cases = [make_case(seed, outputs=outputs, kernel=kernel), make_case(seed + 1, outputs=3, kernel=1)]
    done = obs([case.problem for case in cases], 6)
    assert sorted(done.order) == list(range(6))
    for count in range(7):
        kept = done.order[count:]
        wanted = sum(brute_force_error(case, kept_columns(case.problem, kept)) for case in cases)
        assert done.curve[count] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_obs_removes_the_cheapest_unit_each_time(seed: int) -> None:
    case = make_case(seed, noise=1.0)
    order = obs([case.problem], case.units).order
    for step in range(case.units - 1):
        left = order[step:]
        costs = [brute_force_error(case, kept_columns(case.problem, left[left != unit])) for unit in left]
        assert costs[0] <= min(costs) + 1e-6


@settings(deadline=None, max_examples=20)
@given(seed=seeds, selector=st.sampled_from(["obs", "lasso", "magnitude", "random"]))
def test_the_curve_never_falls_and_starts_at_nothing_for_an_exact_layer(seed: int, selector: str) -> None:
    case = make_case(seed)
    exact = case.problem.moments.with_response(case.problem.weight, case.problem.bias)
    problem = Regression(exact, case.problem.weight, case.problem.bias, case.problem.unit)
    curve = error_curve([problem], removal_order([problem], case.units, SelectOptions(selector=selector)))
    assert np.all(np.diff(curve) >= 0)
    assert curve[0] == pytest.approx(0, abs=1e-6)
    assert curve[-1] == pytest.approx(1, abs=1e-6)


def doctored(seed: int, source: int | None, target: int) -> Regression:
    """Unit ``target`` is a copy of ``source``, or constant where that is None."""
    case = make_case(seed)
    x = case.x.copy()
    into = kept_columns(case.problem, [target])
    x[:, into] = 3.0 if source is None else x[:, kept_columns(case.problem, [source])]
    y = (x @ case.problem.weight.T).astype(np.float32)
    return Regression(moments_of(x, y, case.half), case.problem.weight, case.problem.bias, case.problem.unit)


@settings(deadline=None, max_examples=15)
@given(seed=seeds, unit=st.integers(0, 5))
def test_a_dead_unit_goes_first_and_costs_nothing(seed: int, unit: int) -> None:
    problem = doctored(seed, None, unit)
    done = obs([problem], 6)
    assert list(np.flatnonzero(dead_units([problem], 6))) == [unit]
    assert done.order[0] == unit
    assert done.curve[1] == done.curve[0]


@settings(deadline=None, max_examples=15)
@given(seed=seeds, unit=st.integers(1, 5))
def test_one_of_two_copies_goes_first_and_costs_nothing(seed: int, unit: int) -> None:
    done = obs([doctored(seed, 0, unit)], 6)
    assert done.order[0] in (0, unit)
    assert done.curve[1] < 1e-5
    assert done.curve[2] > 1e-4


def test_columns_of_no_unit_always_stay() -> None:
    case = make_case(1)
    unit = np.where(case.problem.unit >= 4, -1, case.problem.unit)
    problem = Regression(case.problem.moments, case.problem.weight, case.problem.bias, unit)
    curve = obs([problem], 4).curve
    assert curve[-1] == pytest.approx(brute_force_error(case, np.arange(8, 12)), abs=1e-6)


def test_units_may_own_different_numbers_of_columns() -> None:
    case = make_case(2)
    unit = np.array([2, 0, 0, 0, 1, 2, 3, 3, 3, 3, -1, 1])
    problem = Regression(case.problem.moments, case.problem.weight, case.problem.bias, unit)
    done = obs([problem], 5)
    assert sorted(done.order) == [0, 1, 2, 3, 4]
    for count in range(6):
        wanted = brute_force_error(case, kept_columns(problem, done.order[count:]))
        assert done.curve[count] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_prefix_of_an_order_gives_a_prefix_of_the_curve() -> None:
    case = make_case(4)
    order = np.array([3, 1, 5, 0, 2, 4])
    whole = error_curve([case.problem], order)
    np.testing.assert_allclose(error_curve([case.problem], order[:3]), whole[:4], atol=1e-7)


def test_a_consumer_that_matters_more_decides_more() -> None:
    one, two = make_case(11).problem, make_case(12).problem
    heavy = Regression(one.moments, one.weight, one.bias, one.unit, sensitivity=1e9)
    np.testing.assert_array_equal(obs([heavy, two], 6).order, obs([one], 6).order)


def test_a_consumer_that_never_varies_has_no_say() -> None:
    case = make_case(13)
    silent = case.problem.moments.with_response(np.zeros((4, 12)), np.ones(4))
    problem = Regression(silent, np.zeros((4, 12)), np.ones(4), case.problem.unit)
    together = obs([case.problem, problem], 6)
    np.testing.assert_array_equal(together.order, obs([case.problem], 6).order)


@pytest.mark.parametrize("unit", range(3))
def test_batches_never_take_both_copies_of_a_unit(unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.solve.elimination._ONE_BY_ONE_UNITS", 0)
    monkeypatch.setattr("onnxprune.solve.elimination._BATCH_SHARE", 0.1)
    case = make_case(unit, units=40, kernel=1, samples=600)
    x = case.x.copy()
    x[:, 20:] = x[:, :20]
    y = (x @ case.problem.weight.T).astype(np.float32)
    problem = Regression(moments_of(x, y, case.half), case.problem.weight, case.problem.bias, case.problem.unit)
    done = obs([problem], 40)
    assert sorted(done.order[:20] % 20) == list(range(20))
    assert done.curve[20] < 1e-5


def test_batches_lose_little_against_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(0, units=60, samples=1000)
    alone = obs([case.problem], 60).curve
    monkeypatch.setattr("onnxprune.solve.elimination._ONE_BY_ONE_UNITS", 0)
    monkeypatch.setattr("onnxprune.solve.elimination._BATCH_SHARE", 0.05)
    together = obs([case.problem], 60).curve
    assert np.all(together <= 1.05 * alone + 1e-6)
