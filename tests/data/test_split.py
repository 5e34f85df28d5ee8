import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import open_calibration, split
from onnxprune.errors import DataError, UsageError

from .helpers import NO_OPTIONS, nchw


def calibration(count):
    return open_calibration(np.zeros((count, 3, 8, 8), np.float32), [nchw()], NO_OPTIONS)


@given(count=st.integers(2, 60), samples=st.none() | st.integers(2, 80), seed=st.integers(0, 1000))
def test_both_parts_are_sorted_disjoint_and_as_many_as_asked_for(count, samples, seed):
    data = open_calibration("synthetic", [nchw()], NO_OPTIONS, synthetic_count=count)
    fit, held = split(data, samples, seed=seed)
    total = min(count, samples or count)
    assert fit.dtype == held.dtype == np.int64
    assert len(fit) + len(held) == total
    assert len(held) == max(1, round(total * 0.1))
    assert (np.diff(fit) > 0).all()
    assert (np.diff(held) > 0).all()
    assert len(np.union1d(fit, held)) == total
    assert np.union1d(fit, held).max() < count


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (100, 10), (2560, 256), (9000, 256)])
def test_a_tenth_is_held_back_but_at_least_one_and_at_most_256(count, held):
    data = open_calibration("synthetic", [nchw()], NO_OPTIONS, synthetic_count=count)
    assert len(split(data, None)[1]) == held


def test_the_choice_depends_on_the_seed_alone():
    data = calibration(50)
    first, again, other = split(data, 20, seed=1), split(data, 20, seed=1), split(data, 20, seed=2)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("count", "samples"), [(1, None), (1, 10), (50, 1), (50, 0), (50, -3)])
def test_fewer_than_two_samples_are_refused(count, samples):
    with pytest.raises(DataError, match=r"array: .*expected at least 2"):
        split(calibration(count), samples)


def test_arguments_out_of_range_are_refused():
    data = calibration(10)
    for arguments in (
        {"held_out_fraction": 0.0},
        {"held_out_fraction": 1.0},
        {"held_out_max": 0},
        {"seed": -1},
    ):
        with pytest.raises(UsageError):
            split(data, None, **arguments)


def test_never_is_everything_held_back():
    fit, held = split(calibration(2), None, held_out_fraction=0.99)
    assert (len(fit), len(held)) == (1, 1)
