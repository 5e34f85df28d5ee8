"""Contracts of a metric: what it changes, what it does not, and that it is the error it says it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import (
    RELU,
    Metric,
    RefitOptions,
    Regression,
    Samples,
    SelectOptions,
    clip,
    decompose,
    leaky_relu,
    refit,
    removal_order,
)

from .helpers import moments_of, relu_patches

seeds = st.integers(0, 10_000)
LINEAR = RefitOptions(refit="linear", strengths=(1e-4,))
COLUMNS, OUTPUTS = 12, 5


def problem_of(seed: int, noise: float = 0.1) -> tuple[Regression, Samples]:
    rng = np.random.default_rng(seed)
    x = relu_patches(rng, 400, COLUMNS)
    weight, bias = rng.standard_normal((OUTPUTS, COLUMNS)), rng.standard_normal(OUTPUTS)
    y = (x @ weight.T + bias + noise * rng.standard_normal((400, OUTPUTS))).astype(np.float32)
    half = np.arange(400) % 2
    return Regression(moments_of(x, y, half), weight, bias, np.arange(COLUMNS) // 3), Samples(x, y, half)


def drawn(seed: int) -> Metric:
    found = Metric.from_weights(np.random.default_rng(seed).gamma(0.5, size=OUTPUTS))
    assert found is not None
    return found


def weighed_error(problem: Regression, metric: Metric, weight: np.ndarray, bias: np.ndarray) -> float:
    """Written out, output by output."""
    total = problem.moments.total
    apart = weight @ total.gram @ weight.T - 2 * weight @ total.cross
    offset = total.mean_y - weight @ total.mean_x - bias
    return float(metric.scale**2 @ (np.diagonal(apart) + total.power + offset**2))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_error_of_the_weighed_regression_is_the_weighed_error(seed):
    problem, _ = problem_of(seed)
    metric = drawn(seed)
    weighed = metric.problem(problem)
    found = weighed.moments.total.error(weighed.weight, weighed.bias)
    assert found == pytest.approx(weighed_error(problem, metric, problem.weight, problem.bias), rel=1e-9)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_least_squares_does_not_notice(seed):
    problem, _ = problem_of(seed)
    metric, columns = drawn(seed), np.arange(3, COLUMNS)
    plain = refit(problem, columns, LINEAR)
    found = metric.solution(refit(metric.problem(problem), columns, LINEAR))
    np.testing.assert_allclose(found.weight, plain.weight, atol=1e-8)
    np.testing.assert_allclose(found.bias, plain.bias, atol=1e-8)


@given(seeds, st.integers(1, OUTPUTS - 1))
@settings(max_examples=30, deadline=None)
def test_a_low_rank_fitted_in_the_metric_is_the_better_one_there(seed, width):
    problem, _ = problem_of(seed)
    metric, columns = drawn(seed), np.arange(COLUMNS)
    exact = replace(LINEAR, strengths=(0.0,))
    plain = decompose(problem, columns, None, None, width, exact).solution
    ours = decompose(metric.problem(problem), columns, None, None, width, exact, metric=metric)
    errors = [weighed_error(problem, metric, one.weight, one.bias) for one in (ours.solution, plain)]
    assert errors[0] <= errors[1] * (1 + 1e-6)
    np.testing.assert_allclose(ours.factors.weight(None), ours.solution.weight, atol=1e-9)
    last, second = ours.factors.last, ours.factors.second
    assert last is not None
    np.testing.assert_allclose(np.linalg.norm(last, axis=0), np.linalg.norm(second, axis=1), rtol=1e-6)


def test_which_channels_stay_follows_the_outputs_that_count():
    rng = np.random.default_rng(0)
    x = relu_patches(rng, 400, 2)
    weight = np.array([[1.0, 0.0], [0.0, 3.0]])  # each output reads one channel
    y = (x @ weight.T).astype(np.float32)
    problem = Regression(moments_of(x, y, np.arange(400) % 2), weight, np.zeros(2), np.arange(2))
    metric = Metric.from_weights(np.array([100.0, 1.0]))
    assert metric is not None
    assert removal_order([problem], 2, SelectOptions())[0] == 0
    assert removal_order([metric.problem(problem)], 2, SelectOptions())[0] == 1


@pytest.mark.parametrize("activation", [RELU, leaky_relu(0.2)])
def test_scales_pass_through_homogeneous_activations(activation):
    _, samples = problem_of(3)
    metric = drawn(3)
    samples = replace(samples, activation=activation, offset=samples.y / 2)
    weighed = metric.samples(samples)
    assert weighed.offset is not None
    assert samples.offset is not None
    np.testing.assert_allclose(
        activation(weighed.y + weighed.offset),
        activation(samples.y + samples.offset) * metric.scale.astype(np.float32),
        rtol=1e-5,
        atol=1e-5,
    )


def test_others_are_refused():
    _, samples = problem_of(3)
    with pytest.raises(ValueError, match="Clip"):
        drawn(3).samples(replace(samples, activation=clip(0, 6)))


def test_weights_that_say_nothing_are_no_metric_and_none_is_free_to_be_wrong():
    assert Metric.from_weights(np.zeros(3)) is None
    assert Metric.from_weights(np.array([1.0, np.nan])) is None
    found = Metric.from_weights(np.array([0.0, 1.0]))
    assert found is not None
    assert found.scale[0] == pytest.approx(0.1)
