"""Folding changes no output, is done once, and says what it leaves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.nets import around, build, feeds, ints, outputs_of, without_value_info, worst_difference
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.normalize import normalize

SIX = np.linspace(0.5, 2, 6, dtype=np.float32)
NORM = {"s": (6,), "t": (6,), "m": (6,), "v": SIX}
_POOLED = " p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"


def folded(model: onnx.ModelProto):
    net, _ = load(model)
    result, notes = fold(net)
    assert worst_difference(outputs_of(result.to_model(), feeds(model)), outputs_of(model)) < 2e-5
    return result, notes


def left(net) -> list[str]:
    return [node.op for node in net.nodes]


def behind(layer: str, weights: dict, **options) -> onnx.ModelProto:
    """`layer` (x to h), a normalisation, and a dense head."""
    return build(
        layer + " z = BatchNormalization(h, s, t, m, v)" + _POOLED,
        {**weights, **NORM, "w3": (5, 6), "b3": (5,)},
        **options,
    )


FOLDABLE = {
    "Conv with bias": behind("h = Conv(x, w, b)", {"w": (6, 3, 3, 3), "b": (6,)}),
    "Conv without bias": behind("h = Conv(x, w)", {"w": (6, 3, 3, 3)}),
    "grouped Conv": behind("h = Conv<group=3>(x, w, b)", {"w": (6, 1, 3, 3), "b": (6,)}),
    "ConvTranspose": behind("h = ConvTranspose(x, w, b)", {"w": (3, 6, 3, 3), "b": (6,)}),
    "grouped ConvTranspose": behind("h = ConvTranspose<group=3>(x, w)", {"w": (3, 2, 3, 3)}),
    "Gemm": build(
        "f = Flatten(x) h = Gemm<alpha=0.5, beta=2.0>(f, w, b) y = BatchNormalization(h, s, t, m, v)",
        {"w": (192, 6), "b": (6,), **NORM},
        outputs="float[N,6] y",
    ),
    "transposed Gemm without bias": build(
        "f = Flatten(x) h = Gemm<transB=1>(f, w) y = BatchNormalization(h, s, t, m, v)",
        {"w": (6, 192), **NORM},
        outputs="float[N,6] y",
    ),
    "Scale of Caffe": build(
        "h = Conv(x, w) n = BatchNormalization(h, s, t, m, v) g = Mul(n, gain) z = Add(g, offset)" + _POOLED,
        {"w": (6, 3, 3, 3), **NORM, "gain": (6, 1, 1), "offset": (1, 6, 1, 1), "w3": (5, 6), "b3": (5,)},
    ),
    "in front of a Conv without padding": build(
        "a = Relu(x) n = BatchNormalization(a, s, t, m, v) z = Conv(n, w, b)" + _POOLED,
        {"s": (3,), "t": (3,), "m": (3,), "v": SIX[:3], "w": (6, 3, 3, 3), "b": (6,), "w3": (5, 6), "b3": (5,)},
    ),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_a_normalisation_beside_a_layer_is_gone(name):
    net, _ = folded(FOLDABLE[name])
    assert "BatchNormalization" not in left(net)
    assert not {"Mul", "Add"} & set(left(net))


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_twice_changes_nothing(name):
    once, _ = folded(FOLDABLE[name])
    twice, notes = fold(once)
    assert without_value_info(twice.to_model()) == without_value_info(once.to_model())
    assert not notes


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 3),
    groups=st.sampled_from([1, 3]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    epsilon=st.sampled_from([1e-5, 1e-3]),
)
def test_any_conv_keeps_its_outputs(kernel, groups, bias, seed, epsilon):
    weights = {"w": (6, 3 // groups, kernel, kernel), "b": (6,)}
    layer = f"h = Conv<group={groups}>(x, w{', b' if bias else ''})"
    model = build(
        layer + f" z = BatchNormalization<epsilon={epsilon}>(h, s, t, m, v)" + _POOLED,
        {**weights, **NORM, "w3": (5, 6), "b3": (5,)},
        seed=seed,
    )
    net, _ = folded(model)
    assert "BatchNormalization" not in left(net)


def kept_with(model: onnx.ModelProto, words: str) -> None:
    net, notes = folded(model)
    assert "BatchNormalization" in left(net)
    assert any(words in note.text for note in notes), [note.text for note in notes]


def test_padding_behind_a_shift_is_declined_aloud():
    body = "a = Relu(x) n = BatchNormalization(a, s, t, m, v) z = Conv<pads=[1,1,1,1]>(n, w, b)" + _POOLED
    weights = {"s": (3,), "t": (3,), "m": (3,), "v": SIX[:3], "w": (6, 3, 3, 3), "b": (6,), "w3": (5, 6), "b3": (5,)}
    kept_with(build(body, weights), "pad")


def test_shared_weights_are_declined_aloud():
    body = "h = Conv(x, w) o = Conv(x, w) n = BatchNormalization(h, s, t, m, v) z = Add(n, o)" + _POOLED
    kept_with(build(body, {"w": (6, 3, 3, 3), **NORM, "w3": (5, 6), "b3": (5,)}), "shared")


def test_parameters_that_are_graph_inputs_are_declined_aloud():
    model = behind("h = Conv(x, w, b)", {"w": (6, 3, 3, 3), "b": (6,)})
    model.graph.input.append(onnx.helper.make_tensor_value_info("s", 1, [6]))
    net, _ = load(model)
    result, notes = fold(net)
    assert "BatchNormalization" in left(result)
    assert any("graph input" in note.text for note in notes)


def test_training_mode_is_declined_aloud():
    body = "h = Conv(x, w) z, rm, rv = BatchNormalization<training_mode=1>(h, s, t, m, v)" + _POOLED
    net, _ = load(build(body, {"w": (6, 3, 3, 3), **NORM, "w3": (5, 6), "b3": (5,)}))
    result, notes = fold(net)
    assert "BatchNormalization" in left(result)
    assert any("training" in note.text for note in notes)


def test_a_response_that_is_read_elsewhere_keeps_its_values():
    body = "h = Conv(x, w) n = BatchNormalization(h, s, t, m, v) z = Add(n, h)" + _POOLED
    folded(build(body, {"w": (6, 3, 3, 3), **NORM, "w3": (5, 6), "b3": (5,)}))


def test_a_response_that_is_an_output_keeps_its_values():
    body = "h = Conv(x, w) y = BatchNormalization(h, s, t, m, v)"
    model = build(body, {"w": (6, 3, 3, 3), **NORM}, outputs="float[N,6,6,6] y, float[N,6,6,6] h")
    folded(model)


def test_a_scale_that_is_not_per_channel_is_left():
    net, _ = folded(around("k = Mul(h, c)", {"c": (1, 1, 8, 8)}))
    assert "Mul" in left(net)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_weights_keep_their_type(kind):
    dtype = {"float16": np.float16, "double": np.float64}[kind]
    weights = {
        name: np.ones(shape, dtype) for name, shape in {"w": (6, 3, 3, 3), "s": 6, "t": 6, "m": 6, "v": 6}.items()
    }
    body = "h = Conv(x, w) y = BatchNormalization(h, s, t, m, v)"
    model = build(body, weights, inputs=f"{kind}[N,3,8,8] x", outputs=f"{kind}[N,6,6,6] y", opset=15)
    net, _ = fold(load(model)[0])
    assert left(net) == ["Conv"]
    assert all(np.asarray(t.values).dtype == dtype for t in net.nodes[0].inputs[1:])


def test_the_flatten_of_an_exporter_becomes_a_plain_reshape():
    body = (
        "h = Conv(x, w1, b1) r = Relu(h) sh = Shape(r) n = Gather<axis=0>(sh, zero) u = Unsqueeze(n, axes) "
        "to = Concat<axis=0>(u, rest) f = Reshape(r, to) y = Gemm<transB=1>(f, w3, b3)"
    )
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (5, 216), "b3": (5,)}
    consts = {"zero": np.array(0, np.int64), "axes": ints(0), "rest": ints(-1)}
    model = build(body, {**weights, **consts})
    net, _ = load(model)
    assert left(net) == ["Conv", "Relu", "Reshape", "Gemm"]
    for batch in (1, 3):
        given_inputs = feeds(model, batch)
        assert worst_difference(outputs_of(net.to_model(), given_inputs), outputs_of(model, given_inputs)) < 1e-6


def test_merged_biases_get_a_copy_each():
    body = "h = Conv(x, w1, b) r = Relu(h) z = Conv(r, w2, b)" + _POOLED
    model = build(body, {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3), "b": (6,), "w3": (5, 6), "b3": (5,)})
    net, notes = load(model)
    biases = [node.inputs[2].name for node in net.nodes if node.op == "Conv"]
    assert len(set(biases)) == 2
    assert any("own copy" in note.text for note in notes)


def test_nodes_get_names_of_their_own():
    model = around("k = Relu(h)", names=False)
    for node in model.graph.node:
        node.name = "same"
    net, _ = load(model)
    names = [node.name for node in net.nodes]
    assert len(set(names)) == len(names)
    assert all(names)


def test_normalising_twice_changes_nothing():
    net, _ = load(around("k = Relu(h)"))
    again, _ = normalize(net)
    assert without_value_info(again.to_model()) == without_value_info(net.to_model())


def test_a_new_bias_takes_no_name_that_is_in_use():
    body = "h = Conv(x, w) n = BatchNormalization(h, s, t, m, v) z = PRelu(n, conv0_bias)" + _POOLED
    slope = np.linspace(-1, 1, 6, dtype=np.float32).reshape(6, 1, 1)
    folded(build(body, {"w": (6, 3, 3, 3), **NORM, "conv0_bias": slope, "w3": (5, 6), "b3": (5,)}))


def test_a_bias_that_differs_from_row_to_row_is_left_alone():
    model = build(
        "f = Flatten(x) h = Gemm(f, w, b) y = BatchNormalization(h, s, t, m, v)",
        {"w": (192, 6), "b": (2, 6), **NORM},
        inputs="float[2,3,8,8] x",
        outputs="float[2,6] y",
    )
    net, notes = folded(model)
    assert "BatchNormalization" in left(net)
    assert any("row to row" in note.text for note in notes)


def test_weights_that_are_an_output_too_are_left_alone():
    model = behind("h = Conv(x, w, b)", {"w": (6, 3, 3, 3), "b": (6,)})
    model.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, [6, 3, 3, 3]))
    net, _ = folded(model)
    assert "BatchNormalization" in left(net)


def test_parameters_of_other_sizes_are_declined_aloud():
    """As a damaged file has them."""
    model = behind("h = Conv(x, w, b)", {"w": (6, 3, 3, 3), "b": (6,)})
    batch_norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    batch_norm.input[1] = "w"
    draft = Net.from_model(model)
    assert "do not have the same one axis" in fold(draft)[1][0].text
