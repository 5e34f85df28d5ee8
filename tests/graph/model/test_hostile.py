"""Graphs whose attributes and constants are wrong: declined in one line, pinned, or right; never a traceback."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, helper, numpy_helper

from graph.cases import CASES
from graph.nets import around, build, ints, one_line, outputs_of, worst_difference
from onnxprune.errors import ModelError
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model
from onnxprune.steps.prepare import folded

_VALUES = st.one_of(st.integers(-9, 20), st.sampled_from([-(2**63), 2**63 - 1, 2**31, -(2**31)]))


def bent(model: onnx.ModelProto, data: st.DataObject) -> onnx.ModelProto:
    """One integer of a node's attributes, or of a constant, is another."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    places = [
        (attribute, index)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type in (AttributeProto.INT, AttributeProto.INTS)
        for index in range(len(attribute.ints) or 1)
    ]
    constants = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    picked = data.draw(st.integers(0, len(places) + len(constants) - 1), label="place")
    value = data.draw(_VALUES, label="value")
    if picked < len(places):
        attribute, index = places[picked]
        if attribute.type == AttributeProto.INT:
            attribute.i = value
        else:
            attribute.ints[index] = value
        return model
    tensor = constants[picked - len(places)]
    array = numpy_helper.to_array(tensor).copy()
    if not array.size:
        return model
    flat = array.reshape(-1)
    flat[data.draw(st.integers(0, flat.size - 1), label="element")] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def loaded(model: onnx.ModelProto) -> Net | None:
    """None: it was declined, in one line."""
    try:
        return folded(model, "bent")[0]
    except ModelError as error:
        if not one_line(str(error)):
            raise
        return None


def runs(model: onnx.ModelProto) -> list[np.ndarray] | None:
    try:
        return outputs_of(model)
    except (
        onnxruntime.capi.onnxruntime_pybind11_state.Fail,
        onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
        onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
        onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
        onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    ):
        return None


_BENDABLE = [
    name
    for name, model in CASES.items()
    if any(a.type in (AttributeProto.INT, AttributeProto.INTS) for node in model.graph.node for a in node.attribute)
]


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(_BENDABLE), data=st.data())
def test_a_bent_graph_is_declined_or_right(name, data):
    model = bent(CASES[name], data)
    net = loaded(model)
    if net is None:
        return
    channels = channel_map(net)
    found = runs(model)
    if found is None or not all(value.size for value in found) or not channels.prunable:
        return
    alive = alive_without(channels, {group.name: range(group.size // 2) for group in channels.prunable})
    left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)))
    right = outputs_of(zero(net, channels, alive).to_model())
    if max(float(np.abs(value).max()) for value in found) < 1e12 and all(np.isfinite(value).all() for value in right):
        assert worst_difference(left, right) < 1e-4  # beyond, zero times a channel that overflows is no zero


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ("k = Gather<axis=1>(h, i)", {"i": ints(0, 9)}),
        ("a, b = Split<axis=1>(h, i) k = Concat<axis=1>(a, b)", {"i": ints(2, 3)}),
        ("k = Slice(h, i, j, m)", {"i": ints(0, 0), "j": ints(4), "m": ints(1)}),
        ("k = Tile(h, i)", {"i": ints(1, 1, 1)}),
        (
            "q = QuantizeLinear<axis=1>(h, s, n) k = DequantizeLinear<axis=1>(q, s, n)",
            {"s": np.full(4, 0.1, np.float32), "n": np.zeros(4, np.uint8)},
        ),
    ],
)
def test_what_does_not_fit_its_input_is_declined_or_pinned(operator, weights):
    net = loaded(around(operator, weights))
    assert net is None or next(g for g in channel_map(net).groups if "conv0" in g.producers).pins


