"""Errors that decide are those of a fit to one half on the other half, and close to those on samples not seen yet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.solve import (
    Regression,
    channel_errors,
    decompose,
    held_out_curve,
    kept_columns,
    refit,
    removal_order,
    spatial_errors,
    split_columns,
)

from .helpers import moments_of, relu_patches

seeds = st.integers(0, 10_000)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, np.inf)
LINEAR = RefitOptions(refit="linear", rounds=0)


def layer(seed: int, samples: int, units: int = 8, kernel: int = 3, outputs: int = 5):
    """A layer that answers what it answers: x, y, half in blocks, and the regression."""
    rng = np.random.default_rng(seed)
    x = relu_patches(rng, samples, units * kernel)
    weight, bias = rng.standard_normal((outputs, units * kernel)), rng.standard_normal(outputs)
    half = np.arange(samples) // 7 % 2
    y = x @ weight.T + bias
    moments = moments_of(x, y.astype(np.float32), half)
    return x.astype(np.float64), y, half, Regression(moments, weight, bias, np.repeat(np.arange(units), kernel))


def orders_of(problem: Regression, units: int, selector: str = "obs") -> tuple[np.ndarray, np.ndarray]:
    found = [removal_order([problem.half(half)], units, SelectOptions(selector=selector)) for half in (0, 1)]
    return found[0], found[1]


def fitted(x: np.ndarray, y: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
    """Weights (o, p) of centred samples by the formula, without any trick."""
    if np.isinf(ridge) or not x.shape[1]:
        return start
    gram, cross = x.T @ x / len(x), x.T @ y / len(x)
    pull = ridge * np.diag(np.diag(gram))
    return np.linalg.lstsq(gram + pull, cross + pull @ start.T, rcond=None)[0].T


def by_hand(x: np.ndarray, y: np.ndarray, half: np.ndarray, problem: Regression, kept: list[np.ndarray]) -> float:
    """Both ways, at the best ridge, for what each half keeps: as the module says."""
    tried = []
    for ridge in RIDGES:
        measured = expected = 0.0
        for which in (0, 1):
            own, other = half == which, half != which
            columns, middle, answer = kept[which], x[half == which].mean(axis=0), y[half == which].mean(axis=0)
            a, b = x[:, columns] - middle[columns], y - answer
            weight = fitted(a[own], b[own], problem.weight[:, columns], ridge)
            errors = [np.square(b[part] - a[part] @ weight.T).sum() / part.sum() for part in (own, other)]
            measured += errors[1] / 2
            left = np.sqrt(min(errors[0] / errors[1], 1.0)) if errors[1] else 1.0
            expected += max(errors[1] * 2 * left / (1 + left), (min(errors) + errors[1]) / 2) / 2
        tried.append((measured, expected))
    return min(tried)[1] / y.var(axis=0).sum()


@settings(deadline=None, max_examples=15)
@given(seed=seeds, samples=st.sampled_from([28, 60, 800]), selector=st.sampled_from(["obs", "lasso"]))
def test_the_curve_is_what_fits_to_one_half_err_on_the_other(seed: int, samples: int, selector: str) -> None:
    x, y, half, problem = layer(seed, samples)
    orders = orders_of(problem, 8, selector)
    curve = held_out_curve([problem], orders)
    wanted = [
        by_hand(x, y, half, problem, [kept_columns(problem, order[gone:]) for order in orders]) for gone in range(9)
    ]
    np.testing.assert_allclose(curve, np.maximum.accumulate(wanted), rtol=1e-4, atol=1e-5)
    assert curve[0] == pytest.approx(0, abs=1e-5)
    assert (np.diff(curve) >= 0).all()


def test_columns_of_no_unit_always_stay_and_prefixes_of_an_order_give_prefixes_of_the_curve() -> None:
    x, y, half, problem = layer(3, 300)
    unit = np.where(problem.unit >= 5, -1, problem.unit)
    some = Regression(problem.moments, problem.weight, problem.bias, unit)
    order = np.array([3, 1, 0, 2, 4])
    curve = held_out_curve([some], (order, order))
    kept = np.flatnonzero(unit < 0)
    assert curve[-1] == pytest.approx(by_hand(x, y, half, problem, [kept, kept]), rel=1e-4)
    np.testing.assert_allclose(held_out_curve([some], (order[:3], order[:3])), curve[:4], atol=1e-7)


@pytest.mark.parametrize("samples", [60, 150, 2000])
def test_the_curve_is_near_the_error_on_new_samples_where_the_fitted_one_is_not(samples: int) -> None:
    promised, true, flattering = [], [], []
    for seed in range(12):
        x, y, _, problem = layer(seed, samples + 4000, units=16)
        rows, new = slice(0, samples), slice(samples, None)
        half = np.arange(samples) // 5 % 2
        moments = moments_of(x[rows].astype(np.float32), y[rows].astype(np.float32), half)
        known = Regression(moments, problem.weight, problem.bias, problem.unit)
        promised.append(held_out_curve([known], orders_of(known, 16))[8])
        columns = kept_columns(known, removal_order([known], 16, SelectOptions())[8:])
        solution = refit(known, columns, LINEAR)
        left = y[new] - x[new][:, columns] @ solution.weight.T - solution.bias
        true.append(np.square(left).mean(axis=0).sum() / y.var(axis=0).sum())
        flattering.append(solution.error)
    assert np.mean(promised) > 0.9 * np.mean(true)
    if samples > 60:
        assert np.mean(promised) < 1.1 * np.mean(true)
    else:  # half of them are hardly more than there are columns
        assert np.mean(promised) < 2 * np.mean(true)
        assert np.mean(flattering) < 0.6 * np.mean(true)


def test_a_layer_with_one_row_an_input_is_not_explained_by_as_many_columns() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((60, 8)) @ rng.standard_normal((8, 256)) + 2 * rng.standard_normal((60, 256)))
    weight, bias = rng.standard_normal((100, 256)), rng.standard_normal(100)
    y = x @ weight.T + bias
    half = np.arange(60) // 4 % 2
    moments = moments_of(x.astype(np.float32), y.astype(np.float32), half)
    problem = Regression(moments, weight, bias, np.arange(256))
    curve = held_out_curve([problem], orders_of(problem, 256))
    solution = refit(problem, np.arange(256)[:64], RefitOptions(refit="linear", strengths=(1e-4,)))
    assert solution.error < 0.01  # 60 rows, 64 columns: anything is explained
    assert curve[256 - 64] > 0.2


@settings(deadline=None, max_examples=10)
@given(seed=seeds, first=st.integers(0, 1))
def test_the_errors_of_forms_are_near_those_on_new_samples(seed: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((18, 36))
    weight, bias = rng.standard_normal((6, 36)), rng.standard_normal(6)
    new, rows = (
        np.maximum(rng.standard_normal((n, 18)) @ mixing + 0.7 * rng.standard_normal((n, 36)), 0) for n in (6000, 3000)
    )
    y = rows @ weight.T + bias
    moments = moments_of(rows.astype(np.float32), y.astype(np.float32), np.arange(3000) // 10 % 2)
    problem = Regression(moments, weight, bias, np.repeat(np.arange(4), 9))
    split, everything = split_columns(4, (3, 3), first), np.arange(36)
    found = spatial_errors(problem, split, "data", (2, 5, 9), (5,))
    alone = channel_errors(problem)

    def true(split_of, spatial, channel) -> float:
        solution = decompose(problem, everything, split_of, spatial, channel, LINEAR).solution
        answer = new @ weight.T + bias
        left = answer - new @ solution.weight.T - solution.bias
        return float(np.square(left).mean(axis=0).sum() / answer.var(axis=0).sum())

    for rank, promised in zip((2, 5, 9), found.ranks, strict=True):
        assert true(split, rank, None) <= 1.15 * promised + 1e-3  # the fit may also take the plain basis
    for width in (1, 3, 5):
        assert alone[width] == pytest.approx(true(None, None, width), rel=0.15, abs=2e-3)
        assert true(split, 5, width) <= 1.2 * found.widths[5][width] + 2e-3
    assert alone[-1] == pytest.approx(0, abs=1e-5)
    assert found.widths[5][-1] == pytest.approx(found.ranks[1], rel=0.1, abs=1e-3)


def test_the_errors_of_a_layer_with_more_outputs_than_inputs_are_those_of_its_outputs_turned() -> None:
    """Turned outputs (y @ q of orthonormal q) have the same errors; beyond as many widths as inputs, none is left."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((20, 8)), rng.standard_normal(20)
    rows = np.maximum(rng.standard_normal((600, 8)), 0)
    y = rows @ weight.T + bias
    half = np.arange(600) // 10 % 2

    def errors(turn: np.ndarray) -> np.ndarray:
        moments = moments_of(rows.astype(np.float32), (y @ turn).astype(np.float32), half)
        return channel_errors(Regression(moments, turn.T @ weight, turn.T @ bias, np.arange(8)))

    tall = errors(np.eye(20))
    assert tall.shape == (21,)
    square, _ = np.linalg.qr(weight)  # (20, 8): the outputs in the directions that vary
    np.testing.assert_allclose(tall[:9], errors(square), atol=1e-6)
    assert tall[8:] == pytest.approx(0, abs=1e-6)
