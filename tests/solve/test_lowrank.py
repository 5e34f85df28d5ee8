"""Contracts of the low-rank factors: full rank is exact, errors are the discarded spectrum, data beats none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxprune.options.solve import RefitOptions
from onnxprune.solve import Regression, Samples, clip, decompose, leaky_relu, merge, refit, split_columns
from onnxprune.solve.alternating import better_first
from onnxprune.solve.lowrank import nested_basis, spatial_basis, start_of
from onnxprune.solve.nonlinear import project

from .helpers import moments_of, relu_patches

seeds = st.integers(0, 10_000)
LINEAR, NONE, AWARE = (RefitOptions(refit=kind) for kind in ("linear", "none", "auto"))
CHANNELS, OUTPUTS = 4, 6


def conv_problem(seed: int, kernel: tuple[int, ...] = (3, 3), noise: float = 0.0, samples: int = 600):
    """A regression on patches of `CHANNELS` channels, and its samples."""
    rng = np.random.default_rng(seed)
    columns = CHANNELS * int(np.prod(kernel))
    x = relu_patches(rng, samples, columns)
    weight = rng.standard_normal((OUTPUTS, columns)) / np.sqrt(columns)
    bias = rng.standard_normal(OUTPUTS) - 1
    y = (x @ weight.T + bias + noise * rng.standard_normal((samples, OUTPUTS))).astype(np.float32)
    half = np.arange(samples) % 2
    unit = np.repeat(np.arange(CHANNELS), columns // CHANNELS)
    return Regression(moments_of(x, y, half), weight, bias, unit), Samples(x, y, half)


def whole(problem: Regression) -> np.ndarray:
    return np.arange(len(problem.unit))


@pytest.mark.parametrize(("kernel", "first"), [((3, 3), 0), ((3, 3), 1), ((5, 2), 0), ((2, 3, 2), 1), ((3, 3, 3), 0)])
@pytest.mark.parametrize("options", [LINEAR, NONE, replace(LINEAR, basis="plain")])
def test_full_rank_is_exact(kernel, first, options) -> None:
    problem, _ = conv_problem(0, kernel)
    split = split_columns(CHANNELS, kernel, first)
    rank = min(len(split), OUTPUTS * split.shape[1])
    for channel in (None, OUTPUTS):
        found = decompose(problem, whole(problem), split, rank, channel, options)
        np.testing.assert_allclose(found.factors.weight(split), problem.weight, atol=2e-5)
        assert found.solution.error < 1e-8


@pytest.mark.parametrize("options", [LINEAR, NONE])
def test_full_width_is_exact(options) -> None:
    problem, _ = conv_problem(1)
    found = decompose(problem, whole(problem), None, None, OUTPUTS, options)
    np.testing.assert_allclose(found.factors.weight(None), problem.weight, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, first=st.sampled_from([0, 1]), rank=st.integers(1, 12), channel=st.sampled_from([None, 2, 4]))
def test_factors_multiply_to_the_weights_that_were_judged(seed, first, rank, channel) -> None:
    problem, _ = conv_problem(seed, noise=0.2)
    split = split_columns(CHANNELS, (3, 3), first)
    found = decompose(problem, whole(problem), split, rank, channel, LINEAR)
    total = problem.moments.total
    power = total.power.sum()
    assert total.error(found.factors.weight(split), found.solution.bias) / power == pytest.approx(
        found.solution.error, rel=1e-6, abs=1e-9
    )
    assert found.factors.first.shape == (rank, len(split))
    for spatial in (False, True):
        for kept in (False, True):
            parts = merge(found.factors, split, spatial=spatial, channel=kept)
            assert (parts.first is not None) == spatial
            assert (parts.last is not None) == (kept and channel is not None)
            np.testing.assert_allclose(parts.weight(split), found.solution.weight, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=seeds)
def test_components_are_balanced(seed) -> None:
    problem, _ = conv_problem(seed, noise=0.2)
    split = split_columns(CHANNELS, (3, 3), 0)
    parts = decompose(problem, whole(problem), split, 5, 3, LINEAR).factors
    blocks = parts.second.reshape(3, 5, 3)
    np.testing.assert_allclose(np.linalg.norm(parts.first, axis=1), np.sqrt(np.square(blocks).sum(axis=(0, 2))))


@settings(deadline=None, max_examples=15)
@given(seed=seeds)
def test_the_error_of_the_weighted_svd_is_the_discarded_spectrum(seed) -> None:
    problem, _ = conv_problem(seed)
    split = split_columns(CHANNELS, (3, 3), 0)
    gram = problem.moments.total.gram
    metric = sum(gram[np.ix_(split[:, j], split[:, j])] for j in range(3))
    long = problem.weight[:, split].transpose(1, 0, 2).reshape(len(split), -1)
    lower = np.linalg.cholesky(metric)
    values = np.linalg.svd(lower.T @ long, compute_uv=False)
    basis = spatial_basis(problem.weight, problem.moments.total, split, "data")
    for rank in (1, 3, 7):
        seen = basis[:rank] @ metric @ basis[:rank].T
        best = np.linalg.solve(seen, basis[:rank] @ metric @ long)
        left = np.square(lower.T @ (long - basis[:rank].T @ best)).sum()
        assert left == pytest.approx(np.square(values[rank:]).sum(), rel=1e-3)


@pytest.mark.parametrize("kind", ["data", "plain"])
def test_the_start_of_a_rank_is_part_of_the_start_of_any_larger_rank(kind) -> None:
    problem, _ = conv_problem(1)
    split, total = split_columns(CHANNELS, (3, 3), 0), problem.moments.total
    whole_basis = nested_basis(problem.weight, total, split, kind, 9)
    larger = start_of(problem.weight, total, whole_basis, split, kind)
    for rank in (1, 4, 8):
        np.testing.assert_allclose(
            nested_basis(problem.weight, total, split, kind, rank), whole_basis[:rank], atol=1e-7
        )
        smaller = start_of(problem.weight, total, whole_basis[:rank], split, kind)
        np.testing.assert_allclose(smaller, larger[:, : 3 * rank], atol=1e-7)


@settings(deadline=None, max_examples=15)
@given(seed=seeds, width=st.integers(1, OUTPUTS - 1))
def test_the_error_of_a_width_is_the_discarded_spectrum_of_the_answers(seed, width) -> None:
    problem, samples = conv_problem(seed)
    values = np.linalg.eigvalsh(np.cov(samples.y.T, bias=True))[::-1]
    found = decompose(problem, whole(problem), None, None, width, LINEAR).solution.error
    assert found == pytest.approx(values[width:].sum() / values.sum(), rel=1e-3, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, rank=st.integers(1, 8), channel=st.sampled_from([None, 1, 3]), noise=st.sampled_from([0, 0.3]))
def test_knowing_the_data_is_never_worse_than_not(seed, rank, channel, noise) -> None:
    problem, _ = conv_problem(seed, noise=noise, samples=200)
    split = split_columns(CHANNELS, (3, 3), 0)
    for sizes in ((split, rank, channel), (None, None, channel or 2)):
        aware = decompose(problem, whole(problem), *sizes, LINEAR).solution.error
        plain = decompose(problem, whole(problem), *sizes, NONE).solution.error
        assert aware <= plain * (1 + 1e-6)


@pytest.mark.parametrize("activation", [clip(0, np.inf), clip(0, 0.5), leaky_relu(0.1)])
@settings(deadline=None, max_examples=8)
@given(seed=seeds, spatial=st.sampled_from([None, 3]), channel=st.sampled_from([2, 4]))
@example(seed=465, spatial=3, channel=4)
def test_knowing_the_activation_is_never_worse_behind_it(activation, seed, spatial, channel) -> None:
    problem, rows = conv_problem(seed)
    rows = replace(rows, activation=activation)
    split = split_columns(CHANNELS, (3, 3), 0)
    columns = whole(problem)
    linear = decompose(problem, columns, split, spatial, channel, LINEAR)
    aware = decompose(problem, columns, split, spatial, channel, AWARE, rows)

    def behind(found) -> float:
        answer = rows.x @ found.factors.weight(split).T + found.solution.bias
        return float(np.square(activation(answer.astype(np.float32)) - activation(rows.y)).sum())

    assert behind(aware) <= behind(linear) * (1 + 1e-5)
    assert np.linalg.matrix_rank(aware.factors.weight(split), tol=1e-6) <= channel


def test_a_rank_constraint_holds_in_every_refit() -> None:
    problem, _ = conv_problem(3, noise=0.3)
    for kind in ("linear", "ridge", "scale-only", "none"):
        found = refit(problem, whole(problem), RefitOptions(refit=kind), rank=2)
        assert np.linalg.matrix_rank(found.weight, tol=1e-8) == 2


@settings(deadline=None, max_examples=15)
@given(
    seed=seeds,
    first=st.sampled_from([0, 1]),
    rank=st.integers(1, 11),
    channel=st.sampled_from([None, 3]),
    noise=st.sampled_from([0.0, 0.3]),
)
def test_fitting_v_by_turns_is_never_worse(seed, first, rank, channel, noise) -> None:
    problem, _ = conv_problem(seed, noise=noise)
    split = split_columns(CHANNELS, (3, 3), first)
    errors = [
        decompose(problem, whole(problem), split, rank, channel, replace(LINEAR, rounds=rounds)).solution.error
        for rounds in (0, 1, 3)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("first", [0, 1])
def test_v_solves_its_normal_equations(first) -> None:
    """Conjugate gradients find what a dense solver finds for all of V at once."""
    problem, _ = conv_problem(5, noise=0.1, samples=2000)
    split = split_columns(CHANNELS, (3, 3), first)
    start = spatial_basis(problem.weight, problem.moments.total, split, "data", 3)
    second = np.random.default_rng(0).standard_normal((OUTPUTS, 9)) / 3
    found = better_first(problem.moments, start, second, split, 1e-6)
    places = np.moveaxis(second.reshape(OUTPUTS, 3, 3), 2, 0)
    gram, cross = problem.moments.total.gram, problem.moments.total.cross
    left = sum(
        np.kron(places[j].T @ places[k], gram[np.ix_(split[:, j], split[:, k])]) for j in range(3) for k in range(3)
    )
    right = sum(places[j].T @ cross.T[:, split[:, j]] for j in range(3))
    wanted = np.linalg.solve(left, right.reshape(-1)).reshape(start.shape)
    assert found is not None
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(start - wanted)


def test_v_stays_where_held_out_samples_do_not_gain() -> None:
    """The wanted answers have nothing to do with the patches: whatever is fitted to one half is wrong on the other."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((60, 36)).astype(np.float32), rng.standard_normal((60, OUTPUTS)).astype(np.float32)
    moments, split = moments_of(x, y, np.arange(60) % 2), split_columns(CHANNELS, (3, 3), 0)
    start = rng.standard_normal((4, 12)) / 100
    assert better_first(moments, start, rng.standard_normal((OUTPUTS, 12)), split, 1e-4) is None


@pytest.mark.parametrize("inner", [20, 6])
def test_the_rank_of_a_tall_matrix_is_lowered_as_that_of_a_wide_one(inner):
    """The outputs of x @ weight.T change least, whichever side the vectors are found from; x may lack dimensions."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((50, 20))
    x = rng.standard_normal((200, inner)) @ rng.standard_normal((inner, 20))
    low = project(weight, x.T @ x / len(x), 4)
    outputs = x @ weight.T
    _, _, directions = np.linalg.svd(outputs, full_matrices=False)
    best = outputs @ directions[:4].T @ directions[:4]
    assert np.linalg.matrix_rank(low) == 4
    np.testing.assert_allclose(x @ low.T, best, atol=1e-9)
