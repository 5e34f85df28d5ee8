import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxprune.data import InputSpec, open_calibration
from onnxprune.data.synthetic import natural_image, one_over_f
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc, notes

AS_IS = DataOptions(preset="none")


def made(spec, options=AS_IS, **more):
    return open_calibration("synthetic", [spec], options, **more)


def power_slope(image):
    """Exponent of the power spectrum of the brightness: 0 for white noise, about -2 for photographs."""
    gray = image.mean(axis=2)
    side = len(gray)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    inner = (frequency > 2.5 / side) & (frequency < 0.35)
    return np.polyfit(np.log(frequency[inner]), np.log(power[inner]), 1)[0]


def test_a_loud_warning_says_that_accuracy_on_made_up_images_is_unknown():
    found = made(nchw(), NO_OPTIONS)
    assert found.synthetic
    assert found.labels is None
    assert len(found) == 512
    warning = found.description["warning"]
    assert "unknown" in warning
    assert "--data" in warning
    assert json.loads(json.dumps(found.description))["kind"] == "synthetic"


def test_a_sample_depends_on_seed_and_index_alone():
    one, other = made(nchw(), seed=3), made(nchw(), seed=3)
    np.testing.assert_array_equal(one.load([5, 2])["x"], other.load([2, 5])["x"][::-1])
    assert one.digest() == other.digest()
    assert not np.array_equal(one.load([0])["x"], one.load([1])["x"])
    assert not np.array_equal(one.load([0])["x"], made(nchw(), seed=4).load([0])["x"])
    assert one.digest() != made(nchw(), seed=4).digest()


@pytest.mark.parametrize(
    ("spec", "options", "shape"),
    [
        (nchw(32, 48), AS_IS, (3, 32, 48)),
        (nhwc(32, 48, 1), AS_IS, (32, 48, 1)),
        (nchw(None, None), AS_IS, (3, 64, 64)),
        (nchw(48, None), AS_IS, (3, 48, 64)),
        (nchw(None, None), DataOptions(preset="imagenet"), (3, 224, 224)),
        (nchw(None, None), DataOptions(preset="imagenet", resize=(100,)), (3, 224, 224)),
        (nchw(None, None), DataOptions(preset="imagenet", crop=(90, 80)), (3, 90, 80)),
        (nchw(None, None), DataOptions(resize=(40,)), (3, 40, 40)),
        (nchw(None, None), DataOptions(resize=(40, 50)), (3, 40, 50)),
        (nchw(1, 2), AS_IS, (3, 1, 2)),
        (nchw(2, 40), AS_IS, (3, 2, 40)),
    ],
)
def test_made_up_images_have_the_size_of_the_model_or_of_the_options(spec, options, shape):
    assert made(spec, options).load([0, 1])["x"].shape == (2, *shape)


def test_images_for_a_uint8_model_are_pixels():
    loaded = made(nhwc(dtype=np.uint8), NO_OPTIONS).load([0])["x"]
    assert loaded.dtype == np.uint8


def test_the_recipe_applies_to_made_up_images():
    raw = made(nchw()).load([0])["x"]
    scaled = made(nchw(), DataOptions(mean=(0.5,), std=(0.25,))).load([0])["x"]
    np.testing.assert_allclose(scaled, (raw / 255 - 0.5) / 0.25, atol=1e-5)


def test_images_have_the_spectrum_of_photographs_and_not_of_white_noise():
    slopes = [power_slope(natural_image(np.random.default_rng(seed), (96, 96))) for seed in range(12)]
    assert -3 < np.mean(slopes) < -1.6
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3))
    assert abs(power_slope(noise)) < 0.4


def test_colours_go_together_and_images_differ_in_brightness_and_contrast():
    images = [natural_image(np.random.default_rng(seed), (64, 64)).astype(float) for seed in range(24)]
    correlations = [np.corrcoef(image.reshape(-1, 3).T)[[0, 0, 1], [1, 2, 2]] for image in images]
    assert 0.6 < np.mean(correlations) < 0.99
    assert np.std([image.mean() for image in images]) > 15
    assert np.std([image.std() for image in images]) > 5
    assert np.mean([(image == 0) | (image == 255) for image in images]) < 0.1


def test_inputs_that_take_no_images_get_smooth_noise_of_unit_variance():
    spec = InputSpec("audio", (None, 4096, 1), FLOAT)
    found = made(spec, NO_OPTIONS)
    loaded = found.load([0, 1])["audio"]
    assert loaded.shape == (2, 4096, 1)
    np.testing.assert_allclose(loaded.std(axis=1), 1, rtol=1e-5)
    assert np.abs(np.diff(loaded, axis=1)).std() < 0.5
    assert "'audio': 1/f noise of unit variance" in notes(found)


def test_open_extents_are_filled_in_and_noted():
    found = made(InputSpec("a", (None, 16, None), FLOAT), NO_OPTIONS)
    assert found.load([0])["a"].shape == (1, 16, 64)
    assert "the model leaves sizes open" in notes(found)


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(1, 9), max_size=4).map(tuple), seed=st.integers(0, 2**32))
def test_noise_of_any_shape_is_finite_and_standardised(shape, seed):
    noise = one_over_f(np.random.default_rng(seed), shape)
    assert noise.shape == shape
    assert np.isfinite(noise).all()
    if noise.size > 1:
        assert abs(noise.mean()) < 1e-9
        assert abs(noise.std() - 1) < 1e-9


def test_several_inputs_are_made_up_together():
    specs = [nchw(), InputSpec("a", (None, 8), FLOAT), InputSpec("b", (None, 8), FLOAT)]
    found = open_calibration("synthetic", specs, AS_IS, synthetic_count=4)
    assert len(found) == 4
    loaded = found.load([0, 3])
    assert {name: array.shape for name, array in loaded.items()} == {
        "x": (2, 3, 8, 8),
        "a": (2, 8),
        "b": (2, 8),
    }
    assert not np.array_equal(loaded["a"], loaded["b"])
    with pytest.raises(IndexError):
        found.load([4])


def test_integers_that_are_no_pixels_are_not_made_up():
    with pytest.raises(DataError, match=r"expected images or float inputs, found input 'ids' \(N, 8\) int64"):
        made(InputSpec("ids", (None, 8), np.dtype(np.int64)), NO_OPTIONS)


@pytest.mark.parametrize("path", [None, Path("net.onnx")])
def test_without_data_nothing_is_made_up_and_both_ways_out_are_told(path):
    with pytest.raises(DataError, match=r"--data FOLDER.*--data synthetic") as caught:
        open_calibration(None, [nchw()], NO_OPTIONS, model_path=path)
    assert ("net.calib.npz does not exist" in str(caught.value)) == (path is not None)


@pytest.mark.parametrize("source", ["./synthetic", Path("synthetic")])
def test_a_folder_of_that_name_is_read_where_it_is_given_as_a_path(source, tmp_path, monkeypatch):
    (tmp_path / "synthetic").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "synthetic" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert not open_calibration(source, [nchw()], AS_IS).synthetic
    found = made(nchw())
    assert found.synthetic
    assert "'synthetic', which was not read" in notes(found)


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed of 0 or more"):
        made(nchw(), seed=-1)
