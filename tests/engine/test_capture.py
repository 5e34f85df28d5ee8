"""Patches times weights are the layer's own output; positions belong to the image, not to the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.engine.capture import Positions, answers, output_extents, patches
from onnxprune.graph.channels.sites import Site, find_sites, matrix
from onnxprune.graph.model.net import Net

from .helpers import parse, run

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 10_000)


@dataclass(frozen=True)
class ConvCase:
    extents: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1


def several(draw: st.DrawFn, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    kernel = several(draw, rank, 1, 4)
    # onnxruntime knows no dilated SAME convs.
    dilations = (1,) * rank if auto_pad.startswith("SAME") else several(draw, rank, 1, 3)
    pads = several(draw, 2 * rank, 0, 4) if auto_pad == "NOTSET" else (0,) * 2 * rank
    strides = several(draw, rank, 1, 3)
    extents = several(draw, rank, 1, 12 if rank < 3 else 6)
    return ConvCase(extents, kernel, strides, dilations, pads, auto_pad, draw(st.sampled_from([1, 1, 2])))


def first_site(model: onnx.ModelProto) -> tuple[Net, Site]:
    net = Net.from_model(model)
    (site,) = find_sites(net)
    return net, site


def conv_model(case: ConvCase, generator: np.random.Generator) -> tuple[onnx.ModelProto, Array]:
    rank = len(case.kernel)
    channels, outputs = 2 * case.groups, 3 * case.groups
    weights = {
        "w": generator.standard_normal((outputs, 2, *case.kernel)).astype(np.float32),
        "b": generator.standard_normal(outputs).astype(np.float32),
    }
    attributes: dict[str, Any] = {"strides": case.strides, "dilations": case.dilations, "group": case.groups}
    attributes |= {"pads": case.pads} if case.auto_pad == "NOTSET" else {"auto_pad": case.auto_pad}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", kernel_shape=case.kernel, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *case.extents])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (rank + 2))
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "conv", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, generator.standard_normal((3, channels, *case.extents)).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(conv_cases(), seeds, st.sampled_from([1, 5, 1000]))
@example(ConvCase((7, 5), (3, 2), (2, 1), (1, 2), (0, 1, 2, 0)), 0, 1000)
@example(ConvCase((6, 7), (2, 4), (1, 3), (1, 1), (0,) * 4, "SAME_UPPER"), 0, 1000)
@example(ConvCase((6, 7), (2, 4), (1, 3), (1, 1), (0,) * 4, "SAME_LOWER"), 0, 1000)
@example(ConvCase((9, 8), (3, 3), (2, 1), (2, 1), (0,) * 4, "VALID", 2), 0, 1000)
@example(ConvCase((5,), (3,), (2,), (2,), (3, 1)), 0, 1000)
@example(ConvCase((4, 5, 3), (2, 3, 1), (1, 2, 2), (2, 1, 1), (1, 0, 2, 0, 3, 1)), 0, 1000)
def test_patches_times_weights_are_what_onnxruntime_answers(case: ConvCase, seed: int, points: int) -> None:
    padded = [size + (case.pads[i] + case.pads[i + len(case.kernel)]) for i, size in enumerate(case.extents)]
    fits = [size > (k - 1) * d for size, k, d in zip(padded, case.kernel, case.dilations, strict=True)]
    assume(case.auto_pad.startswith("SAME") or all(fits))
    model, x = conv_model(case, np.random.default_rng(seed))
    (response,) = run(model, {"x": x})
    net, site = first_site(model)
    extents = output_extents(site, x.shape)
    assert extents == response.shape[2:]
    where = Positions(8, points, seed).draw([4, 1, 7], extents, 1)
    columns = patches(x, site, where)
    weight, bias = matrix(net, site)
    assert columns.dtype == np.float32
    assert columns.shape == (where.shape[0] * where.shape[1], case.groups * weight.shape[2])
    split = columns.reshape(len(columns), case.groups, -1).astype(np.float64)
    made = np.einsum("ngp,gop->ngo", split, weight).reshape(len(columns), -1) + bias
    np.testing.assert_allclose(made, answers(response, where, site.channel_axis), rtol=1e-4, atol=1e-4)


GEMMS = {
    "gemm": ("y = Gemm(x, w, b)", "float[N,4] x", (5, 4)),
    "gemm of a transposed weight": ("y = Gemm<transB = 1>(x, w, b)", "float[N,4] x", (5, 4)),
    "gemm with factors": ("y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, b)", "float[N,4] x", (5, 4)),
    "matmul": ("t = MatMul(x, w)\n y = Add(t, b)", "float[N,4] x", (5, 4)),
    "matmul of rank 3": ("t = MatMul(x, w)\n y = Add(b, t)", "float[N,6,4] x", (5, 6, 4)),
    "matmul of rank 4": ("t = MatMul(x, w)\n y = Add(t, b)", "float[N,2,3,4] x", (5, 2, 3, 4)),
}


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([1, 4, 100]))
@pytest.mark.parametrize("name", GEMMS)
def test_rows_times_weights_are_what_onnxruntime_answers(name: str, seed: int, points: int) -> None:
    body, inputs, shape = GEMMS[name]
    generator = np.random.default_rng(seed)
    rest = "".join(f",{size}" for size in shape[1:-1])
    model = parse(body, inputs, f"float[N{rest},3] y")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    weight_shape = (3, 4) if "transB" in body else (4, 3)
    for key, size in (("w", weight_shape), ("b", (3,))):
        model.graph.initializer.append(numpy_helper.from_array(generator.standard_normal(size).astype(np.float32), key))
    x = generator.standard_normal(shape).astype(np.float32)
    (response,) = run(model, {"x": x})
    net, site = first_site(model)
    extents = output_extents(site, x.shape)
    assert extents == shape[1:-1]
    where = Positions(8, points, seed).draw(range(5), extents, 1)
    assert where.shape == (5, min(points, math.prod(extents)), len(extents))
    weight, bias = matrix(net, site)
    made = patches(x, site, where).astype(np.float64) @ weight[0].T + bias
    np.testing.assert_allclose(made, answers(response, where, site.channel_axis), rtol=1e-4, atol=1e-4)


def test_rows_are_in_order_of_image_and_then_of_position() -> None:
    response = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    where = np.array([[[0], [3]], [[2], [1]]])
    assert answers(response, where, 1).tolist() == [[0, 4, 8], [3, 7, 11], [14, 18, 22], [13, 17, 21]]
    assert answers(response, where % 3, -1)[0].tolist() == [0, 1, 2, 3]


def test_patches_do_not_change_what_they_are_taken_from() -> None:
    model, x = conv_model(ConvCase((4, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), np.random.default_rng(0))
    _, site = first_site(model)
    before = x.copy()
    patches(x, site, Positions(8, 100, 0).draw([0, 1, 2], (4, 4), 1))
    assert np.array_equal(x, before)


def test_half_precision_sources_give_single_precision_rows() -> None:
    model, x = conv_model(ConvCase((4, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), np.random.default_rng(0))
    _, site = first_site(model)
    where = Positions(8, 100, 0).draw([0, 1, 2], (4, 4), 1)
    half = x.astype(np.float16)
    found = patches(half, site, where)
    assert found.dtype == np.float32
    assert np.array_equal(found, patches(half.astype(np.float32), site, where))


extents_of = st.lists(st.integers(1, 9), min_size=0, max_size=3).map(tuple)
images_of = st.lists(st.integers(0, 500), min_size=1, max_size=8, unique=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), seeds, extents_of, images_of, st.integers(1, 8))
def test_an_image_has_the_same_positions_whatever_the_batch(
    points: int, seed: int, extents: tuple[int, ...], images: list[int], cut: int
) -> None:
    together = Positions(8, points, seed).draw(images, extents, 1)
    other = Positions(8, points, seed)
    alone = [other.draw([image], extents, 1)[0] for image in reversed(images)][::-1]
    assert np.array_equal(together, np.stack(alone))
    parts = [other.draw(part, extents, 1) for part in (images[:cut], images[cut:]) if part]
    assert np.array_equal(together, np.concatenate(parts))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), seeds, extents_of, images_of)
def test_positions_are_inside_distinct_and_all_where_there_are_few(
    points: int, seed: int, extents: tuple[int, ...], images: list[int]
) -> None:
    where = Positions(8, points, seed).draw(images, extents, 1)
    total = math.prod(extents)
    assert where.shape == (len(images), min(points, total), len(extents))
    assert where.dtype == np.int64
    assert (where >= 0).all()
    assert (where < np.array(extents, dtype=np.int64)).all()
    for image in where:
        assert len({tuple(position) for position in image.tolist()}) == len(image)


def test_other_images_and_other_seeds_have_other_positions() -> None:
    first, second = Positions(8, 10, 0).draw([0, 1], (30, 30), 1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Positions(8, 10, 1).draw([0], (30, 30), 1)[0])


def test_every_position_is_drawn_about_equally_often() -> None:
    where = Positions(8, 4, 0).draw(range(2000), (4, 4), 1)
    counts = np.bincount((where @ [4, 1]).ravel(), minlength=16)
    assert np.abs(counts - 500).max() < 100


def test_layers_with_more_columns_see_more_positions_and_a_larger_draw_has_the_smaller_one_in_it() -> None:
    positions = Positions(100)
    few, many = (positions.draw([5, 6], (60, 60), columns) for columns in (27, 576))
    assert few.shape[1] == 10
    assert many.shape[1] * 100 >= 10 * 576
    assert np.array_equal(many[:, :10], few)
    assert Positions(100, 25).draw([0], (60, 60), 576).shape[1] == 25
