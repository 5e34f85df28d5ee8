"""Removing equals zeroing, for every rule and for any channels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.cases import CASES
from graph.nets import build, computes_the_same, operators, outputs_of, worst_difference
from graph.random_nets import random_net
from onnxprune.graph.channels.groups import ChannelMap, channel_map
from onnxprune.graph.channels.rules import registered
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model
from onnxprune.planning.assignment import Assignment
from onnxprune.planning.cost import cost_model


def drawn_removal(channels: ChannelMap, data: st.DataObject) -> dict[str, list[int]]:
    removed = {}
    for group in channels.prunable:
        removed[group.name] = sorted(
            data.draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1), label=group.name)
        )
    return removed


def mapped(model: onnx.ModelProto) -> tuple[Net, ChannelMap]:
    net, _ = load(model)
    return net, channel_map(net)


def test_every_registered_rule_has_a_case():
    covered = set().union(*(operators(model) for model in CASES.values()))
    assert registered() - covered == set()


# What these do mixes the channels, or counts them.
_PINNED = {
    "ArgMax over channels",
    "GroupNormalization",
    "LayerNormalization over channels",
    "MeanVarianceNormalization over channels",
    "Slice with a step",
    "Softmax over channels",
}


@pytest.mark.parametrize("name", CASES)
def test_the_channels_in_front_of_every_operator_may_go_unless_it_mixes_them(name):
    _, channels = mapped(CASES[name])
    assert channels.prunable
    assert bool(channels.groups[0].pins) == (name in _PINNED), channels.groups[0].pins


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_removing_equals_zeroing(name, data):
    net, channels = mapped(CASES[name])
    alive = alive_without(channels, drawn_removal(channels, data))
    smaller = remove(net, channels, channels.all_alive(), alive)
    left = outputs_of(finished_model(smaller))
    right = outputs_of(zero(net, channels, alive).to_model())
    assert worst_difference(left, right) < 2e-5


@pytest.mark.parametrize("name", ["Conv between grouped convs", "dense block", "Flatten", "squeeze and excite"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_removing_in_two_steps_equals_removing_at_once(name, data):
    net, channels = mapped(CASES[name])
    whole = channels.all_alive()
    first = alive_without(channels, drawn_removal(channels, data))
    second = first & alive_without(channels, drawn_removal(channels, data))
    groups = [group for group in channels.prunable if not second[group.units].any()]
    for group in groups:
        second[group.units] = first[group.units]
    at_once = remove(net, channels, whole, second)
    in_steps = remove(remove(net, channels, whole, first), channels, first, second)
    assert worst_difference(outputs_of(at_once.to_model()), outputs_of(in_steps.to_model())) == 0


@pytest.mark.parametrize("name", ["Conv", "two branches", "depthwise Conv with a multiplier", "MatMul"])
def test_removing_leaves_the_given_network_as_it_was(name):
    net, channels = mapped(CASES[name])
    before = net.to_model().SerializeToString()
    group = channels.prunable[0]
    alive = alive_without(channels, {group.name: [0]})
    remove(net, channels, channels.all_alive(), alive)
    zero(net, channels, alive)
    assert net.to_model().SerializeToString() == before


def test_removing_nothing_changes_no_output():
    net, channels = mapped(CASES["dense block"])
    same = remove(net, channels, channels.all_alive(), channels.all_alive())
    assert worst_difference(outputs_of(same.to_model()), outputs_of(net.to_model())) == 0


def test_a_group_never_loses_its_last_channel():
    _, channels = mapped(CASES["Conv"])
    group = channels.prunable[0]
    with pytest.raises(ValueError, match="all of its channels"):
        alive_without(channels, {group.name: range(group.size)})


def test_an_unknown_group_is_refused():
    _, channels = mapped(CASES["Conv"])
    with pytest.raises(ValueError, match="no group"):
        alive_without(channels, {"nobody": [0]})


@pytest.mark.parametrize(
    "name", ["Conv in two groups", "depthwise Conv", "Flatten", "dense block", "MatMul", "Transpose"]
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_costs_by_count_are_those_of_the_network_that_was_really_cut(name, data):
    net, channels = mapped(CASES[name])
    shapes = {net.input_names[0]: (1, 3, 8, 8)}
    cost = cost_model(net, channels, shapes)
    removal = drawn_removal(channels, data)
    smaller = remove(net, channels, channels.all_alive(), alive_without(channels, removal))
    keep = Assignment({group.name: group.size - len(removal[group.name]) for group in channels.prunable})
    recounted = cost_model(smaller, channel_map(smaller), shapes)
    assert cost.macs(keep) == recounted.macs()
    assert cost.params(keep) == recounted.params() == smaller.parameters()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_removing_equals_zeroing_in_random_networks(seed, data):
    net, channels = mapped(random_net(seed))
    alive = alive_without(channels, drawn_removal(channels, data))
    smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
    assert computes_the_same(smaller, zero(net, channels, alive).to_model())


def test_sums_that_nearly_cancel_are_compared_in_float64():
    """x + 10 000 - 10 000 equals x in float64; in float32 the rounding of the sum is above the bound."""
    shape = {"outputs": "float[N,3,8,8] y"}
    constants = {"much": np.array([1e4], np.float32), "more": np.array([1.0001], np.float32)}
    back = build("a = Add(x, much) y = Sub(a, much)", constants, **shape)
    same, other = (build(body, constants, **shape) for body in ("y = Identity(x)", "y = Mul(x, more)"))
    assert worst_difference(outputs_of(back), outputs_of(same)) > 1e-4
    assert computes_the_same(back, same)
    assert not computes_the_same(back, other)


@pytest.mark.long
def test_removing_equals_zeroing_twenty_thousand_times():
    """Every case and as many random networks, each with many random subsets."""
    wrong, tried = [], 0
    models = [*CASES.items(), *((f"random {seed}", random_net(seed)) for seed in range(850))]
    for name, model in models:
        net, channels = mapped(model)
        rng = np.random.default_rng(len(wrong) + tried)
        for _ in range(20):
            removed = {
                g.name: rng.choice(g.size, rng.integers(0, g.size), replace=False).tolist() for g in channels.prunable
            }
            alive = alive_without(channels, removed)
            smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
            tried += 1
            if not computes_the_same(smaller, zero(net, channels, alive).to_model()):
                wrong.append((name, removed))
    assert tried >= 20_000
    assert not wrong, wrong[:3]
