"""Contracts of the elimination."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.options.solve import SelectOptions
from onnxprune.solve import Regression, kept_columns, removal_order
from onnxprune.solve.problem import dead_units

from .helpers import Case, brute_force_error, make_case, moments_of

seeds = st.integers(0, 10_000)


def order_of(problems: list[Regression], units: int) -> np.ndarray:
    return removal_order(problems, units, SelectOptions())


def left_over(case: Case, unit: np.ndarray, gone: np.ndarray) -> float:
    """Error of a refit without some units."""
    return brute_force_error(case, np.flatnonzero(~np.isin(unit, gone)))


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_obs_removes_the_cheapest_unit_each_time(seed: int) -> None:
    case = make_case(seed, noise=1.0)
    order = order_of([case.problem], case.units)
    for step in range(case.units - 1):
        left = order[step:]
        costs = [brute_force_error(case, kept_columns(case.problem, left[left != unit])) for unit in left]
        assert costs[0] <= min(costs) + 1e-6


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
def test_a_dead_unit_goes_first(seed: int, unit: int) -> None:
    problem = doctored(seed, None, unit)
    assert list(np.flatnonzero(dead_units([problem], 6))) == [unit]
    assert order_of([problem], 6)[0] == unit


@settings(deadline=None, max_examples=15)
@given(seed=seeds, unit=st.integers(1, 5))
def test_one_of_two_copies_goes_first(seed: int, unit: int) -> None:
    assert order_of([doctored(seed, 0, unit)], 6)[0] in (0, unit)


def test_units_may_own_different_numbers_of_columns() -> None:
    case = make_case(2)
    unit = np.array([2, 0, 0, 0, 1, 2, 3, 3, 3, 3, -1, 1])
    problem = Regression(case.problem.moments, case.problem.weight, case.problem.bias, unit)
    order = order_of([problem], 5)
    assert sorted(order) == [0, 1, 2, 3, 4]
    for step in range(4):
        costs = [left_over(case, unit, [*order[:step], other]) for other in order[step:]]
        assert costs[0] <= min(costs) + 1e-6


def test_a_consumer_that_never_varies_has_no_say() -> None:
    case = make_case(13)
    silent = case.problem.moments.with_response(np.zeros((4, 12)), np.ones(4))
    problem = Regression(silent, np.zeros((4, 12)), np.ones(4), case.problem.unit)
    np.testing.assert_array_equal(order_of([case.problem, problem], 6), order_of([case.problem], 6))


@pytest.mark.parametrize("unit", range(3))
def test_batches_never_take_both_copies_of_a_unit(unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.solve.elimination._ONE_BY_ONE_UNITS", 0)
    monkeypatch.setattr("onnxprune.solve.elimination._BATCH_SHARE", 0.1)
    case = make_case(unit, units=40, kernel=1, samples=600)
    x = case.x.copy()
    x[:, 20:] = x[:, :20]
    y = (x @ case.problem.weight.T).astype(np.float32)
    problem = Regression(moments_of(x, y, case.half), case.problem.weight, case.problem.bias, case.problem.unit)
    assert sorted(order_of([problem], 40)[:20] % 20) == list(range(20))


def test_batches_lose_little_against_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(0, units=60, samples=1000)
    alone = order_of([case.problem], 60)
    monkeypatch.setattr("onnxprune.solve.elimination._ONE_BY_ONE_UNITS", 0)
    monkeypatch.setattr("onnxprune.solve.elimination._BATCH_SHARE", 0.05)
    together = order_of([case.problem], 60)
    unit = case.problem.unit
    for gone in range(0, 60, 6):
        assert left_over(case, unit, together[:gone]) <= 1.05 * left_over(case, unit, alone[:gone]) + 1e-6
