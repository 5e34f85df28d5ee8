"""A residual branch that goes whole: cutting it equals silencing it, and costs what is counted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.helpers import assigned

import onnxprune
from graph.families import FAMILIES, SIDE
from graph.nets import build, operators, outputs_of, worst_difference
from graph.random_nets import random_net
from onnxprune import Options
from onnxprune.graph.channels.branches import find_branches
from onnxprune.graph.channels.groups import ChannelMap, channel_map
from onnxprune.graph.edit.drop import silence, without_branches
from onnxprune.graph.edit.remove import alive_without, remove
from onnxprune.graph.edit.weights import ensure_biases, with_weights
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model
from onnxprune.options.solve import RefitOptions
from onnxprune.planning.cost import cost_model


def mapped(model: onnx.ModelProto) -> tuple[Net, ChannelMap]:
    net = ensure_biases(fold(load(model)[0])[0])
    return net, channel_map(net)


BLOCK = """a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a)
 c = Conv<pads=[1,1,1,1]>(r, w1, b1) d = Relu(c) e = Conv<pads=[1,1,1,1]>(d, w2, b2) s = Add(e, r) t = Relu(s)
"""
TAIL = " p = GlobalAveragePool(t) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"
WEIGHTS = {
    "w0": (6, 3, 3, 3),
    "b0": (6,),
    "w1": (4, 6, 3, 3),
    "b1": (4,),
    "w2": (6, 4, 3, 3),
    "b2": (6,),
    "w3": (5, 6),
    "b3": (5,),
}


@settings(max_examples=40, deadline=None)
@given(
    model=st.one_of(st.sampled_from(sorted(FAMILIES)), st.integers(0, 2**32 - 1)),
    data=st.data(),
)
def test_cutting_equals_silencing_and_costs_what_is_counted(model, data):
    built = FAMILIES[model]() if isinstance(model, str) else random_net(model, 14)
    net, channels = mapped(built)
    branches = find_branches(net, channels)
    gone = data.draw(st.sets(st.sampled_from(sorted(branches)))) if branches else set()
    removed = {
        group.name: sorted(data.draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1)))
        for group in channels.prunable
        if group.name not in gone
    }
    silent = with_weights(net, silence(net, channels, [branches[name] for name in gone]))
    silent = remove(silent, channels, channels.all_alive(), alive_without(channels, removed))
    cut = without_branches(silent, channels, [branches[name] for name in gone])
    assert worst_difference(outputs_of(finished_model(cut)), outputs_of(finished_model(silent))) < 1e-5

    shapes = dict.fromkeys(net.input_names, (1, 3, SIDE, SIDE)) if isinstance(model, str) else _shapes(built)
    cost = cost_model(net, channels, shapes)
    keep = {group.name: group.size - len(removed.get(group.name, ())) for group in channels.prunable}
    keep |= dict.fromkeys(gone, 0)
    again, done = cost_model(cut, channel_map(cut), shapes), assigned(keep)
    assert cost.macs(done) == again.macs()
    assert cost.params(done) == again.params() == cut.parameters()
    for name in gone:
        counts = np.arange(channels_of(channels, name) + 1)
        one_by_one = [cost.total(assigned({**keep, name: int(count)}), "macs") for count in counts]
        along = sum(cost.along(layer, name, counts, done, None, "macs") for layer in cost.layers_of(name))
        assert np.allclose(np.diff(along), np.diff(one_by_one))


def channels_of(channels: ChannelMap, name: str) -> int:
    return next(group.size for group in channels.prunable if group.name == name)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    (given_,) = model.graph.input
    return {given_.name: (1, *(dim.dim_value for dim in given_.type.tensor_type.shape.dim[1:]))}


@pytest.mark.parametrize(
    ("family", "count"),
    [
        ("resnet_basic", 3),
        ("resnet_bottleneck", 3),
        ("mobilenet_v2", 2),
        ("vgg_bn", 0),
        ("densenet", 0),
        ("regnet_y", 3),
        ("convnext", 2),
    ],
)
def test_the_branches_of_known_networks(family, count):
    net, channels = mapped(FAMILIES[family]())
    assert len(find_branches(net, channels)) == count


def test_a_block_is_gone_with_all_of_its_nodes():
    net, channels = mapped(build(BLOCK + TAIL, WEIGHTS))
    (branch,) = find_branches(net, channels).values()
    assert branch.ends == ("conv4",)
    assert branch.nodes == {"conv2", "relu3", "conv4"}
    assert branch.constants == {"w1", "b1", "w2", "b2"}
    before = net.to_model().SerializeToString()
    cut = finished_model(without_branches(net, channels, [branch]))
    assert net.to_model().SerializeToString() == before
    # The Relu of a Relu is gone, too.
    assert sorted(operators(cut)) == sorted({"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"})
    assert [node.op_type for node in cut.graph.node][:3] == ["Conv", "Relu", "GlobalAveragePool"]
    assert {tensor.name for tensor in cut.graph.initializer} == {"w0", "b0", "w3", "b3"}


def test_of_two_branches_in_one_sum_one_stays():
    body = """a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a)
     c = Conv<pads=[1,1,1,1]>(r, w1, b1) d = Relu(c) e = Conv<pads=[1,1,1,1]>(d, w2, b2)
     g = Conv<pads=[1,1,1,1]>(r, w4, b4) h = Relu(g) i = Conv<pads=[1,1,1,1]>(h, w5, b5) t = Add(e, i) """
    more = {"w4": (3, 6, 3, 3), "b4": (3,), "w5": (6, 3, 3, 3), "b5": (6,)}
    net, channels = mapped(build(body + TAIL, {**WEIGHTS, **more}))
    assert len(find_branches(net, channels)) == 1


_PAD = "<pads=[1,1,1,1]>"


def _convs(**shapes: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Weights and biases of 3x3 convs, by what is behind the w: outputs, inputs."""
    found: dict[str, tuple[int, ...]] = {"w3": (5, 6), "b3": (5,)}
    for name, (outputs, inputs) in shapes.items():
        found |= {f"w_{name}": (outputs, inputs, 3, 3), f"b_{name}": (outputs,)}
    return found


