"""What is counted against --memory is what is taken, and how much there is changes no result."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from graph.nets import outputs_of, worst_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import Options
from onnxprune.engine.batching import batch_size, moves, tensor_bytes
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.model.load import load
from onnxprune.graph.model.schedule import Schedule, schedule
from onnxprune.options.planning import PlanOptions
from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.planning.cost import cost_model
from onnxprune.solve import MomentsBuilder, Regression, held_out_curve, refit, removal_order
from onnxprune.steps.eligible import eligible
from onnxprune.steps.room import moment_bytes, solving_bytes
from onnxprune.steps.statistics import Reservoir

_SIDE, _WIDTH = 24, 16


def many_convs(count: int) -> onnx.ModelProto:
    """A chain of convs of 16 channels on 24 x 24, a Relu behind each."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor, channels = [], [], "x", 3
    for place in range(count):
        kernel = rng.standard_normal((_WIDTH, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{place}"))
        nodes.append(helper.make_node("Conv", [tensor, f"w{place}"], [f"c{place}"], name=f"conv{place}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"], name=f"relu{place}"))
        tensor, channels = f"r{place}", _WIDTH
    ends = [helper.make_tensor_value_info("x", 1, ["N", 3, _SIDE, _SIDE])]
    made = [helper.make_tensor_value_info(tensor, 1, ["N", _WIDTH, _SIDE, _SIDE])]
    graph = helper.make_graph(nodes, "many", ends, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
def test_many_small_layers_take_no_more_memory_than_few() -> None:
    data = {"x": np.random.default_rng(1).standard_normal((72, 3, _SIDE, _SIDE)).astype(np.float32)}
    options = Options(memory=64 << 20, sensitivity=False, points=10)
    tracemalloc.start()
    onnxprune.prune(many_convs(60), data=data, macs="2x", options=options, dry_run=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("room", [1 << 20, 8 << 20, 64 << 20])
def test_a_batch_of_many_layers_fits_with_all_that_lives_beside_it(room: int) -> None:
    net, _ = load(many_convs(300), label="many")
    order, one = schedule(net), _WIDTH * _SIDE * _SIDE * 4
    sizes = tensor_bytes(net, {"x": (1, 3, _SIDE, _SIDE)})
    size = batch_size(order, sizes, room)
    assert size * 3 * one <= room  # a conv's input and output, and what is returned
    assert size == 100 or (size + 1) * 3 * one > room
    sources = [f"r{place}" for place in range(300)]
    planned = moves(order, sizes, sources, room // size)
    assert max(len(move.sources) for move in planned) * one * size <= room


@settings(deadline=None, max_examples=50)
@given(data=st.data(), nodes=st.integers(1, 12), room=st.integers(0, 30))
def test_moves_return_every_source_once_and_within_the_room(data: st.DataObject, nodes: int, room: int) -> None:
    names = [f"t{place}" for place in range(nodes)]
    last = {name: data.draw(st.integers(place + 1, nodes)) for place, name in enumerate(names)}
    order = Schedule(tuple(names), {"x": -1, **{name: place for place, name in enumerate(names)}}, {"x": 0, **last})
    sizes = {name: data.draw(st.integers(1, 20)) for name in ("x", *names)}
    sources = data.draw(st.lists(st.sampled_from(["x", *names]), min_size=1, unique=True))
    planned = moves(order, sizes, sources, room)
    assert sorted(name for move in planned for name in move.sources) == sorted(sources)
    before = -1
    for move in planned:
        assert all(before <= order.made[name] < move.cut for name in move.sources)
        assert len(move.sources) == 1 or sum(sizes[name] for name in move.sources) <= room
        before = move.cut


@pytest.mark.parametrize(("columns", "outputs", "sites"), [(360, 40, 1), (360, 40, 3), (288, 256, 1), (160, 640, 1)])
def test_solving_takes_what_is_counted(columns: int, outputs: int, sites: int) -> None:
    rng = np.random.default_rng(0)
    weight, bias, unit = rng.standard_normal((outputs, columns)), np.zeros(outputs), np.arange(columns) // 8
    gathered = []
    for _ in range(sites):
        builder = MomentsBuilder(columns, 0)
        for half in (0, 1):
            builder.add(rng.standard_normal((2000, columns)).astype(np.float32), None, half)
        gathered.append(builder.finish())
    tracemalloc.start()
    problems = [Regression(moments.with_response(weight, bias), weight, bias, unit) for moments in gathered]
    options = SelectOptions()
    even, odd = (removal_order([one.half(half) for one in problems], columns // 8, options) for half in (0, 1))
    held_out_curve(problems, (even, odd))
    removal_order(problems, columns // 8, options)
    for columns_kept in (np.arange(columns), np.arange(columns // 2)):
        refit(problems[0], columns_kept, RefitOptions(refit="linear"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = solving_bytes([(1, outputs, columns)] * sites)
    assert 0.5 * counted < peak < 1.1 * counted


def test_a_group_whose_consumers_do_not_fit_together_keeps_its_channels_and_says_why() -> None:
    net, _ = load(many_convs(3), label="many")
    channels = channel_map(net)
    needed = moment_bytes((1, 16, 144), answered=False) + solving_bytes([(1, 16, 144)])
    cost = cost_model(net, channels, {"x": (1, 3, _SIDE, _SIDE)})
    whole = eligible(net, cost, channels, PlanOptions(), {}, needed)
    assert (whole.groups, whole.skipped) == (channels.prunable, {})
    tight = eligible(net, cost, channels, PlanOptions(), {}, needed - 1)
    assert not tight.groups
    assert len(tight.skipped) == 2
    assert all("1 consumers together need" in reason and "--memory" in reason for reason in tight.skipped.values())


def test_moments_of_a_grouped_conv_take_as_much_for_each_group() -> None:
    assert moment_bytes((4, 8, 90), answered=True) == 4 * moment_bytes((1, 8, 90), answered=True)
    assert moment_bytes((1, 8, 90), answered=False) < moment_bytes((1, 8, 90), answered=True)


@pytest.mark.parametrize("expected", [50, 1000, 300])
def test_a_reservoir_holds_an_even_share_once(expected: int) -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None]
    tracemalloc.start()
    pool = Reservoir(100, expected)
    for start in range(0, 1000, 50):
        part = rows[start : start + 50]
        pool.add(part, part, np.zeros(50, dtype=np.int64), None)
    samples = pool.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples.x) == min(100, expected)
    assert np.ptp(np.diff(samples.x[:, 0])) <= 1
    assert samples.x[-1, 0] >= min(expected, 1000) * 0.95 - 1
    assert peak < 20_000


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "returned"), [(100, 1), (7, 1), (7, 128 << 20), (1, 50_000)])
def test_batches_and_moves_change_nothing_but_rounding(narrow, batch, returned, monkeypatch) -> None:
    linear = RefitOptions(refit="linear")
    options = Options(sensitivity=False, bench=False, samples=60, recipe="prune", align=16, refit=linear)
    wanted = onnxprune.prune(narrow, macs="2x", options=options)
    monkeypatch.setattr("onnxprune.engine.batching._MOST", batch)
    monkeypatch.setattr("onnxprune.steps.statistics._MOST_RETURNED", returned)
    found = onnxprune.prune(narrow, macs="2x", options=options)
    assert found.plan.to_json() == wanted.plan.to_json()
    for one, two in zip(found.model.graph.initializer, wanted.model.graph.initializer, strict=True):
        one, two = numpy_helper.to_array(one), numpy_helper.to_array(two)
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-3 * max(np.abs(two).max(), 1e-6))
    assert worst_difference(outputs_of(found.model), outputs_of(wanted.model)) < 1e-3
