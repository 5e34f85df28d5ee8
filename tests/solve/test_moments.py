"""Contracts of the moments: accuracy, order of arrival, restriction."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import DataError
from onnxprune.solve import MomentsBuilder, Part
from onnxprune.solve.moments import held_bytes
from onnxprune.solve.numerics import factorise

from .helpers import make_case, moments_of

PARTS = ("mean_x", "mean_y", "gram", "cross", "power")
seeds = st.integers(0, 2**32 - 1)


def direct(x: np.ndarray, y: np.ndarray) -> Part:
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    power, fourth = np.square(y).mean(axis=0), (x**4).mean(axis=0)
    return Part(len(x), mean_x, mean_y, x.T @ x / len(x), x.T @ y / len(x), power, fourth)


def assert_same(one: Part, two: Part, rtol: float) -> None:
    assert one.count == two.count
    std_x, std_y = np.sqrt(np.diagonal(two.gram)), np.sqrt(two.power)
    scales = {
        "mean_x": std_x,
        "mean_y": std_y,
        "gram": np.outer(std_x, std_x),
        "cross": np.outer(std_x, std_y),
    }
    assert np.all((0.5 * two.fourth <= one.fourth) & (one.fourth <= 2 * two.fourth))  # about the first samples' mean
    for name in PARTS:
        scale = scales.get(name, two.power)
        assert np.all(np.abs(getattr(one, name) - getattr(two, name)) <= rtol * scale), name


@settings(deadline=None, max_examples=30)
@given(seed=seeds, exponent=st.integers(-3, 3), batch=st.integers(1, 300))
def test_moments_are_those_of_the_samples_however_they_arrive(seed: int, exponent: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0**exponent
    x = (scale * (rng.standard_normal((300, 7)) @ rng.standard_normal((7, 7)))).astype(np.float32)
    y = rng.standard_normal((300, 3)).astype(np.float32)
    half = rng.integers(0, 2, 300)
    moments = moments_of(x, y, half, batch)
    assert_same(moments.even, direct(x[half == 0], y[half == 0]), 1e-5)
    assert_same(moments.odd, direct(x[half == 1], y[half == 1]), 1e-5)
    assert_same(moments.total, direct(x, y), 1e-5)


def test_a_large_mean_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    x = (1e4 + rng.standard_normal((20_000, 5))).astype(np.float32)
    y = (-3e3 + rng.standard_normal((20_000, 2))).astype(np.float32)
    moments = moments_of(x, y, np.arange(len(x)) % 2, 500)
    assert_same(moments.total, direct(x, y), 1e-5)


def test_a_constant_column_has_no_variance_at_all() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((999, 3)).astype(np.float32)
    x[:, 1] = 0.1
    moments = moments_of(x, x[:, :1], np.arange(999) % 2)
    assert np.all(moments.total.gram[1] == 0)


@pytest.mark.parametrize(("rows", "panel"), [(64, 1024), (4096, 5), (64, 5)])
def test_blocks_and_panels_split_anywhere_give_the_same_moments(rows, panel, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(3, samples=500)
    whole = moments_of(case.x, case.y, case.half, 500)
    monkeypatch.setattr("onnxprune.solve.moments._FEW_ROWS", 64)
    monkeypatch.setattr("onnxprune.solve.moments._BLOCK_ROWS", rows)
    monkeypatch.setattr("onnxprune.solve.moments._PANEL", panel)
    assert_same(moments_of(case.x, case.y, case.half, 150).total, whole.total, 1e-5)


@pytest.mark.parametrize(("columns", "outputs", "rows"), [(300, 0, 700), (300, 500, 40), (2500, 8, 40), (2500, 8, 700)])
def test_a_builder_allocates_what_is_counted_and_a_block(columns: int, outputs: int, rows: int) -> None:
    x, y = np.ones((rows, columns), dtype=np.float32), np.ones((rows, outputs), dtype=np.float32)
    tracemalloc.start()
    builder = MomentsBuilder(columns, outputs)
    for turn in range(20):
        builder.add(x, y, turn % 2)
    moments = builder.finish()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = held_bytes(columns, outputs)
    block = 8 * max(rows, 256) * (columns + outputs) + 12 * 1024 * columns  # rows twice, and the product of a panel
    assert moments.count == 20 * rows
    assert 0.8 * 8 * 2 * columns * (columns + outputs) < held < 1.05 * counted
    assert peak < 1.05 * (counted + block)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_restricting_the_columns_is_what_the_restricted_samples_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = make_case(seed % 100, samples=60)
    columns = rng.permutation(12)[:5]
    restricted = case.problem.moments.columns(columns)
    assert_same(restricted.total, direct(case.x[:, columns], case.y), 1e-5)


def test_the_response_in_closed_form_is_that_of_the_samples() -> None:
    case = make_case(5, noise=0.0)
    closed = case.problem.moments.with_response(case.problem.weight, case.problem.bias)
    assert_same(closed.total, direct(case.x, case.x @ case.problem.weight.T + case.problem.bias), 1e-5)


def test_an_empty_half_does_not_count() -> None:
    case = make_case(6)
    moments = moments_of(case.x, case.y, np.zeros(len(case.x), dtype=int))
    assert moments.odd.count == 0
    assert moments.total is moments.even


def test_no_responses_are_needed() -> None:
    case = make_case(8)
    builder = MomentsBuilder(12, 0)
    builder.add(case.x, None, 0)
    assert builder.finish().even.cross.shape == (12, 0)


def test_activations_that_overflowed_are_reported() -> None:
    builder = MomentsBuilder(2, 0)
    builder.add(np.array([[1.0, np.nan]], dtype=np.float32), None, 0)
    with pytest.raises(DataError, match="finite"):
        builder.finish()


def test_targets_whose_squares_float32_does_not_hold_are_counted_right() -> None:
    builder = MomentsBuilder(2, 1)
    builder.add(np.ones((2, 2), np.float32), np.array([[1e30], [-1e30]], np.float32), 0)
    assert builder.finish().even.power == pytest.approx(1e60)
    builder = MomentsBuilder(2, 1)
    builder.add(np.ones((2, 2), np.float32), np.array([[np.inf], [0]], np.float32), 0)
    with np.errstate(invalid="ignore"), pytest.raises(DataError, match="finite squares"):
        builder.finish()


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 3\)"):
        MomentsBuilder(3, 0).add(np.zeros((5, 2), dtype=np.float32), None, 0)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, exponent=st.integers(-15, 15))
def test_columns_of_a_few_samples_are_rare_whatever_their_unit(seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6000, 6)).astype(np.float32)
    awake = rng.choice(len(x), 2000, replace=False)
    for column, count in ((1, 1), (2, 5), (3, 30), (4, 2000)):
        asleep = np.ones(len(x), dtype=bool)
        asleep[awake[:count]] = False
        x[asleep, column] = 0
    x[:, 5] = 1
    moments = moments_of((x * 10.0**exponent).astype(np.float32), x[:, :1], np.arange(len(x)) % 2)
    np.testing.assert_array_equal(moments.total.scale > 0, [True, False, False, False, True, False])


def test_the_error_of_a_part_is_that_of_its_samples() -> None:
    case = make_case(9)
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((4, 12)), rng.standard_normal(4)
    wanted = np.square(case.y - case.x @ weight.T - bias).sum(axis=1).mean()
    assert case.problem.moments.total.error(weight, bias) == pytest.approx(wanted, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    exponents=st.lists(st.integers(-140, 60), min_size=3, max_size=6),
    later=st.integers(0, 60),
    seed=st.integers(0, 99),
)
def test_columns_of_any_scale_that_float32_holds_keep_their_correlations(exponents, later, seed) -> None:
    """Products of two such columns are out of its range: one grows by many powers of two between two batches."""
    generator = np.random.default_rng(seed)
    scales = np.ldexp(1.0, exponents)
    base = generator.standard_normal((4000, len(scales))) + 0.3 * generator.standard_normal((4000, 1))
    x = (base * scales).astype(np.float32)
    x[2000:, 0] *= np.float32(np.ldexp(1.0, min(later, 60 - exponents[0])))
    y = (base @ np.ones((len(scales), 1))).astype(np.float32)
    builder = MomentsBuilder(len(scales), 1)
    for start in range(0, len(x), 1000):
        builder.add(x[start : start + 1000], y[start : start + 1000], 0)
    found, wanted = builder.finish().total, np.cov(x.astype(np.float64), rowvar=False, bias=True)
    spread = np.sqrt(np.diagonal(wanted))
    assert (spread > 0).all()
    assert np.abs((found.gram - wanted) / spread / spread[:, None]).max() < 1e-4
    factorise(found.gram)


def test_what_is_no_matrix_of_moments_is_taken_for_the_nearest_one() -> None:
    gram = np.array([[1.0, 16.0, 0.0], [16.0, 1.0, 0.0], [0.0, 0.0, 1e-40]])
    factor = factorise(gram)
    assert np.isfinite(factor.lower).all()
    assert np.isfinite(factor.solve(np.ones((3, 1)))).all()
