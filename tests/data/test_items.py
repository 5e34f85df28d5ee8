"""Dicts, readers and iterables: model-ready samples from the Python API."""

import re

import numpy as np
import pytest

from onnxprune.data import InputSpec, open_calibration
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, pixels

VALUES = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
SIZES = np.arange(10, dtype=np.float32).reshape(5, 2)
TWO = [nchw(), InputSpec("size", (None, 2), FLOAT)]


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, items):
        self._items = iter(items)

    def get_next(self):
        return next(self._items, None)


def test_a_dict_holds_one_batch_for_each_input():
    found = open_calibration({"x": VALUES, "size": SIZES}, TWO, NO_OPTIONS)
    loaded = found.load([4, 0])
    np.testing.assert_array_equal(loaded["x"], VALUES[[4, 0]])
    np.testing.assert_array_equal(loaded["size"], SIZES[[4, 0]])
    assert (len(found), found.inputs, found.description["kind"]) == (5, ("x", "size"), "dict")


@pytest.mark.parametrize(
    "items",
    [
        [{"x": VALUES[:2], "size": SIZES[:2]}, {"x": VALUES[2:], "size": SIZES[2:]}],
        [{"x": value, "size": size} for value, size in zip(VALUES, SIZES, strict=True)],
        [{"x": VALUES[0], "size": SIZES[:1]}, {"x": VALUES[1:], "size": SIZES[1:]}],
    ],
)
def test_a_reader_may_give_batches_or_single_samples(items):
    found = open_calibration(Reader(items), TWO, NO_OPTIONS)
    assert found.description["source"] == "Reader"
    np.testing.assert_array_equal(found.load(range(5))["x"], VALUES)
    np.testing.assert_array_equal(found.load(range(5))["size"], SIZES)


def test_an_iterable_of_arrays_is_consumed_once():
    found = open_calibration((value for value in VALUES), [nchw()], NO_OPTIONS)
    for _ in range(2):
        np.testing.assert_array_equal(found.load(range(5))["x"], VALUES)


def test_a_buffer_that_a_reader_fills_again_is_copied():
    buffer = np.empty((3, 8, 8), np.float32)

    def refill():
        for value in VALUES:
            buffer[:] = value
            yield buffer

    np.testing.assert_array_equal(open_calibration(refill(), [nchw()], NO_OPTIONS).load(range(5))["x"], VALUES)


def test_all_sources_of_the_same_values_have_the_same_digest():
    digests = {
        open_calibration(source, [nchw()], NO_OPTIONS).digest()
        for source in (
            VALUES,
            {"x": VALUES},
            list(VALUES),
            Reader([{"x": VALUES}]),
            VALUES.astype(np.float64),
        )
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "list: no samples"),
        ([{"y": VALUES}], "list: item 0: names ['y'], expected exactly the model's inputs ['x']"),
        ([{"x": VALUES, "y": SIZES}], "names ['x', 'y'], expected exactly"),
        ([VALUES, VALUES[:, :, :4]], "list: item 1: shape (5, 3, 4, 8), expected (N, 3, 8, 8)"),
        ([VALUES[0, 0]], "item 0: shape (8, 8), expected a sample (3, 8, 8) or a batch (N, 3, 8, 8)"),
        ([VALUES, VALUES * np.nan], "list: item 1: sample 0 holds NaN or infinity"),
        ([pixels(3, 8, 8)], "item 0: uint8 for input 'x', which takes float32"),
        ([(VALUES[0], 3)], "item 0: a tuple for input 'x', expected an array"),
        (["photo.jpg"], "item 0: a str for input 'x'"),
        ([np.array([{}])], "item 0: shape (1), expected a sample"),
    ],
)
def test_an_item_that_does_not_fit_is_named_by_its_index(items, words):
    with pytest.raises(DataError, match=re.escape(words)):
        open_calibration(items, [nchw()], NO_OPTIONS)


def test_items_of_different_shapes_are_refused_on_a_dynamic_model():
    items = [np.zeros((3, 8, 8)), np.zeros((3, 9, 8))]
    with pytest.raises(
        DataError, match=re.escape("item 1: shape (3, 9, 8) without the batch, but item 0 has (3, 8, 8)")
    ):
        open_calibration(items, [nchw(None, None)], NO_OPTIONS)


def test_inputs_of_different_counts_are_refused():
    with pytest.raises(DataError, match=re.escape("item 0: different numbers of samples ('x' 5, 'size' 4)")):
        open_calibration({"x": VALUES, "size": SIZES[:4]}, TWO, NO_OPTIONS)


def test_an_array_alone_is_refused_for_several_inputs():
    with pytest.raises(DataError, match=re.escape("item 0: one ndarray, expected a dict with inputs ['x', 'size']")):
        open_calibration([VALUES], TWO, NO_OPTIONS)


@pytest.mark.parametrize("source", [{"x": VALUES}, [VALUES], Reader([{"x": VALUES}])])
def test_preprocessing_is_refused_rather_than_ignored(source):
    with pytest.raises(UsageError, match="model-ready, expected no --mean --color"):
        open_calibration(source, [nchw()], DataOptions(mean=(0.5,), color="bgr"))


def test_something_else_is_refused_with_its_type():
    with pytest.raises(UsageError, match="data is a int, expected a path, an array"):
        open_calibration(3, [nchw()], NO_OPTIONS)


def test_a_model_without_inputs_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="at least one model input"):
        open_calibration(VALUES, [], NO_OPTIONS)
