"""Graphs in which a rule could easily say too much: whatever may go, removing it equals zeroing it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

from graph.nets import around, build, ints, outputs_of, worst_difference
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.channels.sites import find_sites
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.load import load
from onnxprune.graph.model.save import finished_model
from onnxprune.graph.model.shape_values import shape_value
from onnxprune.steps.prepare import folded

_TAIL = (
    " z = Conv<pads=[1,1,1,1]>(k, w2, b2) r = Relu(z) p = GlobalAveragePool(r) f = Flatten(p) "
    "y = Gemm<transB=1>(f, w3, b3)"
)
_TWO = {
    "w1": (6, 3, 3, 3),
    "b1": (6,),
    "v": (6, 3, 3, 3),
    "c": (6,),
    "w2": (7, 6, 3, 3),
    "b2": (7,),
    "w3": (5, 7),
    "b3": (5,),
}
_PAIR = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) g = Conv<pads=[1,1,1,1]>(x, v, c) "


def sizes(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


NETS = {
    "the shape of one tensor resizes another": build(_PAIR + 's = Shape(h) k = Resize(g, "", "", s)' + _TAIL, _TWO),
    "a channel count is a size in space": build(
        _PAIR
        + "s = Shape(h) n = Slice(s, i, j) m = Concat<axis=0>(a, n, n) "
        + 'u = Resize(g, "", "", m) k = MaxPool<kernel_shape=[1,1]>(u)'
        + _TAIL,
        {**_TWO, "i": ints(1), "j": ints(2), "a": ints(1, 6)},
        inputs="float[1,3,8,8] x",
        outputs="float[1,5] y",
    ),
    "the shape of the very tensor": around('s = Shape(h) k = Resize(h, "", "", s)'),
    "space of the very tensor, doubled as exporters write it": around(
        "s = Shape(h) n = Slice(s, i, j) u = Slice(s, j, e) d = Mul(u, two) m = Concat<axis=0>(n, d) "
        'k = Resize(h, "", "", m)',
        {"i": ints(0), "j": ints(2), "e": ints(4), "two": ints(2, 2)},
    ),
    "an axis that keeps its size by rounding": around(
        'k = Resize(h, "", e)', {"e": sizes(1, 1.16, 2, 2)}, opset=13, batch=2
    ),
    "statistics of a LayerNormalization that are read": around(
        "k, m = LayerNormalization<axis=2>(h, s) q = ReduceMean(m)", {"s": (8, 8)}
    ),
    "a Squeeze of whatever has size one": around(
        "o = GlobalAveragePool(h) s = Squeeze(o) u = Unsqueeze(s, a) k = Expand(u, e)",
        {"a": ints(2, 3), "e": ints(2, 1, 8, 8)},
        batch=2,
    ),
    "sizes of a Split that a caller may replace": around(
        "a, b = Split<axis=1>(h, i) k = Concat<axis=1>(a, b)", {"i": ints(2, 4)}
    ),
    "a zero that copies another axis": around(
        "o = ReduceMean<axes=[3], keepdims=0>(h) t = Reshape(o, i) k = Reshape(t, j)",
        {"i": ints(0, 1, 0, 6), "j": ints(0, 6, 6, 1)},
        inputs="float[N,3,6,8] x",
    ),
    "a ConvTranspose in groups beside what goes": build(
        "h = Conv<pads=[1,1,1,1]>(x, w1, b1) t = ConvTranspose<group=2, kernel_shape=[1,1]>(h, v, c) "
        "g = Conv<pads=[1,1,1,1]>(x, u) e = Conv(g, n) s = Concat<axis=1>(t, e) k = Conv(s, m)" + _TAIL,
        {**_TWO, "v": (6, 1, 1, 1), "c": (2,), "u": (4, 3, 3, 3), "n": (3, 4, 1, 1), "m": (6, 5, 1, 1)},
    ),
}


def overridable(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    array = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    return model


NETS["sizes of a Split that a caller may replace"] = overridable(
    NETS["sizes of a Split that a caller may replace"], "i"
)


@pytest.mark.parametrize("name", NETS)
def test_removing_equals_zeroing(name):
    net, _, _ = folded(NETS[name], name)
    channels = channel_map(net)
    for count in (1, 3, 5):
        removed = {group.name: range(min(count, group.size - 1)) for group in channels.prunable}
        alive = alive_without(channels, removed)
        left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)))
        right = outputs_of(zero(net, channels, alive).to_model())
        assert worst_difference(left, right) < 1e-4


def test_an_exporters_resize_lets_channels_go():
    net, _ = load(NETS["space of the very tensor, doubled as exporters write it"])
    assert not next(g for g in channel_map(net).groups if "conv0" in g.producers).pins


def test_a_depthwise_transposed_conv_lets_channels_go():
    model = around("k = ConvTranspose<strides=[2,2], group=6>(h, v, c)", {"v": (6, 1, 2, 2), "c": (6,)})
    net, _ = load(model)
    channels = channel_map(net)
    group = next(g for g in channels.groups if "conv0" in g.producers)
    assert not group.pins
    assert len(group.producers) == 2, "the transposed conv makes these channels anew, as a depthwise conv does"
    alive = alive_without(channels, {group.name: [0] for group in channels.prunable})
    left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)))
    assert worst_difference(left, outputs_of(zero(net, channels, alive).to_model())) < 1e-5


def test_operators_of_another_domain_are_strangers_whatever_their_name():
    model = onnx.ModelProto.FromString(around("k = Relu(h)").SerializeToString())
    for node in model.graph.node:
        node.domain = "mine" if node.op_type == "Gemm" else ""
    model.opset_import.append(helper.make_opsetid("mine", 1))
    net, _ = load(model)
    assert "gemm" not in {site.op.lower() for site in find_sites(net)}


def test_a_chain_of_concats_is_read_once():
    """Each doubles what is in front of it: read one by one they would be a hundred million."""
    tensor = gs.Variable("h", np.float32, ("N", 6, 8, 8))
    last = gs.Variable("s0", np.int64, (4,))
    gs.Node("Shape", "shape", inputs=[tensor], outputs=[last])
    for number in range(26):
        made = gs.Variable(f"s{number + 1}", np.int64)
        gs.Node("Concat", f"concat{number}", {"axis": 0}, inputs=[last, last], outputs=[made])
        last = made
    assert shape_value(last) is None