NESTED = f"""a = Conv{_PAD}(x, w_a, b_a) r = Relu(a)
 q = Conv{_PAD}(r, w_p, b_p) n = Conv{_PAD}(r, w_n, b_n) nr = Relu(n)
 c = Conv{_PAD}(nr, w_c, b_c) d = Relu(c) e = Conv{_PAD}(d, w_e, b_e) s = Add(q, e)
 c2 = Conv{_PAD}(nr, w_c2, b_c2) d2 = Relu(c2) e2 = Conv{_PAD}(d2, w_e2, b_e2) s2 = Add(s, e2) u = Relu(s2)
 last = Conv{_PAD}(u, w_last, b_last) t = Add(last, r)"""
NESTED_WEIGHTS = _convs(a=(6, 3), p=(8, 6), n=(7, 6), c=(5, 7), e=(8, 5), c2=(4, 7), e2=(8, 4), last=(6, 8))


def test_what_hangs_on_two_branches_inside_a_third_is_counted_once():
    """`n` is read by both inner branches: only the outer one takes it away for certain."""
    net, channels = mapped(build(NESTED + TAIL, NESTED_WEIGHTS))
    branches = find_branches(net, channels)
    cost = cost_model(net, channels, {"x": (1, 3, 8, 8)})
    sizes = {name: len(branch.nodes) for name, branch in branches.items()}
    assert len(sizes) >= 2
    for bits in range(2 ** len(branches)):
        gone = [branch for place, branch in enumerate(branches.values()) if bits >> place & 1]
        cut = without_branches(with_weights(net, silence(net, channels, gone)), channels, gone)
        keep = assigned({branch.group: 0 for branch in gone})
        assert cost.params(keep) == cut.parameters()
        assert cost.macs(keep) == cost_model(cut, channel_map(cut), {"x": (1, 3, 8, 8)}).macs()


def test_a_network_that_is_a_branch_itself_does_not_go():
    body = (
        f"a = Conv{_PAD}(x, w_a, b_a) r = Relu(a) c = Conv{_PAD}(r, w_c, b_c) d = Relu(c) e = Conv{_PAD}(d, w_e, b_e)"
    )
    weights = {name: shape for name, shape in _convs(a=(8, 3), c=(8, 8), e=(3, 8)).items() if "_" in name}
    net, channels = mapped(build(body + " y = Add(x, e)", weights, outputs="float[N,3,8,8] y"))
    assert channels.prunable
    assert not find_branches(net, channels)


