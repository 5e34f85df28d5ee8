"""Presets, options and stored numbers, through the function that users call."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from onnxprune.data import InputSpec, open_calibration
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc, notes, pixels

PIXEL = np.array([10, 100, 200], dtype=np.uint8)
"""R, G, B of the image whose values are worked out by hand."""


def value(spec=None, **options):
    """What the model sees of `PIXEL`: one number a channel."""
    image = np.broadcast_to(PIXEL, (2, 8, 8, 3)).copy()
    loaded = open_calibration(image, [spec or nchw()], DataOptions(**options)).load([0])["x"]
    return loaded[0, :, 4, 4] if spec is None or spec.shape[1] == 3 else loaded[0, 4, 4]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0392157, 0.3921569, 0.7843137]),
        ({"preset": "none"}, [10, 100, 200]),
        ({"preset": "imagenet"}, [-1.9466565, -0.2850140, 1.6813943]),
        ({"preset": "imagenet-tf"}, [-0.9215686, -0.2156863, 0.5686275]),
        ({"preset": "caffe"}, [96, -17, -113]),
        ({"preset": "cifar10"}, [-1.8307057, -0.3697870, 1.2913367]),
        ({"preset": "caffe", "color": "rgb"}, [-113, -17, 96]),
        ({"preset": "imagenet", "color": "bgr"}, [1.6813943, -0.2850140, -1.9466565]),
        ({"mean": (0.5,), "std": (0.5,)}, [-0.9215686, -0.2156863, 0.5686275]),
        ({"scale": 1.0, "mean": (1.0, 2.0, 3.0), "color": "bgr"}, [199, 98, 7]),
        ({"preset": "caffe", "mean": (0.0,)}, [200, 100, 10]),
        ({"preset": "imagenet", "scale": 1.0, "mean": (10.0,), "std": (2.0,)}, [0, 45, 95]),
        ({"scale": 1 / 128, "mean": (127 / 128,)}, [-0.9140625, -0.2109375, 0.5703125]),
    ],
)
def test_values_agree_with_those_worked_out_by_hand(options, expected):
    np.testing.assert_allclose(value(**options), expected, rtol=2e-6)


def test_the_values_of_an_nhwc_model_are_the_same():
    np.testing.assert_array_equal(value(nhwc(), preset="imagenet"), value(preset="imagenet"))


def test_half_precision_models_get_half_precision():
    assert value(nchw(dtype=np.float16)).dtype == np.float16


def test_no_recipe_at_all_leaves_a_note():
    words = "no --preset or --mean/--std given: scaled to 0..1"
    assert words in notes(open_calibration(pixels(2, 8, 8, 3), [nchw()], NO_OPTIONS))
    assert words not in notes(open_calibration(pixels(2, 8, 8, 3), [nchw()], DataOptions(preset="none")))


def test_images_of_the_models_size_are_not_resized_by_a_preset():
    images = pixels(2, 8, 8, 3)
    found = open_calibration(images, [nhwc()], DataOptions(preset="imagenet", scale=1.0, mean=(0.0,), std=(1.0,)))
    np.testing.assert_array_equal(found.load([0, 1])["x"], images)
    assert "images are 8x8 already" in notes(found)


@pytest.mark.parametrize(
    ("spec", "resize", "crop"),
    [
        (nchw(224, 224), 256, (224, 224)),
        (nchw(None, None), 256, (224, 224)),
        (nchw(160, 160), 183, (160, 160)),
        (nchw(299, 299), 342, (299, 299)),
        (nchw(96, 192), 219, (96, 192)),
    ],
)
def test_a_presets_resize_and_crop_keep_their_ratio_at_other_model_sizes(spec, resize, crop):
    found = open_calibration(pixels(2, 30, 40, 3), [spec], DataOptions(preset="imagenet"))
    recipe = found.description["preprocessing"]
    assert (recipe["resize"], recipe["crop"]) == (resize, crop)
    assert found.load([0])["x"].shape == (1, 3, *crop)


@pytest.mark.parametrize(
    ("options", "resize", "crop"),
    [
        (DataOptions(preset="imagenet", resize=(232,)), 232, (224, 224)),
        (DataOptions(preset="imagenet", crop=(112,)), 128, (112, 112)),
        (DataOptions(preset="imagenet", resize=(100, 50)), (100, 50), None),
        (DataOptions(resize=(60,), crop=(50, 40)), 60, (50, 40)),
        (DataOptions(crop=(10,)), None, (10, 10)),
        (DataOptions(preset="cifar10"), None, None),
    ],
)
def test_resize_and_crop_options_override_their_part_of_a_preset(options, resize, crop):
    found = open_calibration(pixels(2, 30, 40, 3), [nchw(None, None)], options).description["preprocessing"]
    assert (found["resize"], found["crop"]) == (resize, crop)


def test_images_of_another_size_are_resized_to_a_fixed_model_and_a_note_says_so():
    images = pixels(2, 30, 40, 3)
    found = open_calibration(images, [nhwc(8, 12)], DataOptions(preset="none"))
    expected = np.asarray(Image.fromarray(images[1]).resize((12, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found.load([1])["x"][0], expected)
    assert "resized to the model's 8x12, proportions not kept" in notes(found)


def test_a_short_side_on_a_fixed_model_crops_to_its_size_and_says_so():
    found = open_calibration(pixels(2, 30, 40, 3), [nchw()], DataOptions(resize=(10,)))
    assert found.load([0])["x"].shape == (1, 3, 8, 8)
    assert "centre crop to 8x8 after --resize 10" in notes(found)


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (
            nchw(),
            DataOptions(resize=(9, 9)),
            "array: 9x9 after resize and crop, expected 8x8 for input 'x' (N, 3, 8, 8) float32: add",
        ),
        (nchw(), DataOptions(resize=(6,)), "array: 6x8, smaller than the crop 8x8: add or enlarge --resize"),
        (nchw(None, None), DataOptions(crop=(50,)), "array: 30x40, smaller than the crop 50x50"),
        (nchw(48, None), NO_OPTIONS, "array: 30x40 after resize and crop, expected 48x?"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused_with_the_way_out(spec, options, words):
    with pytest.raises(DataError, match=re.escape(words)):
        open_calibration(pixels(2, 30, 40, 3), [spec], options)


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (nchw(), DataOptions(mean=(127.0,), std=(128.0,)), "--mean 127 lies outside the scaled pixels"),
        (nchw(), DataOptions(mean=(123.7, 116.8, 103.9)), "add --scale 1"),
        (
            nchw(channels=1),
            DataOptions(preset="imagenet"),
            "mean has 3 numbers (0.485 0.456 0.406), the model takes 1",
        ),
        (nchw(channels=1), DataOptions(std=(1.0, 2.0, 3.0)), "std has 3 numbers (1 2 3)"),
        (nchw(channels=1), DataOptions(color="bgr"), "--color bgr: the model takes one channel"),
        (nchw(dtype=np.uint8), DataOptions(mean=(1.0,)), "takes unscaled pixels: drop --mean"),
        (InputSpec("x", (None,) * 4, FLOAT), NO_OPTIONS, "add --layout nchw or --layout nhwc"),
    ],
)
def test_options_that_would_feed_wrong_values_are_refused(spec, options, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        open_calibration(pixels(2, 8, 8, 3), [spec], options)


def test_images_are_refused_for_an_input_of_another_integer_type():
    with pytest.raises(DataError, match=r"integers that hold 0\.\.255"):
        open_calibration(pixels(2, 8, 8, 3), [nchw(dtype=np.int8)], NO_OPTIONS)


def test_a_uint8_model_gets_pixels_even_with_a_preset():
    images = pixels(2, 8, 8, 3)
    found = open_calibration(images, [nchw(dtype=np.uint8)], DataOptions(preset="imagenet", color="bgr"))
    loaded = found.load([0, 1])["x"]
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, images[..., ::-1].transpose(0, 3, 1, 2))
    assert "pixels are not scaled" in notes(found)


def test_an_open_channel_count_is_assumed_aloud():
    spec = InputSpec("x", (None, None, 8, 8), FLOAT)
    for options, channels in ((DataOptions(layout="nchw"), 3), (DataOptions(layout="nchw", color="gray"), 1)):
        found = open_calibration(pixels(2, 8, 8, 3), [spec], options)
        assert found.load([0])["x"].shape == (1, channels, 8, 8)
        assert f"number of channels open: {channels} assumed" in notes(found)


def test_a_recipe_in_the_file_is_used_field_by_field_where_no_option_says_otherwise(tmp_path):
    path = tmp_path / "m.npz"
    image = np.broadcast_to(PIXEL, (2, 8, 8, 3))
    np.savez(path, images=image, mean=[1.0, 2.0, 3.0], std=2.0, scale=1.0)

    def first(options):
        return open_calibration(path, [nchw()], options).load([0])["x"][0, :, 0, 0]

    np.testing.assert_allclose(first(NO_OPTIONS), [4.5, 49, 98.5])
    np.testing.assert_allclose(first(DataOptions(mean=(0.0,))), [5, 50, 100])
    np.testing.assert_allclose(first(DataOptions(preset="none")), [10, 100, 200])
    found = open_calibration(path, [nchw()], NO_OPTIONS)
    assert "stored with the images" in notes(found)
    assert "scaled to 0..1" not in notes(found)


def test_every_digest_tells_recipes_apart():
    images = pixels(2, 8, 8, 3)
    options = [NO_OPTIONS, DataOptions(preset="none"), DataOptions(color="bgr"), DataOptions(mean=(0.5,))]
    digests = {open_calibration(images, [nchw()], option).digest() for option in options}
    assert len(digests) == len(options)
    assert open_calibration(images, [nchw()], replace(NO_OPTIONS)).digest() in digests
