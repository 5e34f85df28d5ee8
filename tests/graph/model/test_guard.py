"""Damaged tensors and attributes end in one line that names them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graph.model.test_constants import model_of, x
from onnxprune.errors import ModelError
from onnxprune.graph.model.guard import check_tensors
from onnxprune.graph.model.load import load


def network(**attributes) -> onnx.ModelProto:
    model = model_of(
        """net (float[1, 4, 8, 8] x) => (float[n, m, k, l] y) {
            h = Conv (x, w)
            r = Relu (h)
            y = MaxPool <kernel_shape = [2, 2]> (r)
        }""",
        w=x(4, 4, 3, 3),
    )
    model.graph.node[0].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return model


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [2, 2], "kernel_shape": [3, 3], "group": 1},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_what_is_sound_passes(attributes):
    load(network(**attributes))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"group": 0}, "its group is 0"),
        ({"group": 3}, "its group is 3"),
        ({"strides": [1]}, "different lengths"),
        ({"strides": [0, 1]}, "its strides is"),
        ({"strides": [65536, 1]}, "its strides is"),
        ({"pads": [1, 1]}, "different lengths"),
        ({"pads": [1, 1, 1, 100000]}, "its pads is"),
        ({"dilations": [1, 1, 1]}, "different lengths"),
        ({"kernel_shape": [5, 3]}, "its kernel_shape is"),
    ],
)
def test_attributes_that_do_not_fit_are_named(attributes, told):
    with pytest.raises(ModelError, match=rf"Conv '.*{told}"):
        load(network(**attributes))


def test_an_empty_attribute_is_named():
    model = network(strides=[1, 1])
    del model.graph.node[0].attribute[0].ints[:]
    with pytest.raises(ModelError, match="attribute 'strides' is empty"):
        load(model)


def test_weights_of_too_few_axes_are_named():
    model = network()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(x(4), "w"))
    with pytest.raises(ModelError, match="weights have the shape"):
        load(model)


@pytest.mark.parametrize("change", [b"", b"1234"])
def test_bytes_that_do_not_fit_the_shape_are_named(change):
    model = network()
    tensor = model.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[: -len(change)] if change else tensor.raw_data + b"1234"
    with pytest.raises(ModelError, match="tensor 'w' of the shape"):
        load(model)


def test_a_tensor_of_an_unknown_type_is_named():
    model = network()
    model.graph.initializer[0].data_type = 99
    with pytest.raises(ModelError, match="unknown type 99"):
        load(model)


KINDS = [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64, np.bool_]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.lists(st.integers(0, 4), max_size=3),
    raw=st.booleans(),
    cut=st.integers(-2, 2),
)
def test_any_tensor_that_numpy_writes_passes_and_no_other(kind, shape, raw, cut):
    array = np.ones(shape, kind)
    tensor = numpy_helper.from_array(array, "t")
    if not raw:
        tensor = helper.make_tensor("t", tensor.data_type, shape, array.ravel())
    model = onnx.ModelProto()
    model.graph.initializer.append(tensor)
    check_tensors(model, "m")
    wrong = onnx.TensorProto()
    wrong.CopyFrom(tensor)
    wrong.dims.append(3 + cut)
    if array.size and 3 + cut != 1:
        model.graph.initializer.append(wrong)
        with pytest.raises(ModelError, match="tensor 't'"):
            check_tensors(model, "m")


def test_four_bits_are_packed():
    model = onnx.ModelProto()
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.INT4, [3], [1, 2, 3]))
    check_tensors(model, "m")


def test_groups_that_do_not_fit_computed_weights_are_named():
    model = model_of(
        """net (float[1, 4, 8, 8] x) => (float[n, m, k, l] y) {
            w = Mul (v, two)
            h = Conv <group = 3> (x, w)
            y = Relu (h)
        }""",
        v=x(4, 4, 3, 3),
        two=np.float32(2),
    )
    with pytest.raises(ModelError, match="do not fit it"):
        load(model)
