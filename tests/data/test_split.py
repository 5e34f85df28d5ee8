import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import open_calibration, split
from onnxprune.errors import DataError, UsageError

from .helpers import NO_OPTIONS, nchw


def calibration(images):
    return open_calibration(np.asarray(images, np.float32), [nchw()], NO_OPTIONS)


def different(count, seed=0):
    return calibration(np.random.default_rng(seed).standard_normal((count, 3, 8, 8)))


@given(
    count=st.integers(3, 60), samples=st.none() | st.integers(3, 80), seed=st.integers(0, 999), choosing=st.booleans()
)
def test_parts_are_sorted_disjoint_and_as_many_as_asked_for(count, samples, seed, choosing):
    parts = split(different(count), samples, choosing=choosing, seed=seed)
    total, tenth = min(count, samples or count), max(1, round(min(count, samples or count) * 0.1))
    assert (len(parts.held), len(parts.choose)) == (tenth, tenth if choosing else 0)
    together = np.concatenate([parts.fit, parts.choose, parts.held])
    assert len(together) == len(np.unique(together)) == total == parts.distinct
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in (parts.fit, parts.choose, parts.held))
    assert together.max() < count


@given(count=st.integers(3, 80), seed=st.integers(0, 99))
def test_both_halves_have_about_as_many_samples(count, seed):
    parts = split(different(count), None, seed=seed)
    share = parts.halves[parts.fit].mean()
    assert 0 < share < 1 or len(parts.fit) < 2
    assert abs(share - 0.5) < 0.35 if len(parts.fit) > 4 else True


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (100, 10), (2560, 256), (2900, 256)])
def test_a_tenth_is_held_back_but_at_least_one_and_at_most_256(count, held):
    assert len(split(different(count), None).held) == held


def test_near_duplicates_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    scenes = rng.standard_normal((30, 3, 8, 8))
    frames = np.repeat(scenes, 10, axis=0) + 0.02 * rng.standard_normal((300, 3, 8, 8))
    for order in (np.arange(300), rng.permutation(300)):
        parts = split(calibration(frames[order]), None, choosing=True)
        assert parts.distinct == 30
        scene = order // 10
        sides = [parts.choose, parts.held, *(parts.fit[parts.halves[parts.fit] == half] for half in (0, 1))]
        of = [set(scene[side].tolist()) for side in sides]
        assert all(of)
        assert sum(len(one) for one in of) == 30


def test_the_same_image_many_times_is_one_input_and_is_parted_all_the_same():
    parts = split(calibration(np.ones((40, 3, 8, 8))), None, choosing=True)
    assert parts.distinct == 1
    assert (len(parts.fit), len(parts.choose), len(parts.held)) == (32, 4, 4)
    assert set(parts.halves[parts.fit]) == {0, 1}


def test_neighbours_go_to_the_same_half_nearly_always():
    parts = split(different(1000), None)
    assert np.abs(np.diff(parts.halves[parts.fit])).sum() < 32


def test_the_draw_depends_on_the_seed_alone():
    data = different(50)
    first, again, other = (split(data, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.fit, again.fit)
    np.testing.assert_array_equal(first.held, again.held)
    np.testing.assert_array_equal(first.halves, again.halves)
    assert not np.array_equal(first.fit, other.fit)


@pytest.mark.parametrize(("count", "samples"), [(1, None), (1, 10), (50, 1), (50, 0), (50, -3)])
def test_fewer_than_two_samples_are_refused(count, samples):
    with pytest.raises(DataError, match=r"array: .*expected at least 2"):
        split(different(count), samples)


def test_to_choose_by_some_there_must_be_three():
    with pytest.raises(DataError, match=r"expected at least 3.*one to choose by"):
        split(different(2), None, choosing=True)


def test_a_seed_below_zero_is_refused():
    with pytest.raises(UsageError, match="--seed"):
        split(different(10), None, seed=-1)
