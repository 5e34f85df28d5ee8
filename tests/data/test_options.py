import re

import numpy as np
import pytest

from onnxprune.data import InputSpec
from onnxprune.data.layout import image_input
from onnxprune.errors import UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": 0.0}, "--scale must be a positive number, found 0.0"),
        ({"scale": float("nan")}, "--scale must be a positive number, found nan"),
        ({"std": (0.0,)}, "--std must be positive, found 0"),
        ({"std": (1.0, 2.0)}, "--std takes one number or three, found 1 2"),
        ({"mean": ()}, "--mean takes one number or three, found nothing"),
        ({"mean": (float("inf"),)}, "--mean takes one number or three, found inf"),
        ({"resize": (1, 2, 3)}, "--resize takes N or H W"),
        ({"crop": (0,)}, "--crop takes N or H W"),
        ({"crop": ()}, "found nothing"),
        ({"resize": (10**9,)}, "each from 1 to 16384 pixels"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_its_flag(values, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        DataOptions(**values)


def test_the_layout_does_not_count_as_preprocessing_but_everything_else_does():
    assert DataOptions(layout="nhwc").given() == ()
    everything = DataOptions(
        preset="none", mean=(0.0,), std=(1.0,), scale=1.0, resize=(8,), crop=(8,), color="rgb", layout="nchw"
    )
    assert everything.given() == ("--preset", "--mean", "--std", "--scale", "--resize", "--crop", "--color")


def test_extents_below_one_are_dynamic():
    assert InputSpec("x", (-1, 3, 0, None), FLOAT).shape == (None, 3, None, None)


@pytest.mark.parametrize(
    ("spec", "layout", "channels", "size"),
    [
        (nchw(10, 12), "nchw", 3, (10, 12)),
        (nhwc(10, 12), "nhwc", 3, (10, 12)),
        (nchw(None, None, 1), "nchw", 1, (None, None)),
        (nhwc(None, 12, 1), "nhwc", 1, (None, 12)),
    ],
)
def test_the_axis_of_one_or_three_channels_tells_the_layout(spec, layout, channels, size):
    found = image_input(spec, NO_OPTIONS)
    assert (found.layout, found.channels, (found.height, found.width)) == (layout, channels, size)


@pytest.mark.parametrize("shape", [(None, None, None, None), (1, 3, 16, 3), (1, 1, 40, 1), (None, None, 8, 8)])
def test_a_shape_that_does_not_tell_the_layout_asks_for_the_option(shape):
    spec = InputSpec("x", shape, FLOAT)
    with pytest.raises(UsageError, match="add --layout nchw or --layout nhwc"):
        image_input(spec, NO_OPTIONS)
    assert image_input(spec, DataOptions(layout="nchw")).layout == "nchw"


def test_a_layout_that_contradicts_the_shape_is_refused_with_the_one_that_fits():
    with pytest.raises(UsageError, match=r"makes 32 channels of input 'x' \(N, 3, 32, 32\).*use --layout nchw"):
        image_input(nchw(32, 32), DataOptions(layout="nhwc"))


@pytest.mark.parametrize("shape", [(None, 10), (None, 16, 8, 8), (None, 3, 8), (None, 3, 4, 8, 8), ()])
def test_an_input_of_another_rank_or_channel_count_takes_no_images(shape):
    assert image_input(InputSpec("x", shape, FLOAT), NO_OPTIONS) is None


def test_a_spec_is_printed_as_people_write_it():
    assert str(InputSpec("data", (1, 3, None, 224), np.dtype(np.uint8))) == "input 'data' (N, 3, ?, 224) uint8"
