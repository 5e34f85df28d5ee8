"""What must be fed, and which samples run together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import InputSpec
from onnxprune.engine.inputs import batches, input_specs
from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Net

from .helpers import parse

FREE = InputSpec("x", (None, 3), np.dtype(np.float32))
indices_of = st.lists(st.integers(0, 1000), max_size=40)
sizes = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(indices_of, sizes)
def test_every_index_comes_once_in_order(indices: list[int], size: int) -> None:
    found = list(batches(indices, [FREE], size))
    assert [index for samples, _ in found for index in samples] == indices
    assert all(len(samples) == real <= size for samples, real in found)
    assert all(real == size for _, real in found[:-1])


@settings(max_examples=50, deadline=None)
@given(indices_of, sizes, sizes)
def test_a_fixed_batch_is_always_full_and_filled_with_the_last_sample(
    indices: list[int], size: int, fixed: int
) -> None:
    specs = [FREE, InputSpec("fixed", (fixed, 3), np.dtype(np.float32))]
    found = list(batches(indices, specs, size))
    assert [index for samples, real in found for index in samples[:real]] == indices
    assert all(len(samples) == fixed for samples, _ in found)
    assert all(set(samples[real:]) <= {samples[real - 1]} for samples, real in found)
    assert all(1 <= real <= fixed for _, real in found)


def net_of(inputs: str, body: str = "y = Identity(x)", outputs: str = "float[N,3] y") -> Net:
    return Net.from_model(parse(body, inputs, outputs), source="net.onnx")


def test_specs_have_name_shape_and_type_and_open_sizes_are_none() -> None:
    net = net_of("float16[N,3,H,W] x, uint8[4,2] z", outputs="float16[N,3,H,W] y")
    first, second = input_specs(net)
    assert (first.name, first.shape, first.dtype) == ("x", (None, 3, None, None), np.dtype(np.float16))
    assert (second.name, second.shape, second.dtype) == ("z", (4, 2), np.dtype(np.uint8))


@pytest.mark.parametrize(
    ("net", "word"),
    [
        (net_of("float x", outputs="float y"), "'x' is no tensor with a batch axis"),
        (net_of("float[] x", outputs="float[] y"), "'x' is no tensor with a batch axis"),
        (net_of("string[N] x", outputs="string[N] y"), "float32 or float16"),
        (net_of("seq(float[N,3]) x", outputs="seq(float[N,3]) y"), "'x' is no tensor with a batch axis"),
        (net_of("", body="y = Constant<value_floats=[1.0]>()", outputs="float[1] y"), "no inputs"),
    ],
    ids=["unknown rank", "scalar", "string", "sequence", "none"],
)
def test_an_input_that_cannot_be_fed_is_a_model_error_with_file_and_input(net: Net, word: str) -> None:
    with pytest.raises(ModelError, match=r"^net\.onnx: ") as caught:
        input_specs(net)
    assert word in str(caught.value)