def test_a_slope_of_zero_is_no_answer_of_zero():
    body = f"""a = Conv{_PAD}(x, w_a, b_a) r = Relu(a) c = Conv{_PAD}(r, w_c, b_c) d = Relu(c)
     e = Conv{_PAD}(d, w_e, b_e) v = Conv{_PAD}(r, w_v, b_v) g = PRelu(v, e) t = Add(g, r)"""
    net, channels = mapped(build(body + TAIL, _convs(a=(6, 3), c=(5, 6), e=(6, 5), v=(6, 6))))
    assert not find_branches(net, channels)


def test_the_relu_in_the_body_of_an_if_stays():
    body = (
        BLOCK.replace("t = Relu(s)", "")
        + """ m = ReduceMax<keepdims=0>(x) yes = Greater(m, zero)
     t = If (yes) <then_branch = g1 () => (float[N,6,8,8] one) { one = Relu(s) },
      else_branch = g2 () => (float[N,6,8,8] two) { two = Abs(s) }>"""
    )
    net, channels = mapped(build(body + TAIL, {**WEIGHTS, "zero": np.zeros((), np.float32)}))
    (branch,) = find_branches(net, channels).values()
    silent = with_weights(net, silence(net, channels, [branch]))
    cut = finished_model(without_branches(silent, channels, [branch]))
    onnx.checker.check_model(cut)
    assert worst_difference(outputs_of(cut), outputs_of(finished_model(silent))) < 1e-6


def test_a_channel_that_is_read_elsewhere_keeps_its_branch():
    """By a conv that is in no sum, and as an output of the network."""
    for more, outputs in (
        (" v = Conv(d, w6) q = GlobalAveragePool(v)", "float[N,5] y, float[N,2,1,1] q"),
        (" q = Identity(d)", "float[N,5] y, float[N,4,8,8] q"),
    ):
        weights = {**WEIGHTS, "w6": (2, 4, 1, 1)} if "w6" in more else WEIGHTS
        net, channels = mapped(build(BLOCK + TAIL + more, weights, outputs=outputs))
        assert not find_branches(net, channels)


def test_a_sum_that_is_an_output_keeps_its_name():
    net, channels = mapped(build(BLOCK + TAIL, WEIGHTS, outputs="float[N,5] y, float[N,6,8,8] s"))
    (branch,) = find_branches(net, channels).values()
    silent = with_weights(net, silence(net, channels, [branch]))
    cut = finished_model(without_branches(silent, channels, [branch]))
    assert [value.name for value in cut.graph.output] == ["y", "s"]
    assert worst_difference(outputs_of(cut), outputs_of(finished_model(silent))) < 1e-6


SUM_IN_BODY = """
    c0 = Conv<pads=[1,1,1,1]>(x, w0) c1 = Conv<pads=[1,1,1,1]>(c0, w1) r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2) m = ReduceMax<keepdims=0>(x) yes = Greater(m, zero)
    s = If (yes) <then_branch = g1 () => (float[1,8,8,8] one) { one = Add(c2, c0) },
                  else_branch = g2 () => (float[1,8,8,8] two) { two = Identity(c0) }>
    c3 = Conv<pads=[1,1,1,1]>(s, w3) r3 = Relu(c3) y = Conv<pads=[1,1,1,1]>(r3, w4)
"""


def test_a_sum_inside_a_body_is_no_end_of_a_branch():
    """The If reads both summands, whichever way it goes; what is in front of it is pruned as usual."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (16, 8, 3, 3), "w2": (8, 16, 3, 3), "w3": (16, 8, 3, 3), "w4": (4, 16, 3, 3)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    model = build(
        SUM_IN_BODY, {**weights, "zero": np.array(0, np.float32)}, inputs="float[1,3,8,8] x", outputs="float[1,4,8,8] y"
    )
    net, channels = mapped(model)
    assert find_branches(net, channels) == {}
    data = rng.standard_normal((24, 3, 8, 8)).astype(np.float32)
    options = Options(bench=False, sensitivity=False, points=20, refit=RefitOptions(refit="linear"))
    assert onnxprune.prune(model, data=data, macs="80%", options=options).report.macs.ratio >= 1.25
