"""The distance of each kind: 0 for equals, about 1 for a constant, and never decided by one element or one input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from onnxprune.engine.divergence import DivergenceMeter, OutputDivergence, mean_distance
from onnxprune.engine.meaning import Meaning

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 10_000)
VALUES, CLASSES, PIXELS, LABELS = Meaning("values"), Meaning("classes", 1), Meaning("pixels", 1), Meaning("pixels")


def between(a: Array, b: Array, meaning: Meaning, *, batch: int | None = None, parts: int = 1) -> OutputDivergence:
    meter = DivergenceMeter({"y": meaning})
    for left, right in zip(np.array_split(a, parts), np.array_split(b, parts), strict=True):
        meter.add({"y": left}, {"y": right}, batch or len(left), batch)
    (found,) = meter.finish()
    return found


def numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def labels(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 3, shape)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([(12, 5), (12, 3, 4, 4), (12, 40, 4)]))
def test_a_constant_answer_is_at_a_distance_of_about_one(seed: int, shape: tuple[int, ...]) -> None:
    a = 3 * numbers(seed, *shape)
    assert between(a, np.broadcast_to(a.mean(axis=0), shape), VALUES).distance == pytest.approx(0.85, abs=0.15)
    p = softmax(a, axis=1)
    q = softmax(a / 4, axis=1).mean(axis=tuple(place for place in range(a.ndim) if place != 1), keepdims=True) ** 4
    constant = np.broadcast_to(q / q.sum(axis=1, keepdims=True), shape)
    meaning = CLASSES if a.ndim == 2 else PIXELS
    assert between(p, constant, meaning).distance == pytest.approx(0.85, abs=0.15)
    found = labels(seed, 12, 4, 4)
    values, counts = np.unique(found, return_counts=True)
    assert between(found, np.full_like(found, values[counts.argmax()]), LABELS).distance == pytest.approx(
        0.85, abs=0.15
    )


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_small_errors_are_the_plain_relative_error_mean_over_channels(seed: int) -> None:
    a = numbers(seed, 60, 4) * [1, 5, 1, 5]
    b = a + 0.1 * numbers(seed + 1, 60, 4) * [1, 5, 1, 5]
    by_column = np.square(a - b).sum(axis=0) / np.square(a - a.mean(axis=0)).sum(axis=0)
    assert between(a, b, VALUES).relative_error == pytest.approx(by_column.mean() ** 0.5, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(1e3, 1e9))
def test_one_outlying_element_or_input_does_not_decide(seed: int, outlier: float) -> None:
    a = numbers(seed, 100, 4, 8, 8)
    b = a + 0.05 * numbers(seed + 1, 100, 4, 8, 8)
    usual = between(a, b, VALUES).relative_error
    element, whole = b.copy(), b.copy()
    element[7, 1, 2, 3] += outlier
    whole[7] += outlier
    assert between(a, element, VALUES).relative_error < 1.1 * usual
    assert between(a, whole, VALUES).distance < usual**2 + 0.025


def test_a_channel_in_large_units_does_not_hide_what_the_others_lose() -> None:
    a = numbers(0, 200, 5) * [1e3, 1e3, 1, 1, 1]
    b = a.copy()
    b[:, 2:] = 0
    assert between(a, b, VALUES).relative_error > 0.7


def test_a_saturated_answer_to_blank_inputs_does_not_decide() -> None:
    logits = np.zeros((100, 6))
    logits[:, 0] = 30
    logits[:50] = 3 * numbers(0, 50, 6)
    other = logits + 0.05 * numbers(1, 100, 6)
    other[99, 1] = 60
    found = between(logits, other, CLASSES)
    assert found.distance < 0.03
    assert found.top1_agreement == pytest.approx(0.98, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 9))
@pytest.mark.parametrize("meaning", [VALUES, PIXELS, LABELS], ids=["values", "pixels", "labels"])
def test_how_inputs_are_split_into_batches_does_not_matter(meaning: Meaning, seed: int, parts: int) -> None:
    a, b = (labels(seed + k, 90, 3, 4) if meaning is LABELS else numbers(seed + k, 90, 3, 4) for k in (0, 1))
    whole, split = (between(a, b, meaning, parts=count) for count in (1, parts))
    for name in ("relative_error", "distance", "top1_agreement", "kl", "agreement_bound", "error_bound"):
        left, right = getattr(whole, name), getattr(split, name)
        assert right == (None if left is None else pytest.approx(left, rel=1e-9)), name


def test_the_agreement_of_pixels_is_the_share_of_positions_whatever_the_layout() -> None:
    scores = np.zeros((4, 3, 2, 5))
    scores[:, 1] = 1
    other = scores.copy()
    other[0, 2, 0, 0] = 9
    meanings = {"first": Meaning("pixels", 1), "last": Meaning("pixels", 3), "labels": LABELS}
    sides = [
        {"first": v, "last": v.transpose(0, 2, 3, 1), "labels": v.argmax(axis=1)} for v in (scores, other)
    ]  # fmt: skip
    meter = DivergenceMeter(meanings)
    meter.add(*sides, 4)
    for found in meter.finish():
        assert found.kind == "pixels"
        assert found.top1_agreement == pytest.approx(1 - 1 / 40)


def test_the_bound_of_pixels_is_over_inputs_and_not_over_positions() -> None:
    a = np.ones((6, 100, 100), np.int64)
    b = a.copy()
    b[0, :50] = 0
    bound = between(a, b, LABELS).agreement_bound
    assert bound is not None
    assert bound[0] < 0.75
    assert bound[1] == 1
    assert between(a[:1], b[:1], LABELS).agreement_bound is None


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 1, 1)])
def test_scores_without_evidence_are_measured_as_both(shape: tuple[int, ...]) -> None:
    a, b = numbers(0, *shape), numbers(1, *shape)
    both, one, other = (between(a, b, m) for m in (Meaning("undecided", 1), CLASSES, VALUES))
    assert (both.kind, both.top1_agreement) == ("undecided", one.top1_agreement)
    assert both.relative_error == other.relative_error
    assert both.distance == pytest.approx((one.distance + other.distance) / 2)
    assert both.agreement_bound is not None
    assert both.error_bound is not None


def test_an_output_without_a_batch_axis_is_compared_whole() -> None:
    a = labels(0, 30, 40)
    b = a.copy()
    b[5:] += 1
    found = between(a, b, LABELS, batch=1)
    assert (found.samples, found.top1_agreement) == (1, pytest.approx(5 / 30))


def test_the_distance_of_several_outputs_is_their_mean() -> None:
    found = [OutputDivergence(name, 1, 0.0, 0.0, distance=d) for name, d in (("a", 0.2), ("b", 0.6))]
    assert mean_distance(found) == pytest.approx(0.4)
    assert mean_distance([]) == 0
