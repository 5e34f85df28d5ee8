"""How far outputs are apart: zero for equals, the same however it is asked, and never silent about NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax

from onnxprune.engine.distance import bounded
from onnxprune.engine.divergence import DivergenceMeter, OutputDivergence, class_scores, wilson
from onnxprune.engine.meaning import Meaning
from onnxprune.errors import VerifyError

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 10_000)


def pair(seed: int, shape: tuple[int, ...] = (12, 5), spread: float = 0.3) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal(shape) * 2 + generator.standard_normal()
    return a, a + spread * generator.standard_normal(shape)


def between(a: Array, b: Array, *, parts: int = 1) -> OutputDivergence:
    meter = DivergenceMeter()
    for left, right in zip(np.array_split(a, parts), np.array_split(b, parts), strict=True):
        meter.add({"y": left}, {"y": right}, len(left))
    (found,) = meter.finish()
    return found


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([(12, 5), (1, 5), (4, 3, 1, 1), (3, 8, 2, 2), (6,), (5, 1)]))
def test_equal_outputs_do_not_differ(seed: int, shape: tuple[int, ...]) -> None:
    a, _ = pair(seed, shape)
    found = between(a, a.copy())
    assert (found.relative_error, found.max_abs, found.samples) == (0, 0, len(a))
    assert found.top1_agreement in (None, 1)
    assert found.kl in (None, 0)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0, 10))
def test_kl_is_never_negative_and_is_the_mean_over_samples(seed: int, spread: float) -> None:
    a, b = pair(seed, spread=spread)
    p, q = softmax(a, axis=1), softmax(b, axis=1)
    found = between(a, b).kl
    assert found is not None
    assert found >= 0
    assert found == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(1e-6, 1e6))
def test_the_relative_error_does_not_depend_on_scale(seed: int, scale: float) -> None:
    a, b = pair(seed)
    assert between(scale * a, scale * b).relative_error == pytest.approx(between(a, b).relative_error, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_relative_error_is_about_one_for_a_candidate_that_only_knows_the_mean(seed: int) -> None:
    a, _ = pair(seed)
    assert 0.8 < between(a, np.broadcast_to(a.mean(axis=0), a.shape)).relative_error <= 1


@settings(max_examples=20, deadline=None)
@given(seeds, st.booleans(), st.booleans())
def test_probabilities_and_logits_give_the_same_kl(seed: int, left: bool, right: bool) -> None:
    a, b = pair(seed)
    given_a = softmax(a, axis=1) if left else a
    given_b = softmax(b, axis=1) if right else b
    assert between(given_a, given_b).kl == pytest.approx(between(a, b).kl, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12))
@pytest.mark.parametrize("kind", ["logits", "probabilities", "maps"])
def test_how_samples_are_split_into_batches_does_not_matter(kind: str, seed: int, parts: int) -> None:
    a, b = pair(seed, (12, 3, 4, 4) if kind == "maps" else (12, 5))
    if kind == "probabilities":
        a, b = softmax(a, axis=1), softmax(b, axis=1)
    whole, split = between(a, b), between(a, b, parts=parts)
    assert split.samples == whole.samples
    for field in ("relative_error", "max_abs", "top1_agreement", "kl"):
        found, wanted = getattr(split, field), getattr(whole, field)
        assert found == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9))


def test_one_row_of_logits_that_could_be_probabilities_is_read_as_the_other_rows_are() -> None:
    a = np.array([[0.2, 0.8], [-3.0, 3.0]])
    b = np.array([[0.3, 0.5], [-3.0, 3.0]])
    assert between(a, b, parts=2).kl == pytest.approx(between(a, b).kl)
    p, q = softmax(a, axis=1), softmax(b, axis=1)
    assert between(a, b, parts=2).kl == pytest.approx((p * np.log(p / q)).sum() / 2)


def test_only_the_first_rows_count() -> None:
    a, b = pair(0)
    meter = DivergenceMeter()
    filled = [np.concatenate([v[:7], np.full((5, 5), 1e3 * sign)]) for v, sign in ((a, 1), (b, -1))]
    meter.add({"y": filled[0]}, {"y": filled[1]}, 7)
    assert meter.finish() == (between(a[:7], b[:7]),)


def test_agreement_is_the_share_of_samples_with_the_same_largest_column() -> None:
    a = np.eye(4)[[0, 1, 2, 3]] * 5 - 1
    b = np.eye(4)[[0, 1, 3, 3]] * 5 - 1
    assert between(a, b).top1_agreement == 0.75


@pytest.mark.parametrize(
    ("array", "classes"),
    [
        (np.zeros((2, 5)), 5),
        (np.zeros((2, 5, 1, 1), np.float16), 5),
        (np.zeros((2, 1, 1, 5)), 5),
        (np.zeros((2, 1)), None),
        (np.zeros(5), None),
        (np.zeros((2, 3, 4)), None),
        (np.zeros((2, 5), np.int64), None),
    ],
)
def test_class_scores_are_one_wide_axis_of_floating_point_numbers(array: Array, classes: int | None) -> None:
    found = class_scores(array)
    assert (None if found is None else found.shape) == (None if classes is None else (2, classes))


@pytest.mark.parametrize("candidate", [{}, {"z": np.zeros((2, 3))}, {"y": np.zeros((2, 4))}, {"y": np.zeros(2)}])
def test_a_missing_output_or_another_shape_is_a_verify_error_with_its_name(candidate: dict[str, Array]) -> None:
    with pytest.raises(VerifyError, match=r"output 'y' .*\(2, 3\)") as caught:
        DivergenceMeter().add({"y": np.zeros((2, 3))}, candidate, 2)
    assert "\n" not in str(caught.value)


def test_outputs_come_in_the_order_in_which_they_were_seen() -> None:
    meter = DivergenceMeter()
    outputs = {name: np.zeros((2, 3)) for name in "zay"}
    meter.add(outputs, dict(reversed(outputs.items())), 2)
    assert [output.name for output in meter.finish()] == list("zay")


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 11), st.integers(0, 4), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_candidate_that_is_not_finite_is_infinitely_far(seed: int, row: int, column: int, value: float) -> None:
    a, b = pair(seed)
    b[row, column] = value
    for parts in (1, 12):
        found = between(a, b, parts=parts)
        assert found.relative_error == np.inf
        assert found.max_abs == np.inf
        assert found.kl is not None
        assert found.kl >= 0
        if np.isnan(value):
            assert found.kl == np.inf


def test_a_candidate_of_nothing_but_nan_agrees_nowhere() -> None:
    a, _ = pair(0)
    a[:, 0] = 100
    assert between(a, np.full_like(a, np.nan)).top1_agreement == 0


def test_a_reference_of_nan_is_no_match_for_anything() -> None:
    a, b = pair(0)
    a[3, 2] = np.nan
    assert between(a, b).relative_error == between(a, a.copy()).relative_error == np.inf


def test_equal_infinities_do_not_differ() -> None:
    a, _ = pair(0)
    a[2, 1], a[5, 3] = -np.inf, np.inf
    found = between(a, a.copy())
    assert (found.relative_error, found.max_abs, found.top1_agreement) == (0, 0, 1)


def test_masked_classes_of_minus_infinity_do_not_count() -> None:
    a, b = pair(0)
    wanted = between(a, b).kl
    masked = [np.concatenate([v, np.full((12, 2), -np.inf)], axis=1) for v in (a, b)]
    assert between(*masked).kl == pytest.approx(wanted)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_whole_numbers_are_compared_as_numbers(dtype: Any) -> None:
    a, b = np.array([[1, 0], [0, 1]], dtype), np.array([[0, 0], [0, 1]], dtype)
    found = between(a, b)
    assert (found.max_abs, found.kl, found.top1_agreement) == (1, None, None)
    assert found.relative_error > 0


def test_an_output_that_never_varies_is_measured_by_its_size() -> None:
    a = np.full((4, 3), 10.0)
    assert between(a, a + 1).relative_error == pytest.approx(0.1)
    assert between(a * 0, a * 0 + 1).relative_error == np.inf


def test_a_scalar_and_an_empty_output_can_be_compared() -> None:
    meter = DivergenceMeter()
    outputs = {"scalar": np.array(3.0), "empty": np.zeros((0, 4))}
    meter.add(outputs, {name: array.copy() for name, array in outputs.items()}, 2)
    assert [output.relative_error for output in meter.finish()] == [0, 0]


def test_texts_are_the_same_or_not() -> None:
    words = np.array([["cat"], ["dog"]], dtype=object)
    assert between(words, words.copy()).relative_error == 0
    found = between(words, np.array([["cat"], ["cow"]], dtype=object))
    assert found.max_abs == 1
    assert found.top1_agreement is None


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(1, 8), st.booleans())
def test_a_temperature_softens_probabilities_and_logits_alike(seed: int, temperature: float, probable: bool) -> None:
    a, b = pair(seed)
    found = []
    for probabilities in (False, probable):
        meter = DivergenceMeter({"y": Meaning("classes", 1)}, temperature)
        left, right = (softmax(v, axis=1) if probabilities else v for v in (a, b))
        meter.add({"y": left}, {"y": right}, len(a))
        found.append(meter.finish()[0])
    assert found[0].distance == pytest.approx(found[1].distance, rel=1e-6, abs=1e-12)
    p, q = softmax(a / temperature, axis=1), softmax(b / temperature, axis=1)
    constant = p.mean(axis=0)
    kl, worst = ((p * np.log(p / other)).sum(axis=1) for other in (q, constant))
    assert found[0].distance == pytest.approx(bounded(1.0, kl / worst.mean()).mean(), rel=1e-6)


@given(count=st.integers(1, 2000), data=st.data())
def test_the_interval_of_a_share_is_that_of_scipy(count, data):
    hits = data.draw(st.integers(0, count))
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)
