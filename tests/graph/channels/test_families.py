"""Removing equals zeroing in the shapes of real families, and how much of each is within reach."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from graph.families import FAMILIES, SIDE
from graph.nets import feeds, outputs_of, worst_difference
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.load import load
from onnxprune.graph.model.save import finished_model

# Of the multiply-accumulates, per cent: LayerNormalization takes its statistics over the channels of a stage.
REACH = {"convnext": 67.0}


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_removing_equals_zeroing(name, data):
    model = FAMILIES[name]()
    net, _ = load(model)
    channels = channel_map(net)
    removed = {
        group.name: sorted(data.draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1)))
        for group in channels.prunable
    }
    alive = alive_without(channels, removed)
    given_inputs = feeds(model, size=SIDE)
    left = outputs_of(finished_model(remove(net, channels, channels.all_alive(), alive)), given_inputs)
    right = outputs_of(zero(net, channels, alive).to_model(), given_inputs)
    assert worst_difference(left, right) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_nearly_all_of_the_work_is_within_reach(name):
    found = onnxprune.inspect(FAMILIES[name]())
    assert 100 * found.reach >= REACH.get(name, 100.0), [(row.name, row.reason) for row in found.layers]
