"""A network on a smaller picture: equal to the network that is fed the smaller picture."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from graph.builder import Builder
from onnxprune.errors import ModelError
from onnxprune.graph.edit.picture import _scale, find_picture, with_picture, with_small_input
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model

SIDE = 64
SMALL = (48, 40)


def classifier(pool: str = "global", side: int = SIDE, opset: int = 17) -> onnx.ModelProto:
    """Two convs of stride 2, a pool over the whole map, a dense layer."""
    b = Builder(0)
    h = b.one("Relu", b.conv("x", 3, 8, stride=2))
    h = b.one("Relu", b.conv(h, 8, 12, stride=2))
    if pool == "global":
        return b.finish({b.head(h, 12, 5): ["N", 5]}, side, opset)
    if pool == "fixed":
        flat = b.one("Flatten", b.one("AveragePool", h, kernel_shape=[side // 4] * 2))
    elif pool == "largest":
        flat = b.one("Flatten", b.one("MaxPool", h, kernel_shape=[side // 4] * 2))
    else:
        flat = b.one("Flatten", b.one("AveragePool", h, kernel_shape=[side // 8] * 2, strides=[side // 8] * 2))
        return b.finish({b.one("Gemm", flat, b.drawn(5, 48), b.drawn(5), transB=1): ["N", 5]}, side, opset)
    return b.finish({b.one("Gemm", flat, b.drawn(5, 12), b.drawn(5), transB=1): ["N", 5]}, side, opset)


def bytes_in() -> onnx.ModelProto:
    """Bytes, channels last, in a batch of 1; cast, scaled and transposed inside."""
    model = classifier()
    for node in model.graph.node:
        node.input[:] = ["picture" if name == "x" else name for name in node.input]
    front = [
        helper.make_node("Cast", ["x"], ["numbers"], to=1),
        helper.make_node("Sub", ["numbers", "mean"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["picture"], perm=[0, 3, 1, 2]),
    ]
    nodes = [*front, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor("mean", 1, [3], [120.0, 110.0, 100.0]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 2, [1, SIDE, SIDE, 3]))
    return model


def on(model: onnx.ModelProto, size: tuple[int, int] = SMALL, axes: tuple[int, int] = (2, 3)) -> tuple[Net, Net]:
    net, _ = load(model)
    return net, with_picture(net, find_picture(net, "x", axes), size)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def resized(x: np.ndarray, size: tuple[int, int], opset: int) -> np.ndarray:
    """The picture by onnx's own Resize, to exact sizes."""
    small = min(after / before for after, before in zip(size, x.shape[2:], strict=True)) < 0.5
    attributes = {"antialias": 1} if opset >= 18 and small else {}
    node = helper.make_node("Resize", ["x", "none", "none", "sizes"], ["y"], mode="linear", **attributes)
    sizes = helper.make_tensor("sizes", 7, [4], [*x.shape[:2], *size])
    ends = [helper.make_tensor_value_info(name, 1, None) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [sizes, helper.make_tensor("none", 1, [0], [])]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    return outputs(model, x)


def fed(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """The model with another size of its input."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for axis, side in zip((2, 3), size, strict=True):
        found.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    return found


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 19])
@pytest.mark.parametrize("size", [(24, 30), (48, 48), SMALL, (57, 63)])
def test_a_smaller_picture_inside_equals_a_smaller_picture_fed(opset, size):
    model, x = classifier(opset=opset), drawn(2, 3, SIDE, SIDE)
    _, small = on(model, size)
    wanted = outputs(fed(model, size), resized(x, size, opset))
    np.testing.assert_allclose(outputs(finished_model(small), x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fixed", "made"), [("fixed", "GlobalAveragePool"), ("largest", "GlobalMaxPool")])
def test_pooling_over_the_whole_map_becomes_global(fixed, made):
    net, small = on(classifier(fixed))
    assert made in [node.op for node in small.nodes]
    assert made not in [node.op for node in net.nodes]
    assert outputs(finished_model(small), drawn(1, 3, SIDE, SIDE)).shape == (1, 5)


def test_inputs_and_outputs_stay_as_declared():
    net, small = on(classifier())
    before, after = net.to_model().graph, finished_model(small).graph
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)


def test_bytes_are_resized_as_numbers_behind_the_transposition():
    net, small = on(bytes_in(), axes=(1, 2))
    resize = next(node for node in small.nodes if node.op == "Resize")
    assert resize.inputs[0].name == "picture"
    x = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.uint8)
    numbers = np.ascontiguousarray((x.astype(np.float32) - [120, 110, 100]).transpose(0, 3, 1, 2), np.float32)
    wanted = outputs(fed(classifier(), SMALL), resized(numbers, SMALL, net.opset))
    np.testing.assert_allclose(outputs(finished_model(small), x), wanted, rtol=1e-3, atol=1e-3)


def test_a_map_that_is_flattened_refuses_other_sizes():
    with pytest.raises(ModelError, match="would be"):
        on(classifier("flattened"), (40, 40))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (classifier(side=48), "a picture of 48x48 pixels is below 64x64"),
        (fed(classifier(), (0, 0)), "leaves the size of its pictures open"),
    ],
)
def test_what_cannot_be_resized_says_why(model, reason):
    net, _ = load(model)
    with pytest.raises(ModelError, match=reason):
        find_picture(net, "x", (2, 3))


def test_an_old_opset_has_no_resize():
    net, _ = load(classifier(opset=9))
    with pytest.raises(ModelError, match="opset 9 has no Resize"):
        find_picture(net, "x", (2, 3))


def test_a_picture_that_is_an_output_too_is_refused():
    model = classifier()
    model.graph.node.append(helper.make_node("Identity", ["x"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", 1, ["N", 3, SIDE, SIDE]))
    with pytest.raises(ModelError, match="output 'copy' would be"):
        on(model)


@pytest.mark.parametrize("model", [classifier(), classifier("fixed"), bytes_in()])
def test_without_its_resize_a_network_takes_the_smaller_picture(model):
    net, _ = load(model)
    axes = (2, 3) if net.tensors()["x"].shape[1] == 3 else (1, 2)
    place = find_picture(net, "x", axes)
    fed = finished_model(with_small_input(with_picture(net, place, SMALL), place, SMALL))
    assert "Resize" not in [node.op_type for node in fed.graph.node]
    shape = [dim.dim_value for dim in fed.graph.input[0].type.tensor_type.shape.dim]
    assert [shape[axis] for axis in axes] == list(SMALL)
    assert list(fed.graph.output) == list(net.to_model().graph.output)
    x = drawn(1, 3, *SMALL)
    if axes == (1, 2):
        x = np.random.default_rng(0).integers(0, 256, (1, *SMALL, 3)).astype(np.uint8)
    else:
        wanted = outputs(fed_whole(model), x)
        np.testing.assert_allclose(outputs(fed, x), wanted, rtol=1e-4, atol=1e-5)
    assert outputs(fed, x).shape == (1, 5)


def fed_whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the size of its input changed by hand, fixed pooling made global."""
    found = fed(model, SMALL)
    for node in found.graph.node:
        if node.op_type == "AveragePool":
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
    return found


@given(before=st.integers(64, 2048), share=st.floats(0.3, 0.99))
def test_a_scale_gives_its_size_in_both_precisions(before, share):
    after = max(int(before * share), 1)
    scale = _scale(before, after)
    assert np.float32(scale) == scale
    assert math.floor(before * scale) == after
    assert math.floor(np.float32(before) * np.float32(scale)) == after
