"""The world is closed: what no rule ties is pinned, with node and reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from graph.cases import CASES
from graph.nets import around, build, ints
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.channels.rules import rule_for
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import captured_names
from onnxprune.graph.model.schedule import schedule

_TAIL = " p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"


def groups_of(model: onnx.ModelProto):
    net, _ = load(model)
    return {group.name: group for group in channel_map(net).groups}


def pins_of_first(model: onnx.ModelProto) -> str:
    return " | ".join(groups_of(model)["conv0"].pins)


def test_a_chain_has_one_group_between_two_convs():
    groups = groups_of(CASES["Conv"])
    assert groups["conv0"].producers == ("conv0",)
    assert groups["conv0"].consumers == ("conv2",)
    assert groups["conv0"].size == 6
    assert not groups["conv0"].pins


def test_graph_outputs_are_pinned():
    assert "graph output 'y'" in groups_of(CASES["Conv"])["gemm6"].pins[0]


def test_an_operator_without_a_rule_pins_its_channels():
    pins = pins_of_first(around("k = LRN<size=3>(h)"))
    assert "LRN 'lrn1'" in pins
    assert "no rule" in pins


def test_indices_of_a_max_pool_pin_what_it_pools():
    pool = "a, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) k = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(a, i)"
    assert "indices" in pins_of_first(around(pool))


def test_a_mask_that_someone_reads_goes_with_its_channels():
    model = around("a, mask = Dropout(h) c = Cast<to=1>(mask) k = Mul(a, c)")
    group = groups_of(model)["conv0"]
    assert not group.pins


def test_an_unknown_domain_and_an_unknown_revision_have_no_rule():
    assert "domain" in str(rule_for("Relu", "com.example", 14))
    assert "revision 99" in str(rule_for("Relu", "", 99))


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ('k = Pad<mode="reflect">(h, pads)', {"pads": ints(0, 2, 0, 0, 0, 1, 0, 0)}),
        (
            "a = Concat<axis=1>(h, h) k = Slice(a, starts, ends, axes, steps)",
            {"starts": ints(0), "ends": ints(12), "axes": ints(1), "steps": ints(2)},
        ),
        ("k = Expand(h, shape)", {"w1": (1, 3, 3, 3), "b1": (1,), "shape": ints(1, 6, 8, 8)}),
        ("k = GroupNormalization<num_groups=2>(h, s, t)", {"s": (6,), "t": (6,)}),
        ("k = Softmax<axis=1>(h)", {}),
    ],
)
def test_work_on_the_channel_axis_pins_it(operator, weights):
    opset = 21 if "Group" in operator else 17
    group = groups_of(around(operator, weights, opset=opset, ir_version=10) if "Pad" not in operator else padded())[
        "conv0"
    ]
    assert group.pins


def padded() -> onnx.ModelProto:
    body = 'h = Conv<pads=[1,1,1,1]>(x, w1, b1) k = Pad<mode="reflect">(h, pads) z = Conv(k, w2, b2)' + _TAIL
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 9, 3, 3), "b2": (7,), "w3": (5, 7), "b3": (5,)}
    return build(body, {**weights, "pads": ints(0, 2, 0, 0, 0, 1, 0, 0)})


_SHARED = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 1, 1), "b2": (6,), "w3": (5, 6), "b3": (5,)}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("a = Conv(h, w2, b2) z = Conv(a, w2, b2)", "applied again to what depends on its output"),
        ("a = Conv(h, w2, b2) b = Conv(h, w2, c2) z = Add(a, b)", "nodes that add different biases"),
        ("a = Conv(h, w2, b2) b = ConvTranspose(h, w2, b2) z = Mul(a, b)", "by Conv and ConvTranspose nodes"),
        (
            "a = Conv(h, w2, b2) c = Conv(a, w4, b4) q = Conv(h, w4, b4) b = Conv(q, w2, b2) z = Add(c, b)",
            "shared by nodes that cannot be fitted together",
        ),
    ],
)
def test_shared_weights_that_are_no_one_layer_pin_what_they_read(body, told):
    weights = {**_SHARED, "c2": (6,), "w4": (6, 6, 1, 1), "b4": (6,)}
    model = build("h = Conv<pads=[1,1,1,1]>(x, w1, b1) " + body + _TAIL, weights)
    assert told in pins_of_first(model)


def test_layers_of_other_weights_with_one_large_bias_stay_apart():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) a = Conv(h, w2, b2) b = Conv(h, w4, b2) z = Add(a, b)"
    size = 70000
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (size, 6, 1, 1), "w4": (size, 6, 1, 1), "b2": (size,)}
    net, _ = load(build(body + _TAIL, {**weights, "w3": (5, size), "b3": (5,)}))
    sites = channel_map(net).sites.values()
    biases = [net.node(site.name).inputs[2] for site in sites]
    assert len({id(bias) for bias in biases}) == len(biases)
    assert not any(site.shared for site in sites)


def test_nodes_with_the_same_weights_are_one_site():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) g = Tanh(h) a = Conv(h, w2, b2) b = Conv(g, w2, b2) z = Add(a, b)"
    net, _ = load(build(body + _TAIL, _SHARED))
    channels = channel_map(net)
    shared = [site for site in channels.sites.values() if site.shared]
    assert [len(site.uses) for site in shared] == [2]
    assert set(shared[0].sources) == {"h", "g"}
    assert not channels.fixed
    assert len({id(net.node(use.name).inputs[2]) for use in shared[0].uses}) == 1
    order = schedule(net, [[use.name for use in shared[0].uses]])
    assert min(order.index(use.name) for use in shared[0].uses) > max(order.made[name] for name in ("h", "g"))


def test_a_layer_that_is_no_site_has_a_reason_of_its_own():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) a = Conv(h, w2) z = Conv(a, w2)" + _TAIL
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 1, 1), "w3": (5, 6), "b3": (5,)}
    net, _ = load(build(body, weights))
    channels = channel_map(net)
    layers = {node.name for node in net.nodes if node.op in {"Conv", "Gemm"}}
    assert set(channels.fixed) == layers - set(channels.sites)
    assert len(channels.fixed) == 2
    assert set(channels.fixed.values()) == {"its weights are applied again to what depends on its output"}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [("strides=[2,2]", ""), ("strides=[2,2], output_shape=[16,16]", "its pads"), ("strides=[2,2], group=2", "groups")],
)
def test_a_transposed_conv_may_lose_inputs_where_it_can_be_fitted(attributes, reason):
    outputs = 2 if "group" in attributes else 4
    weights = {"v": (6, outputs, 2, 2), "c": (4,), "w2": (7, 4, 3, 3)}
    groups = groups_of(around(f"k = ConvTranspose<{attributes}>(h, v, c)", weights))
    assert groups["conv0"].size == 6
    assert reason in groups["conv0"].pins[0] if reason else not groups["conv0"].pins
    if "group" not in attributes:
        assert groups["convtranspose1"].size == 4
        assert not groups["convtranspose1"].pins


def test_computed_weights_pin_what_they_read():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) s = ReduceMean<keepdims=0>(x) v = Mul(w2, s) z = Conv(h, v)" + _TAIL
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 3, 3), "w3": (5, 7), "b3": (5,)}
    assert "computed" in pins_of_first(build(body, weights))


def test_weights_that_are_computed_from_constants_are_weights():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) v = Relu(w2) z = Conv(h, v)" + _TAIL
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 3, 3), "w3": (5, 7), "b3": (5,)}
    assert not pins_of_first(build(body, weights))


def test_weights_that_a_caller_may_replace_are_pinned():
    model = onnx.ModelProto()
    model.CopyFrom(CASES["Conv"])
    model.graph.input.append(helper.make_tensor_value_info("w2", 1, [7, 6, 3, 3]))
    assert "caller may replace" in pins_of_first(model)


def test_what_a_control_flow_body_reads_is_pinned():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["h"], ["out"])], "branch", [], [helper.make_tensor_value_info("out", 1, None)]
    )
    model = onnx.ModelProto()
    model.CopyFrom(around("k = Relu(h)"))
    model.graph.node[1].CopyFrom(
        helper.make_node("If", ["always"], ["k"], name="choice", then_branch=branch, else_branch=branch)
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    model.graph.input.append(helper.make_tensor_value_info("always", onnx.TensorProto.BOOL, []))  # so it is none
    assert "'choice'" in pins_of_first(model)


def test_a_reason_given_from_outside_pins_the_input_channels():
    net, _ = load(CASES["Conv"])
    channels = channel_map(net, forbidden={"conv2": "too large for --memory"})
    group = next(group for group in channels.groups if group.name == "conv0")
    assert group.pins == ("too large for --memory",)


def test_grouped_convs_lose_channels_in_every_group_alike():
    net, _ = load(CASES["Conv between grouped convs"])
    channels = channel_map(net)
    group = next(group for group in channels.prunable if group.name == "conv2")
    first = group.units[0]
    slots = np.flatnonzero(channels.labels[channels.sites["conv2"].output_axis] == first)
    assert len(slots) == 2


def test_a_concat_keeps_its_branches_apart():
    groups = groups_of(CASES["Concat"])
    assert {groups["conv0"].size, groups["conv1"].size} == {6, 4}
    assert groups["conv0"].consumers == groups["conv1"].consumers


def test_a_sum_couples_its_branches():
    groups = groups_of(CASES["two branches"])
    assert groups["conv0"].producers == ("conv0", "conv1")


def test_a_sum_with_an_operand_of_open_size_pins_its_channels():
    body = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) k = Add(h, s) z = Conv<pads=[1,1,1,1]>(k, w2, b2)" + _TAIL
    weights = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 3, 3), "b2": (7,), "w3": (5, 7), "b3": (5,)}
    model = build(body, weights, inputs="float[N,3,8,8] x, float[N,C,8,8] s")
    assert "size of one of its inputs is unknown" in groups_of(model)["conv0"].pins[0]


def test_names_that_a_body_makes_itself_pin_nothing_outside():
    inner = [helper.make_node("Relu", ["h"], ["a"]), helper.make_node("Neg", ["a"], ["out"])]
    body = helper.make_graph(inner, "branch", [], [helper.make_tensor_value_info("out", 1, None)])
    model = onnx.ModelProto()
    model.CopyFrom(around("k = Relu(h)"))
    model.graph.node[1].CopyFrom(
        helper.make_node("If", ["always"], ["k"], name="choice", then_branch=body, else_branch=body)
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    model.graph.input.append(helper.make_tensor_value_info("always", onnx.TensorProto.BOOL, []))  # so it is none
    net, _ = load(model)
    assert set(captured_names(next(node for node in net.nodes if node.op == "If"))) == {"h"}
