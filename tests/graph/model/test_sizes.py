"""Sizes that follow for any open sizes of the inputs, though inference leaves them open."""

from __future__ import annotations

import numpy as np
import pytest

from graph.nets import build, ints, outputs_of, worst_difference
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.save import finished_model
from onnxprune.graph.model.sizes import with_settled_sizes

# The map is turned to a sequence, as attention asks for it, and back to a map of sizes that were read from the map.
_SEQUENCE = (
    "h = Conv(x, w1) a = Relu(h) s = Shape(a) c = Cast<to=6>(s) w = Slice<axes=[0],starts=[3],ends=[4]>(c) "
    "wide = Cast<to=7>(w) back = Concat<axis=0>(i0, i1, wide, i6) q = Squeeze<axes=[2]>(a) "
    "t = Transpose<perm=[0,2,1]>(q) u = Tanh(t) r = Reshape(u, back) m = Transpose<perm=[0,3,1,2]>(r) "
    "b = Concat<axis=1>(m, a) z = Conv(b, w2) k = Relu(z) y = Conv(k, w3)"
)
_WEIGHTS = {
    "w1": (6, 3, 8, 1),
    "w2": (5, 12, 1, 1),
    "w3": (4, 5, 1, 1),
    **{f"i{index}": ints(index) for index in (0, 1, 6)},
}


def sequence_net(inputs: str = "float[N,3,8,W] x"):
    return build(_SEQUENCE, _WEIGHTS, inputs=inputs, outputs="float[N,4,1,V] y", opset=9)


def settled(model, width=16, batch=2):
    net, _ = load(model)
    return with_settled_sizes(net, {"x": (batch, 3, 8, width)})


def test_channels_behind_a_reshape_to_sizes_that_were_read_are_known():
    net, _ = load(sequence_net())
    assert dims(net.tensors()["r"]) is None
    assert [group.producers for group in channel_map(net).prunable] == []
    found = settled(sequence_net())
    assert dims(found.tensors()["r"]) == ("N", 1, dims(found.tensors()["a"])[3], 6)
    assert dims(found.tensors()["z"])[:3] == ("N", 5, 1)
    assert dims(found.tensors()["x"]) == ("N", 3, 8, "W")
    assert dims(found.tensors()["y"]) == ("N", 4, 1, "V")
    assert [group.producers for group in channel_map(found).prunable] == [("conv13",)]


@pytest.mark.parametrize("width", [16, 5, 40])
@pytest.mark.parametrize("batch", [1, 3])
def test_removing_equals_zeroing_at_every_width(width, batch):
    net = settled(sequence_net())
    channels = channel_map(net)
    rng = np.random.default_rng(0)
    removed = {g.name: rng.choice(g.size, g.size // 2, replace=False).tolist() for g in channels.prunable}
    assert removed
    alive = alive_without(channels, removed)
    feed = {"x": rng.standard_normal((batch, 3, 8, width), dtype=np.float32)}
    left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)), feed)
    right = outputs_of(zero(net, channels, alive).to_model(), feed)
    assert worst_difference(left, right) < 1e-4


def test_open_sizes_that_the_graph_fixes_count_as_fixed():
    """A Gemm behind a flattened map takes one width only."""
    body = "h = Conv(x, w1) f = Flatten(h) y = Gemm<transB=1>(f, w2)"
    net = settled(build(body, {"w1": (2, 3, 1, 1), "w2": (5, 2 * 8 * 16)}, inputs="float[N,3,8,W] x"))
    assert dims(net.tensors()["h"])[1:] == (2, 8, 16)


def test_a_fixed_network_is_left_as_it_is():
    net, _ = load(sequence_net("float[N,3,8,16] x"))
    assert with_settled_sizes(net, {"x": (2, 3, 8, 16)}) is net


def test_an_output_of_another_rank_than_is_declared_keeps_its_own():
    """As text recognisers are found: the classes of each step, (steps, n, classes), declared as (1, steps)."""
    body = (
        "h = Conv(x, w1) q = Squeeze<axes=[2]>(h) t = Transpose<perm=[2,0,1]>(q) s = Shape(t) "
        "steps = Gather(s, i0) n = Gather(s, i1) u = Unsqueeze<axes=[0]>(steps) v = Unsqueeze<axes=[0]>(n) "
        "flat = Reshape(t, rows) g = Gemm<transB=1>(flat, w2, b2) back = Concat<axis=0>(u, v, i6) y = Reshape(g, back)"
    )
    weights = {"w1": (6, 3, 8, 1), "w2": (6, 6), "b2": (6,), "rows": ints(-1, 6), "i6": ints(6)}
    weights |= {name: np.array(value) for name, value in (("i0", 0), ("i1", 1))}
    model = build(body, weights, inputs="float[1,3,8,W] x", outputs="float[1,steps] y", opset=9)
    net, _ = load(model)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 10)).astype(np.float32)}
    (wanted,), (found,) = (outputs_of(each, inputs) for each in (model, finished_model(net)))
    assert found.shape == (10, 1, 6)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