def test_an_attention_block_runs_as_it_is():
    """Scores by Einsum over the channels of two projections: those stay, what is behind them may go."""
    body = (
        "h = Conv(x, w1, b1) t = Reshape(h, s) u = Transpose<perm=[0,2,1]>(t) q = MatMul(u, v1) k = MatMul(u, v2) "
        'm = Einsum<equation="nij,nkj->nik">(q, k) p = Softmax<axis=-1>(m) o = MatMul(p, u) r = Relu(o) '
        "g = ReduceMean<axes=[1], keepdims=0>(r) y = MatMul(g, w3)"
    )
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "v1": (6, 4), "v2": (6, 4), "w3": (6, 5), "s": ints(0, 6, 36)}
    net, _ = load(build(body, weights))
    channels = channel_map(net)
    pinned = {name: group.pins for group in channels.groups for name in group.producers if group.pins}
    assert any("Einsum" in reason for reason in pinned["matmul3"])
    assert any("Einsum" in reason for reason in pinned["matmul4"])
    alive = alive_without(channels, {group.name: [0, 1] for group in channels.prunable})
    left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)))
    assert worst_difference(left, outputs_of(zero(net, channels, alive).to_model())) < 1e-5


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_what_a_loop_reads_stays(kind):
    """A body that takes the features as its state: pinned at the border, whatever is inside."""
    state = helper.make_tensor_value_info("a", 1, ["N", 6, 8, 8])
    out = helper.make_tensor_value_info("b", 1, ["N", 6, 8, 8])
    flags = [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, [])]
    go = helper.make_tensor_value_info("go_on", 9, [])
    model = onnx.ModelProto.FromString(around("k = Relu(h)").SerializeToString())
    if kind == "Loop":
        nodes = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Identity", ["go"], ["go_on"])]
        body = helper.make_graph(nodes, "body", [*flags, state], [go, out])
        node = helper.make_node("Loop", ["times", "", "h"], ["k"], name="again", body=body)
        model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "times"))
    else:
        step = helper.make_tensor_value_info("e", 1, [])
        nodes = [helper.make_node("Add", ["a", "e"], ["b"])]
        body = helper.make_graph(nodes, "body", [state, step], [out])
        node = helper.make_node("Scan", ["h", "steps"], ["k"], name="again", body=body, num_scan_inputs=1)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "steps"))
    model.graph.node[1].CopyFrom(node)
    net, _ = load(model)
    groups = {name: group for group in channel_map(net).groups for name in group.producers}
    assert any("'again'" in reason for reason in groups["conv0"].pins)


def test_what_the_checks_at_the_end_would_reject_is_declined_at_the_start():
    """Negative pads of a Conv: only strict shape inference minds."""
    model = onnx.ModelProto.FromString(around("k = Relu(h)").SerializeToString())
    next(a for a in model.graph.node[2].attribute if a.name == "pads").ints[:] = [-1, 1, 1, 1]
    with pytest.raises(ModelError, match=r"own checks: .*pads") as caught:
        folded(model, "net.onnx")
    assert one_line(str(caught.value))


def test_text_that_is_none_is_declined():
    """As nodes of plugins carry it: bytes of their own in a text attribute."""
    model = onnx.ModelProto.FromString(around("k = Relu(h)").SerializeToString())
    model.graph.node[1].domain = "mine"
    model.graph.node[1].attribute.append(AttributeProto(name="blob", type=AttributeProto.STRING, s=b"\xff\xfe\x80"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load(model)
    assert one_line(str(caught.value))


def test_the_longest_axes_are_not_followed_where_there_are_too_many():
    size = 1 << 24
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) " + " ".join(f"r{i} = Relu(a)" for i in range(9))
    outputs = ", ".join(f"float[{size},{size},{size},{size}] r{i}" for i in range(9))
    model = build(
        body,
        {"w1": (6, 3, 3, 3), "b1": (6,)},
        inputs=f"float[N,3,8,8] x, float[{size},{size},{size},{size}] a",
        outputs=f"float[N,6,8,8] h, {outputs}",
    )
    net, _ = load(model)
    group = channel_map(net).groups[0]
    assert (group.producers, group.size) == (("conv0",), 6)
