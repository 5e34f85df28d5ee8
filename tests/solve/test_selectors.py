"""Contracts of the selectors, against scikit-learn on the explicit samples where it can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from onnxprune.errors import UsageError
from onnxprune.options.solve import LassoVariant, SelectOptions, Selector
from onnxprune.solve import (
    SELECTORS,
    Regression,
    channel_quadratic,
    coordinate_descent,
    kept_columns,
    removal_order,
    select,
)
from onnxprune.solve.lasso import LASSO_VARIANTS, _by_search
from onnxprune.solve.quadratic import sum_quadratics

from .helpers import Case, brute_force_error, make_case, moments_of

seeds = st.integers(0, 10_000)
ALL = [SelectOptions(selector=name) for name in SELECTORS] + [
    SelectOptions(selector="lasso", lasso=variant) for variant in LASSO_VARIANTS
]


def test_the_tables_hold_every_name() -> None:
    assert set(SELECTORS) == set(get_args(Selector))
    assert set(LASSO_VARIANTS) == set(get_args(LassoVariant))


def explicit_lasso(case: Case, alpha: float) -> np.ndarray:
    """Coefficients of scikit-learn's Lasso on the matrix of all channels' responses."""
    x = case.x.astype(np.float64)
    x -= x.mean(axis=0)
    y = case.y.astype(np.float64)
    y -= y.mean(axis=0)
    responses = np.stack([x[:, columns] @ case.problem.weight[:, columns].T for columns in _blocks(case)], axis=-1)
    power = np.square(y).sum(axis=1).mean()
    # scikit-learn divides by all n * o rows, the objective here by n and by the power.
    solver = Lasso(alpha=alpha * power / y.shape[1], fit_intercept=False, tol=1e-10, max_iter=100_000)
    return solver.fit(responses.reshape(-1, case.units), y.reshape(-1)).coef_


def _blocks(case: Case) -> list[np.ndarray]:
    return [np.flatnonzero(case.problem.unit == unit) for unit in range(case.units)]


@settings(deadline=None, max_examples=20)
@given(seed=seeds, share=st.floats(0.01, 0.9))
def test_coordinate_descent_on_moments_is_the_lasso_on_the_samples(seed: int, share: float) -> None:
    case = make_case(seed)
    quadratic = sum_quadratics([case.problem], [case.problem.weight], case.units)
    alpha = share * quadratic.alpha_max
    np.testing.assert_allclose(coordinate_descent(quadratic)(alpha), explicit_lasso(case, alpha), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, keep=st.integers(1, 5))
def test_the_path_keeps_what_the_lasso_on_the_samples_keeps(seed: int, keep: int) -> None:
    case = make_case(seed)
    options = SelectOptions(selector="lasso", lasso="path", rank_tol=0.0)
    chosen = select([case.problem], case.units, keep, options)
    # The penalty is the very one at which the next unit enters, so rounding may let it in.
    coefficients = np.abs(explicit_lasso(case, chosen.alpha))
    assert len(chosen.kept) == keep
    assert set(np.flatnonzero(coefficients > 1e-4)) <= set(chosen.kept)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, lasso_alpha=st.floats(1e-3, 0.5))
def test_the_fixed_penalty_finds_the_count_of_the_lasso_on_the_samples(seed: int, lasso_alpha: float) -> None:
    case = make_case(seed)
    options = SelectOptions(selector="lasso", lasso="fixed", lasso_alpha=lasso_alpha, layer_alpha=0.5)
    chosen = select([case.problem], case.units, None, options)
    assert chosen.alpha == pytest.approx(lasso_alpha / case.units**0.5)
    coefficients = np.abs(explicit_lasso(case, chosen.alpha))
    certain = (coefficients > 1e-4) | (coefficients < 1e-7)
    kept = np.isin(np.arange(case.units), chosen.kept)
    np.testing.assert_array_equal(kept[certain], (coefficients > 1e-4)[certain])


@settings(deadline=None, max_examples=10)
@given(seed=seeds, keep=st.integers(1, 15))
def test_bisection_finds_what_the_path_finds(seed: int, keep: int) -> None:
    case = make_case(seed, units=16, samples=600)
    options = SelectOptions(selector="lasso", rank_tol=0.0)
    quadratic = sum_quadratics([case.problem], [case.problem.weight], case.units)
    found = _by_search(quadratic, keep, options)
    np.testing.assert_array_equal(found.kept, select([case.problem], case.units, keep, options).kept)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, keep=st.integers(0, 6), options=st.sampled_from(ALL))
def test_every_selector_keeps_exactly_what_was_asked(seed: int, keep: int, options: SelectOptions) -> None:
    case = make_case(seed)
    problems = [case.problem, make_case(seed + 1, kernel=1).problem]
    kept = select(problems, case.units, keep, options).kept
    assert kept.dtype == np.int64
    assert len(np.unique(kept)) == keep
    assert np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(kept, select(problems, case.units, keep, options).kept)


@pytest.mark.parametrize("options", ALL, ids=lambda options: f"{options.selector}-{options.lasso}")
def test_nothing_but_copies_and_dead_units_still_gives_the_count(options: SelectOptions) -> None:
    case = make_case(0)
    x = np.tile(case.x[:, :2], (1, 6))
    x[:, 6:] = 0
    moments = moments_of(x, case.y, case.half)
    problem = Regression(moments, case.problem.weight, case.problem.bias, case.problem.unit)
    for keep in range(7):
        assert len(select([problem], 6, keep, options).kept) == keep


@settings(deadline=None, max_examples=20)
@given(seed=seeds, power_x=st.integers(-4, 4), power_y=st.integers(-4, 4), options=st.sampled_from(ALL))
def test_units_of_measurement_change_no_choice(seed: int, power_x: int, power_y: int, options: SelectOptions) -> None:
    case = make_case(seed)
    moments = case.problem.moments
    scaled = replace(case.problem, moments=type(moments)(*(scale_part(p, power_x, power_y) for p in parts(case))))
    scaled = replace(scaled, weight=case.problem.weight * 10.0 ** (power_y - power_x))
    np.testing.assert_array_equal(
        select([case.problem], case.units, 3, options).kept, select([scaled], case.units, 3, options).kept
    )


def parts(case: Case):
    return case.problem.moments.even, case.problem.moments.odd


def scale_part(part, power_x: int, power_y: int):
    sx, sy = 10.0**power_x, 10.0**power_y
    return replace(
        part,
        mean_x=part.mean_x * sx,
        mean_y=part.mean_y * sy,
        gram=part.gram * sx * sx,
        cross=part.cross * sx * sy,
        power=part.power * sy * sy,
        fourth=part.fourth * sx**4,
    )


def test_a_first_guess_is_beaten_by_both_published_and_default_selectors() -> None:
    case = make_case(3, units=32, outputs=8, samples=2000)
    chosen = {name: select([case.problem], 32, 12, SelectOptions(selector=name)).kept for name in SELECTORS}
    chosen["first 12"], chosen["any 12"] = np.arange(12), np.sort(np.random.default_rng(0).permutation(32)[:12])
    errors = {name: brute_force_error(case, kept_columns(case.problem, kept)) for name, kept in chosen.items()}
    assert errors["obs"] <= errors["lasso"] * 1.02
    assert max(errors["obs"], errors["lasso"]) < min(errors["first 12"], errors["any 12"])


def test_what_always_answers_is_taken_from_the_response() -> None:
    case = make_case(5, noise=0.0)
    unit = np.where(case.problem.unit >= 3, -1, case.problem.unit)
    quadratic = channel_quadratic(case.problem.moments.total, case.problem.weight, unit, 3)
    np.testing.assert_allclose(np.linalg.solve(quadratic.matrix, quadratic.linear), np.ones(3), rtol=1e-4)


def test_the_order_of_the_lasso_is_nested_in_its_path() -> None:
    case = make_case(7, units=20)
    order = removal_order([case.problem], 20, SelectOptions(selector="lasso"))
    options = SelectOptions(selector="lasso", rank_tol=0.0)
    assert order[-1] in select([case.problem], 20, 1, options).kept
    assert sorted(order) == list(range(20))


def test_only_the_fixed_penalty_finds_its_own_count() -> None:
    case = make_case(8)
    for options in ALL:
        if options.lasso != "fixed":
            with pytest.raises(UsageError, match="number of channels"):
                select([case.problem], case.units, None, options)
    with pytest.raises(ValueError, match="from 0 to 6"):
        select([case.problem], 6, 7, ALL[0])
