"""Contracts of the refits: unchanged layers keep their weights, nothing gets worse than where it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.options.solve import Refit, RefitOptions
from onnxprune.solve import Regression, Samples, decompose, kept_columns, refit, split_columns
from onnxprune.solve.activation import RELU

from .helpers import brute_force_error, make_case, moments_of

seeds = st.integers(0, 10_000)
counts = st.sampled_from([20, 60, 400])
LINEAR = RefitOptions(refit="linear")


def exact(problem: Regression) -> Regression:
    return replace(problem, moments=problem.moments.with_response(problem.weight, problem.bias))


@settings(deadline=None, max_examples=20)
@given(seed=seeds, samples=counts)
def test_the_original_comes_back_when_nothing_has_changed(seed: int, samples: int) -> None:
    problem = exact(make_case(seed, samples=samples).problem)
    solution = refit(problem, np.arange(12), LINEAR)
    np.testing.assert_allclose(solution.weight, problem.weight, rtol=1e-9)
    np.testing.assert_allclose(solution.bias, problem.bias, rtol=1e-9, atol=1e-9)
    assert solution.error < 1e-12


def test_the_original_comes_back_from_sampled_responses_too() -> None:
    problem = make_case(1, noise=0.0, samples=3000).problem
    solution = refit(problem, np.arange(12), LINEAR)
    np.testing.assert_array_equal(solution.weight, problem.weight)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, samples=counts, removed=st.integers(0, 5))
def test_linear_is_never_worse_than_the_original_weights_on_the_other_half(
    seed: int, samples: int, removed: int
) -> None:
    problem = make_case(seed, samples=samples).problem
    columns = kept_columns(problem, np.arange(removed, 6))
    solution = refit(problem, columns, LINEAR)
    moments = problem.moments.columns(columns)
    weight = problem.weight[:, columns]
    rebias = [(weight, part.mean_y - weight @ part.mean_x) for part in (moments.even, moments.odd)]
    power = moments.total.power.sum()
    original = (moments.even.error(*rebias[1]) + moments.odd.error(*rebias[0])) / power
    assert solution.error_even + solution.error_odd <= original * (1 + 1e-9) + 2e-7


@settings(deadline=None, max_examples=15)
@given(seed=seeds)
def test_linear_is_least_squares_when_samples_abound(seed: int) -> None:
    case = make_case(seed, samples=4000)
    columns = kept_columns(case.problem, [0, 2, 3, 5])
    solution = refit(case.problem, columns, LINEAR)
    assert solution.error <= brute_force_error(case, columns) * 1.02 + 1e-6
    assert solution.status == "ok"


def test_few_samples_are_pulled_harder_and_said_aloud() -> None:
    few = refit(make_case(2, samples=30).problem, np.arange(8), LINEAR)
    many = refit(make_case(2, samples=4000).problem, np.arange(8), LINEAR)
    assert few.status == "few samples"
    assert few.ridge >= many.ridge


@pytest.mark.parametrize("name", [name for name in get_args(Refit) if name != "auto"])
def test_the_reported_errors_are_those_of_the_samples(name: str) -> None:
    case = make_case(3)
    columns = kept_columns(case.problem, [1, 2, 4])
    solution = refit(case.problem, columns, RefitOptions(refit=name))
    left = case.y - case.x[:, columns] @ solution.weight.T - solution.bias
    wanted = np.square(left).sum() / np.square(case.y - case.y.mean(axis=0)).sum()
    assert solution.error == pytest.approx(wanted, rel=1e-4)
    assert min(solution.error_even, solution.error_odd) > 0


def test_refits_with_more_freedom_fit_better() -> None:
    case = make_case(4, samples=4000)
    columns = kept_columns(case.problem, [0, 1, 2])
    errors = [refit(case.problem, columns, RefitOptions(refit=name)).error for name in ("linear", "scale-only")]
    weight = case.problem.weight[:, columns]
    total = case.problem.moments.columns(columns).total
    unscaled = total.error(weight, total.mean_y - weight @ total.mean_x) / total.power.sum()
    assert errors[0] <= errors[1] * 1.001
    assert errors[1] <= unscaled
    assert unscaled <= refit(case.problem, columns, RefitOptions(refit="none")).error


def test_scale_only_scales_units_and_leaves_the_rest() -> None:
    case = make_case(5)
    unit = np.where(case.problem.unit == 5, -1, case.problem.unit)
    problem = replace(case.problem, unit=unit)
    columns = kept_columns(problem, [1, 3])
    ratio = refit(problem, columns, RefitOptions(refit="scale-only")).weight / problem.weight[:, columns]
    assert np.ptp(ratio[:, :2]) < 1e-9
    assert np.ptp(ratio[:, 2:4]) < 1e-9
    np.testing.assert_allclose(ratio[:, 4:], 1)


def test_ridge_shrinks_toward_zero() -> None:
    case = make_case(6)
    norms = [
        np.linalg.norm(refit(case.problem, np.arange(12), RefitOptions(refit="ridge", ridge=ridge)).weight)
        for ridge in (0.0, 1e-2, 1.0, 1e6)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-3 * norms[0]


@settings(deadline=None, max_examples=15)
@given(seed=seeds, scale=st.sampled_from([1e-3, 1e3]))
def test_columns_in_other_units_of_measurement_change_the_weights_only(seed: int, scale: float) -> None:
    case = make_case(seed)
    columns = kept_columns(case.problem, [0, 1, 4])
    plain = refit(case.problem, columns, LINEAR)
    factors = np.where(np.arange(12) % 3 == 0, scale, 1.0)

    def rescale(part):
        return replace(
            part,
            mean_x=part.mean_x * factors,
            gram=part.gram * np.outer(factors, factors),
            cross=part.cross * factors[:, None],
            fourth=part.fourth * factors**4,
        )

    moments = case.problem.moments
    scaled = replace(
        case.problem,
        moments=type(moments)(rescale(moments.even), rescale(moments.odd)),
        weight=case.problem.weight / factors,
    )
    again = refit(scaled, columns, LINEAR)
    np.testing.assert_allclose(again.weight * factors[columns], plain.weight, rtol=1e-6, atol=1e-8)
    assert again.error == pytest.approx(plain.error, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "auto", "scale-only"])
@pytest.mark.parametrize("spatial", [False, True])
def test_a_channel_that_wakes_up_once_keeps_its_weights(name: str, spatial: bool) -> None:
    """A weight of 1e5 would answer the error of the one sample in which it says 1e-6."""
    rng = np.random.default_rng(0)
    case = make_case(3, units=8, kernel=4, samples=6000)
    x = case.x.copy()
    rare = case.problem.unit >= 6
    x[:, rare] = 0
    x[77, rare] = 1e-6 * rng.random(rare.sum()).astype(np.float32)
    y = (x @ case.problem.weight.T + case.problem.bias + 0.3 * rng.standard_normal(case.y.shape)).astype(np.float32)
    y[77] += 2
    problem = replace(case.problem, moments=moments_of(x, y, case.half))
    samples = Samples(x, y, case.half) if name == "auto" else None
    options = RefitOptions(refit=name, strengths=(0.0,))
    if spatial and name != "scale-only":
        # Half of V's rows are enough for the six channels that live; the others can only answer to the rare ones.
        split = split_columns(8, (2, 2), 0)
        weight = decompose(problem, np.arange(32), split, 16, None, options, samples).solution.weight
        assert np.abs(weight).max() < 2 * np.abs(problem.weight).max()
    else:
        weight = refit(problem, np.arange(32), options, samples).weight
        np.testing.assert_array_equal(weight[:, rare], problem.weight[:, rare])
    assert not np.array_equal(weight[:, ~rare], problem.weight[:, ~rare])


def test_columns_that_never_vary_do_no_harm() -> None:
    case = make_case(7)
    even, odd = (
        replace(part, gram=part.gram * np.outer(mask, mask), cross=part.cross * mask[:, None])
        for part in (case.problem.moments.even, case.problem.moments.odd)
        for mask in [np.arange(12) > 1.0]
    )
    problem = replace(case.problem, moments=type(case.problem.moments)(even, odd))
    for name in ("linear", "ridge", "scale-only"):
        solution = refit(problem, np.arange(12), RefitOptions(refit=name))
        assert np.isfinite(solution.weight).all()
        assert solution.error < 1


def test_one_half_without_samples_is_said_aloud() -> None:
    case = make_case(8)
    moments = case.problem.moments
    empty = replace(moments.odd, count=0)
    solution = refit(replace(case.problem, moments=type(moments)(moments.even, empty)), np.arange(12), LINEAR)
    assert "not cross-validated" in solution.status


def relu_case(seed: int, samples: int, offset: bool):
    case = make_case(seed, samples=samples, outputs=5)
    shift = np.random.default_rng(seed).standard_normal((samples, 5)).astype(np.float32) if offset else None
    y = case.y - case.y.mean(axis=0) - 1
    target = y if shift is None else y + shift
    problem = replace(case.problem, moments=moments_of(case.x, y, case.half))
    return problem, Samples(case.x, target, case.half, shift)


def behind_relu(samples: Samples, columns: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    shift = 0.0 if samples.offset is None else samples.offset
    response = samples.x[:, columns].astype(np.float64) @ weight.T + bias + shift
    return float(np.square(np.maximum(samples.y, 0) - np.maximum(response, 0)).sum())


@settings(deadline=None, max_examples=30)
@given(seed=seeds, samples=counts, offset=st.booleans(), removed=st.integers(0, 5))
def test_relu_is_never_worse_than_linear_behind_the_relu(seed: int, samples: int, offset: bool, removed: int) -> None:
    problem, rows = relu_case(seed, samples, offset)
    columns = kept_columns(problem, np.arange(removed, 6))
    linear = refit(problem, columns, LINEAR)
    aware = refit(problem, columns, RefitOptions(refit="auto"), rows)
    before = behind_relu(rows, columns, linear.weight, linear.bias)
    after = behind_relu(rows, columns, aware.weight, aware.bias)
    assert after <= before * (1 + 1e-5)
    power = np.square(np.maximum(rows.y, 0) - np.maximum(rows.y, 0).mean(axis=0)).sum()
    assert aware.error == pytest.approx(after / power, rel=1e-3)


@pytest.mark.parametrize("offset", [False, True])
def test_relu_gains_where_half_of_the_responses_are_cut(offset: bool) -> None:
    problem, rows = relu_case(0, 2000, offset)
    columns = kept_columns(problem, [0, 1, 2, 3])
    linear = refit(problem, columns, LINEAR)
    aware = refit(problem, columns, RefitOptions(refit="auto"), rows)
    assert "behind the Relu" in aware.status
    gain = behind_relu(rows, columns, aware.weight, aware.bias) / behind_relu(rows, columns, linear.weight, linear.bias)
    assert gain < 0.97
    again = refit(problem, columns, RefitOptions(refit="auto"), rows)
    np.testing.assert_array_equal(aware.weight, again.weight)


@settings(deadline=None, max_examples=50)
@given(target=st.floats(0, 10, width=32), response=st.floats(-10, 10, width=32), penalty=st.floats(0.01, 10))
def test_z_is_the_cheaper_of_the_two_candidates(target: float, response: float, penalty: float) -> None:
    def cost(z: float) -> float:
        return (target - max(z, 0)) ** 2 + penalty * (z - response) ** 2

    candidates = (min(response, 0), max(0, (penalty * response + target) / (penalty + 1)))
    change = RELU.wanted_change(np.float32([[target]]), np.float32([[response]]), penalty)
    assert cost(response + float(change[0, 0])) == pytest.approx(min(map(cost, candidates)), rel=1e-4, abs=1e-4)


def test_relu_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="needs raw samples"):
        refit(make_case(0).problem, np.arange(12), RefitOptions(refit="auto"))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), rare=st.integers(1, 12))
def test_columns_that_vary_on_one_half_only_do_no_harm_behind_the_relu(seed: int, rare: int) -> None:
    """Sparse features: nothing but rounding is left of their variance on the half that never shows them."""
    rng = np.random.default_rng(seed)
    half = np.arange(400) % 2
    x = np.maximum(rng.standard_normal((400, 48)), 0).astype(np.float32)
    x[:, :rare] = 0
    x[rng.choice(np.flatnonzero(half == 1), rare), np.arange(rare)] = 2 + rng.random(rare)
    weight = rng.standard_normal((8, 48)) / 10
    y = (x @ weight.T).astype(np.float32)
    problem = Regression(moments_of(x, y, half), weight, np.zeros(8), np.arange(48))
    kept = np.arange(40)
    aware = refit(problem, kept, RefitOptions(refit="auto"), Samples(x, y, half))
    linear = refit(problem, kept, RefitOptions(refit="linear"))
    assert np.isfinite(aware.weight).all()
    assert aware.error <= behind(x, y, linear.weight, linear.bias) * (1 + 1e-5)


def behind(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    target, answer = np.maximum(y, 0), np.maximum(x[:, : weight.shape[1]] @ weight.T + bias, 0)
    return float(np.square(answer - target).sum() / np.square(target - target.mean(axis=0)).sum())


def test_the_held_out_error_behind_the_relu_is_that_of_unseen_samples() -> None:
    """Few samples, a strong pull: what is said of the other half must not be better than fresh samples show."""
    said, seen = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((8, 80)) / 9
        x, fresh = (np.maximum(rng.standard_normal((n, 80)), 0).astype(np.float32) for n in (300, 4000))
        y, wanted = (rows @ weight.T + 0.3 * rng.standard_normal((len(rows), 8)) for rows in (x, fresh))
        half = np.arange(300) % 2
        problem = Regression(moments_of(x, y.astype(np.float32), half), 0 * weight, np.zeros(8), np.arange(80))
        samples = Samples(x, y.astype(np.float32), half)
        found = refit(problem, np.arange(80), RefitOptions(refit="auto", strengths=(1.0,)), samples)
        said.append(found.error_odd)
        seen.append(behind(fresh, wanted, found.weight, found.bias))
    assert np.mean(said) > 0.95 * np.mean(seen)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 0.1, 30.0]))
def test_a_ridge_is_relative_to_the_size_of_the_inputs(seed: int, scale: float) -> None:
    """Inputs in other units: the same answers, with weights that are as many times smaller."""
    case = make_case(seed)
    columns = np.arange(case.x.shape[1])
    options = RefitOptions(refit="ridge", ridge=0.1)
    moments = moments_of((scale * case.x).astype(np.float32), case.y, case.half)
    problem = Regression(moments, case.problem.weight / scale, case.problem.bias, case.problem.unit)
    one, other = refit(case.problem, columns, options), refit(problem, columns, options)
    np.testing.assert_allclose(other.weight * scale, one.weight, rtol=1e-3, atol=1e-5)
    assert other.error == pytest.approx(one.error, rel=1e-3, abs=1e-6)
