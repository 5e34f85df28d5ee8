"""A network run piece by piece holds the same tensors as one that is run at once."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxprune.data import InputSpec
from onnxprune.data.calibration import TensorCalibration
from onnxprune.engine.frontier import Batch, Frontier
from onnxprune.engine.inputs import batches
from onnxprune.engine.store import TensorStore
from onnxprune.graph.edit.remove import alive_without, remove
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.schedule import schedule, segment

from .helpers import CPU, parse, resnet, run

Array = np.ndarray[Any, Any]
COUNT, SIZE = 7, 3
LIMITS = [0, 60_000, 1 << 30]
BATCHES = [Batch(tuple(samples), real) for samples, real in batches(range(COUNT), [], SIZE)]


@cache
def calibration() -> TensorCalibration:
    images = np.random.default_rng(0).standard_normal((COUNT, 1, 16, 16)).astype(np.float32)
    spec = InputSpec("input", (None, 1, 16, 16), np.dtype(np.float32))
    return TensorCalibration(specs=(spec,), tensors={"input": images}, description={})


def at_once(net: Net) -> dict[str, Array]:
    """Every tensor of a network for all samples."""
    order = schedule(net)
    names = [name for name, made in order.made.items() if made >= 0]
    piece = segment(net, order, 0, len(order.order), names)
    model = gs.export_onnx(piece, do_type_check=False)
    model.ir_version = 8
    feeds = calibration().load(range(COUNT))
    found = run(model, feeds)
    return {**dict(zip([value.name for value in model.graph.output], found, strict=True)), **feeds}


@cache
def whole() -> dict[str, Array]:
    return at_once(resnet()[0])


def frontier(store: TensorStore, name: str = "original") -> Frontier:
    return Frontier(name, CPU, resnet()[1], calibration(), BATCHES, store)


def assert_same(found: Any, wanted: dict[str, Array], batch: int, names: set[str]) -> None:
    assert set(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name][list(BATCHES[batch].samples)], rtol=1e-4, atol=1e-5)


NODES = len(resnet()[1].order)
cuts_of = st.lists(st.integers(0, NODES), min_size=1, max_size=4).map(sorted)


@settings(max_examples=20, deadline=None)
@given(cuts_of, st.sampled_from(LIMITS), st.data())
def test_every_cut_has_the_tensors_of_the_whole_run(cuts: list[int], limit: int, data: st.DataObject) -> None:
    net, order, _ = resnet()
    with TensorStore(limit) as store:
        original = frontier(store)
        start = 0
        for cut in cuts:
            made = [name for name, index in order.made.items() if start <= index < cut]
            wanted = data.draw(st.lists(st.sampled_from(made), unique=True, max_size=3)) if made else []
            with original.moving(net, cut, wanted) as advance:
                for batch in range(len(BATCHES)):
                    assert_same(advance(batch), whole(), batch, {*order.live(cut), *wanted})
            assert original.cut == cut
            start = cut
        assert limit == LIMITS[1] or (store.spilled > 0) == (limit == 0)


@settings(max_examples=10, deadline=None)
@given(cuts_of, st.sampled_from(LIMITS), st.sets(st.sampled_from(sorted(resnet()[1].made)), min_size=1, max_size=3))
def test_tensors_for_later_stay_available_until_they_are_no_longer_asked_for(
    cuts: list[int], limit: int, later: set[str]
) -> None:
    net, order, _ = resnet()
    with TensorStore(limit) as store:
        original = frontier(store)
        for cut in cuts:
            with original.moving(net, cut, (), later) as advance:
                for batch in range(len(BATCHES)):
                    there = {name for name in later if order.made[name] < cut}
                    assert_same(advance(batch), whole(), batch, {*order.live(cut), *there})
        there = {name for name in later if order.made[name] < cuts[-1]}
        with original.moving(net, cuts[-1], there) as advance:
            for batch in range(len(BATCHES)):
                assert_same(advance(batch), whole(), batch, {*order.live(cuts[-1]), *there})
        with original.moving(net, NODES, ["logits"] if cuts[-1] < NODES else []) as advance:
            for batch in range(len(BATCHES)):
                advance(batch)
        for batch in range(len(BATCHES)):
            for name in whole():
                with pytest.raises(KeyError):
                    store.get(("original", batch, name))


def test_what_is_held_is_exactly_what_is_live() -> None:
    net, order, _ = resnet()
    with TensorStore(1 << 30) as store:
        original = frontier(store)
        for cut in (3, 10, 20):
            with original.moving(net, cut) as advance:
                for batch in range(len(BATCHES)):
                    advance(batch)
            held = set(store._held)
            assert held == {("original", batch, name) for batch in range(len(BATCHES)) for name in order.live(cut)}


def test_a_frontier_never_moves_back() -> None:
    net, order, _ = resnet()
    with TensorStore(0) as store:
        original = frontier(store)
        for cut in (12, 4):
            with original.moving(net, cut) as advance:
                for batch in range(len(BATCHES)):
                    assert_same(advance(batch), whole(), batch, set(order.live(12)))
            assert original.cut == 12


def test_two_frontiers_share_a_store() -> None:
    net, order, _ = resnet()
    with TensorStore(60_000) as store:
        first, second = frontier(store, "original"), frontier(store, "compressed")
        for ahead, behind in ((8, 5), (15, 15)):
            with first.moving(net, ahead) as move_first, second.moving(net, behind) as move_second:
                for batch in range(len(BATCHES)):
                    assert_same(move_first(batch), whole(), batch, set(order.live(ahead)))
                    assert_same(move_second(batch), whole(), batch, set(order.live(behind)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, NODES - 1), st.booleans(), st.sampled_from(LIMITS))
def test_narrowed_tensors_go_on_as_those_of_the_smaller_network(seed: int, cut: int, twice: bool, limit: int) -> None:
    """Channels that nothing has read yet are narrowed; the smaller network takes over from there."""
    net, order, channels = resnet()
    generator = np.random.default_rng(seed)
    groups = [g for g in channels.prunable if all(order.index(name) >= cut for name in g.consumers)]
    assume(groups)
    some = [groups[i] for i in generator.permutation(len(groups))[: 4 if twice else 1]]
    masks = [channels.all_alive()]
    smaller = net
    for part in (some[:2], some[2:]) if twice else (some,):
        gone = {g.name: generator.choice(g.size, int(generator.integers(1, g.size)), replace=False) for g in part}
        masks.append(masks[-1] & alive_without(channels, gone))
        smaller = remove(smaller, channels, masks[-2], masks[-1])
    wanted = at_once(smaller)
    with TensorStore(limit) as store:
        compressed = frontier(store, "compressed")
        with compressed.moving(net, cut) as advance:
            for batch in range(len(BATCHES)):
                advance(batch)
        for before, after in itertools.pairwise(masks):
            for axis in channels.labels:
                index = channels.kept_after(axis, before, after)
                if index is not None:
                    compressed.narrow(axis.tensor, axis.axis, index)
        for stop in (cut, NODES):
            with compressed.moving(smaller, stop, ["logits"] if stop > cut else []) as advance:
                for batch in range(len(BATCHES)):
                    names = {*order.live(stop), *(["logits"] if stop > cut else [])}
                    assert_same(advance(batch), wanted, batch, names)


def test_narrowing_a_tensor_that_is_not_held_does_nothing() -> None:
    net, _order, _ = resnet()
    with TensorStore(0) as store:
        original = frontier(store)
        original.narrow("logits", 1, np.array([0]))
        with original.moving(net, NODES, ["logits"]) as advance:
            for batch in range(len(BATCHES)):
                assert_same(advance(batch), whole(), batch, {"logits"})


def test_an_exception_while_moving_reaches_the_caller_and_leaves_no_files(tmp_path: Any) -> None:
    net, _, _ = resnet()

    def interrupted() -> None:
        with TensorStore(0, tmp_path) as store, frontier(store).moving(net, 5) as advance:
            advance(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_an_input_that_many_nodes_read_is_there_until_the_last() -> None:
    net = Net.from_model(
        parse(
            "a = Relu(x)\n b = Neg(a)\n c = Add(b, x)\n d = Sigmoid(c)\n y = Mul(d, x)",
            "float[N,1,16,16] x",
            "float[N,1,16,16] y",
        )
    )
    draft = net.draft()
    for index, node in enumerate(draft.nodes):
        node.name = f"node{index}"
    net = draft.done()
    order = schedule(net)
    images = calibration().tensors["input"]
    spec = InputSpec("x", (None, 1, 16, 16), np.dtype(np.float32))
    source = TensorCalibration(specs=(spec,), tensors={"x": images}, description={})
    (wanted,) = run(net.to_model(), {"x": images})
    with TensorStore(0) as store:
        walk = Frontier("net", CPU, order, source, BATCHES, store)
        for cut in range(1, 6):
            with walk.moving(net, cut, ["y"] if cut == 5 else []) as advance:
                found = [advance(batch) for batch in range(len(BATCHES))]
            assert all(("x" in tensors) == (cut < 5) for tensors in found)
    np.testing.assert_allclose(np.concatenate([tensors["y"] for tensors in found]), wanted, rtol=1e-5, atol=1e-6)
