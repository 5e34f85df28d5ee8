import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from onnxprune.data import Preprocessing

from .helpers import FLOAT, pixels

PLAIN = Preprocessing(
    resize=None,
    crop=None,
    color="rgb",
    channels=3,
    layout="nhwc",
    scale=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    dtype=FLOAT,
)
numbers = st.floats(-300, 300, width=32)
positives = st.floats(0.015625, 300, width=32)


@settings(deadline=None, max_examples=50)
@given(
    images=hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))),
    scale=positives,
    mean=st.tuples(numbers, numbers, numbers),
    std=st.tuples(positives, positives, positives),
    layout=st.sampled_from(["nchw", "nhwc"]),
    color=st.sampled_from(["rgb", "bgr"]),
)
def test_every_value_is_pixel_times_scale_less_mean_over_std(images, scale, mean, std, layout, color):
    recipe = replace(PLAIN, scale=scale, mean=mean, std=std, layout=layout, color=color)
    found = recipe.apply(images)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    for channel in range(3):
        pixel = images[..., channel if color == "rgb" else 2 - channel].astype(np.float64)
        values = found[:, channel] if layout == "nchw" else found[..., channel]
        expected = (pixel * scale - mean[channel]) / std[channel]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-30)


def test_the_two_layouts_hold_the_same_values():
    images = pixels(2, 5, 7, 3)
    first = replace(PLAIN, layout="nchw").apply(images)
    assert first.shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), PLAIN.apply(images))


def test_uint8_values_pass_through_untouched():
    images = pixels(2, 5, 7, 3)
    found = replace(PLAIN, dtype=np.dtype(np.uint8)).apply(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images)


def test_scaled_values_are_refused_for_an_integer_type():
    with pytest.raises(ValueError, match="do not fit uint8"):
        replace(PLAIN, dtype=np.dtype(np.uint8), scale=0.5)


def test_as_many_means_and_stds_as_channels_are_required():
    with pytest.raises(ValueError, match="3 channels, 1 means, 3 stds"):
        replace(PLAIN, mean=(0.0,))


@pytest.mark.parametrize(
    ("resize", "crop", "size", "expected"),
    [
        (None, None, (5, 7), (5, 7)),
        (256, None, (375, 500), (256, 341)),
        (256, None, (500, 375), (341, 256)),
        (256, None, (300, 500), (256, 426)),
        (256, (224, 224), (375, 500), (224, 224)),
        ((10, 20), None, (375, 500), (10, 20)),
        (None, (3, 5), (4, 6), (3, 5)),
    ],
)
def test_sizes_follow_resize_then_crop(resize, crop, size, expected):
    recipe = replace(PLAIN, resize=resize, crop=crop)
    assert recipe.output_size(size) == expected
    assert recipe.apply([pixels(*size, 3)]).shape == (1, *expected, 3)


def test_a_crop_larger_than_its_image_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        replace(PLAIN, crop=(5, 8)).apply([pixels(5, 7, 3)])


def test_the_crop_is_central_and_rounded_to_even_like_torchvision():
    image = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1).repeat(3, axis=2)
    found = replace(PLAIN, crop=(2, 4)).apply([image])[0, :, :, 0]
    np.testing.assert_array_equal(found, image[2:4, 2:6, 0])


def test_a_resize_is_pillows_bilinear_for_pixels_and_for_floats():
    image = pixels(9, 13, 3)
    expected = np.asarray(Image.fromarray(image).resize((6, 4), Image.Resampling.BILINEAR))
    recipe = replace(PLAIN, resize=(4, 6))
    np.testing.assert_array_equal(recipe.apply([image])[0], expected)
    np.testing.assert_allclose(recipe.apply([image.astype(np.float32)])[0], expected, atol=1.01)


def test_gray_images_are_repeated_for_three_channels():
    image = pixels(4, 5, 1)
    found = PLAIN.apply([image])
    for channel in range(3):
        np.testing.assert_array_equal(found[0, :, :, channel], image[:, :, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_become_luma(channels):
    image = pixels(6, 5, 3)
    numbers = {"channels": channels, "mean": (0.0,) * channels, "std": (1.0,) * channels}
    found = replace(PLAIN, color="gray", **numbers).apply([image])
    expected = np.asarray(Image.fromarray(image).convert("L"))
    assert found.shape == (1, 6, 5, channels)
    for channel in range(channels):
        np.testing.assert_allclose(found[0, :, :, channel], expected, atol=1)


def test_pure_red_green_and_blue_have_the_luma_of_bt601():
    image = np.eye(3, dtype=np.uint8)[np.newaxis] * 255
    recipe = replace(PLAIN, color="gray", channels=1, mean=(0.0,), std=(1.0,))
    np.testing.assert_array_equal(recipe.apply([image]).ravel(), [76, 150, 29])
    np.testing.assert_allclose(recipe.apply([image.astype(np.float64)]).ravel(), [76.245, 149.685, 29.07], rtol=1e-6)


def test_the_description_is_json_and_says_everything():
    described = json.loads(json.dumps(replace(PLAIN, resize=256, crop=(2, 3)).describe()))
    assert described == {
        "pad": None,
        "resize": 256,
        "crop": [2, 3],
        "color": "rgb",
        "channels": 3,
        "layout": "nhwc",
        "scale": 1.0,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "dtype": "float32",
    }


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError):
        PLAIN.apply([])
