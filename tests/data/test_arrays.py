"""One array for a model of one input: pixels or values, and the two layouts."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import InputSpec, open_calibration
from onnxprune.errors import DataError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc, notes, pixels

AS_IS = DataOptions(preset="none")


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 4),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    channels=st.sampled_from([1, 3]),
    stored=st.sampled_from([nchw, nhwc]),
    model=st.sampled_from([nchw, nhwc]),
    floats=st.booleans(),
)
def test_either_layout_feeds_either_model_with_the_same_values(count, height, width, channels, stored, model, floats):
    images = pixels(count, height, width, channels)
    array = images if stored is nhwc else images.transpose(0, 3, 1, 2)
    found = open_calibration(
        array.astype(np.float32) if floats else array,
        [model(height, width, channels)],
        NO_OPTIONS if floats else AS_IS,
    ).load(range(count))["x"]
    expected = images if model is nhwc else images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]


def test_floats_are_model_ready_unless_preprocessing_is_asked_for():
    values = np.random.default_rng(0).normal(size=(3, 3, 8, 8))
    found = open_calibration(values, [nchw()], NO_OPTIONS)
    np.testing.assert_array_equal(found.load([0, 1, 2])["x"], values.astype(np.float32))
    assert found.description["preprocessing"] is None
    assert "values taken as model-ready" in notes(found)
    as_pixels = pixels(3, 8, 8, 3).astype(np.float32)
    found = open_calibration(as_pixels, [nhwc()], DataOptions(preset="imagenet-tf"))
    np.testing.assert_allclose(found.load([0, 1, 2])["x"], as_pixels / 127.5 - 1, atol=1e-6)
    assert "float values taken as pixels because of --preset" in notes(found)


@pytest.mark.parametrize(
    ("low", "high", "options", "words"),
    [
        (
            0,
            1,
            DataOptions(preset="imagenet"),
            "expected pixels 0..255 for --preset (scale 0.00392157): add --scale 1,",
        ),
        (0, 1, DataOptions(preset="imagenet-tf"), "add --scale 2,"),
        (0, 1, DataOptions(preset="caffe"), "add --scale 255,"),
        (-2, 2, DataOptions(resize=(8, 8)), "float values -2..2, expected pixels 0..255 for --resize"),
        (0, 65535, DataOptions(mean=(0.5,)), "give their factor with --scale, or drop the preprocessing"),
    ],
)
def test_floats_that_do_not_look_like_pixels_are_not_scaled_like_pixels(low, high, options, words):
    values = np.full((2, 8, 8, 3), low, np.float32)
    values[1, 2, 3, 0] = high
    with pytest.raises(DataError, match=re.escape(words)):
        open_calibration(values, [nchw()], options)
    assert len(open_calibration(values, [nchw()], replace(options, scale=1.0))) == 2


def test_floats_beside_a_stored_recipe_are_pixels(tmp_path):
    values = pixels(2, 8, 8, 3).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=values, mean=0.5)
    found = open_calibration(tmp_path / "x.npz", [nhwc()], NO_OPTIONS)
    np.testing.assert_allclose(found.load([0, 1])["x"], values / 255 - 0.5, atol=1e-6)


def test_a_transposition_is_noted():
    values = np.zeros((2, 8, 8, 3), np.float32)
    assert "transposed to nchw" in notes(open_calibration(values, [nchw()], NO_OPTIONS))
    assert "transposed" not in notes(open_calibration(values, [nhwc()], NO_OPTIONS))


def test_the_layout_option_turns_values_of_a_model_whose_shape_does_not_tell():
    spec = InputSpec("x", (None,) * 4, FLOAT)
    values = np.zeros((2, 8, 9, 3), np.float32)
    assert open_calibration(values, [spec], DataOptions(layout="nchw")).load([0])["x"].shape == (1, 3, 8, 9)
    assert open_calibration(values, [spec], DataOptions(layout="nhwc")).load([0])["x"].shape == (1, 8, 9, 3)


def test_gray_images_need_no_channel_axis():
    images = pixels(5, 8, 9)
    np.testing.assert_array_equal(open_calibration(images, [nchw(8, 9, 1)], AS_IS).load([4])["x"][0, 0], images[4])
    found = open_calibration(images, [nchw(8, 9)], AS_IS)
    np.testing.assert_array_equal(found.load([4])["x"][0], np.stack([images[4]] * 3))
    assert "5 gray images repeated" in notes(found)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_values_of_the_models_own_integer_type_pass_through(dtype):
    values = pixels(4, 5).astype(dtype)
    found = open_calibration(values, [InputSpec("x", (None, 5), np.dtype(dtype))], NO_OPTIONS).load([1, 2])["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values[1:3])


@pytest.mark.parametrize(
    ("array", "spec", "words"),
    [
        (np.zeros((5, 4, 4)), nchw(), "array: shape (5, 4, 4), expected (N, 3, 8, 8) for input 'x'"),
        (np.zeros((5, 3, 9, 8)), nchw(), "array: shape (5, 3, 9, 8), expected (N, 3, 8, 8)"),
        (np.zeros((5, 7, 8, 8)), nchw(None, None), "array: shape (5, 7, 8, 8), expected (N, 3, ?, ?)"),
        (np.zeros(5), nchw(), "array: shape (5), expected at least one sample along the first axis"),
        (np.zeros((0, 3, 8, 8)), nchw(), "array: shape (0, 3, 8, 8), expected at least one sample"),
        (np.zeros((2, 3, 0, 8)), nchw(None, 8), "array: shape (2, 3, 0, 8), expected at least one sample"),
        (pixels(5, 8, 8, 4), nchw(), "shape (5, 8, 8, 4) is no array of images"),
        (pixels(8, 8), nchw(), "shape (8, 8) is no array of images"),
        (pixels(5, 3, 8, 3), nchw(), "shape (5, 3, 8, 3) fits both"),
        (pixels(8, 9, 3), nchw(), "shape (8, 9, 3) may be one image or several gray ones"),
        (pixels(3, 8, 9), nchw(), "shape (3, 8, 9) may be one image or several gray ones"),
        (pixels(5, 6), InputSpec("x", (None, 6), FLOAT), "takes none (four axes, 1 or 3 channels)"),
        (np.zeros((5, 3, 8, 8), int), nchw(), "array: int64 for input 'x', which takes float32"),
        (np.zeros((5, 3, 8, 8), bool), nchw(), "array: bool for input 'x'"),
        (np.full((5, 3, 8, 8), "a"), nchw(), "array: <U1 for input 'x'"),
        (np.zeros((5, 3, 8, 8)), nchw(dtype=np.uint8), "array: float64 for input 'x' which takes uint8"),
        (np.full((5, 3, 8, 8), 1e6), nchw(dtype=np.float16), "do not fit float16"),
        (np.full((5, 4), 2**40), InputSpec("x", (None, 4), np.dtype(np.int32)), "do not fit int32"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_what_was_found_and_expected(array, spec, words):
    words = words.replace("' which", "', which")
    with pytest.raises(DataError, match=re.escape(words)):
        open_calibration(array, [spec], NO_OPTIONS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [NO_OPTIONS, AS_IS])
def test_a_value_that_is_not_finite_names_the_file_and_the_first_bad_sample(tmp_path, bad, options):
    values = np.ones((7, 8, 8, 3), np.float32)
    values[[4, 6], 1, 2, 0] = bad
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=r"x\.npy: sample 4 holds NaN or infinity"):
        open_calibration(tmp_path / "x.npy", [nchw()], options)


def test_preprocessing_is_refused_for_integers_that_are_no_pixels():
    with pytest.raises(DataError, match="int64 values, expected uint8 pixels or floats to apply --preset to"):
        open_calibration(np.zeros((5, 3, 8, 8), int), [nchw()], AS_IS)


def test_floats_are_not_squeezed_into_a_uint8_model():
    with pytest.raises(DataError, match="expected uint8 pixels for input 'x'"):
        open_calibration(np.zeros((5, 3, 8, 8)), [nchw(dtype=np.uint8)], AS_IS)


def test_one_array_is_refused_for_several_inputs():
    with pytest.raises(DataError, match="the model has 2 inputs, expected a dict with 'x', 'y'"):
        open_calibration(pixels(2, 8, 8, 3), [nchw(), InputSpec("y", (None, 2), FLOAT)], NO_OPTIONS)


def test_the_digest_follows_every_value():
    for dtype in (np.uint8, np.float32):
        images = pixels(3, 8, 8, 3).astype(dtype)
        before = open_calibration(images.copy(), [nchw()], NO_OPTIONS).digest()
        assert before == open_calibration(images.copy(), [nchw()], NO_OPTIONS).digest()
        images[2, 7, 7, 2] += 1
        assert before != open_calibration(images, [nchw()], NO_OPTIONS).digest()


def test_the_description_is_json():
    for array in (pixels(3, 8, 8, 3), np.zeros((3, 3, 8, 8))):
        description = open_calibration(array, [nchw()], NO_OPTIONS).description
        assert json.loads(json.dumps(description))["count"] == 3
        assert "warning" not in description
