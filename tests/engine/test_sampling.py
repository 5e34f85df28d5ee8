"""Held tensors, sampled positions, and the frontier."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.data import InputSpec, open_calibration
from onnxprune.engine.capture import Positions, answers, output_extents, patches
from onnxprune.engine.frontier import Batch, Frontier
from onnxprune.engine.sessions import Engine
from onnxprune.engine.store import TensorStore
from onnxprune.graph.channels.rules import Axis
from onnxprune.graph.channels.sites import Site, Window
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.schedule import schedule
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions


@given(limit=st.integers(0, 400), sizes=st.lists(st.integers(1, 40), max_size=8))
@settings(deadline=None, max_examples=25)
def test_what_is_held_comes_back(limit, sizes, tmp_path_factory):
    held = {index: np.arange(size, dtype=np.float32) for index, size in enumerate(sizes)}
    with TensorStore(limit, tmp_path_factory.mktemp("held")) as store:
        for key, array in held.items():
            store.put(key, array)
        for key, array in held.items():
            assert np.array_equal(store.get(key), array)


def test_beyond_the_limit_tensors_lie_in_files_that_go_at_the_end(tmp_path):
    with TensorStore(10, tmp_path) as store:
        store.put("a", np.zeros(100))
        assert store.spilled == 1
        assert list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.iterdir())


def test_files_go_when_an_error_ends_the_work(tmp_path):
    def interrupted():
        with TensorStore(10, tmp_path) as store:
            store.put("a", np.zeros(100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_dropping_makes_room_in_memory(tmp_path):
    with TensorStore(100, tmp_path) as store:
        store.put("a", np.zeros(12))
        store.drop("a")
        store.put("b", np.zeros(12))
        assert store.spilled == 0


def site_of(window: Window | None, op: str = "Conv") -> Site:
    return Site("s", op, "x", "y", "w", Axis("w", 0), Axis("w", 1), window=window)


@st.composite
def convs(draw):
    rank = draw(st.integers(1, 3))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    pads = per_axis(0, 2) + per_axis(0, 2) if auto == "NOTSET" else (0,) * 2 * rank
    dilations = per_axis(1, 2) if auto in ("NOTSET", "VALID") else (1,) * rank
    return Window(per_axis(1, 3), per_axis(1, 3), dilations, pads, auto), per_axis(5, 8)


def answered(operator: str, x: np.ndarray, w: np.ndarray, attributes: dict[str, object]) -> np.ndarray:
    """What onnxruntime gives."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@given(case=convs(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_patches_times_weights_are_the_convs_own_answers(case, seed):
    window, extents = case
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((2, 3, *extents)).astype(np.float32)
    w = generator.standard_normal((4, 3, *window.kernel)).astype(np.float32)
    attributes = {"strides": window.strides, "dilations": window.dilations}
    attributes |= {"pads": window.pads} if window.auto_pad == "NOTSET" else {"auto_pad": window.auto_pad}
    y = answered("Conv", x, w, attributes)
    site = site_of(window)
    assert output_extents(site, x.shape) == y.shape[2:]
    where = Positions(8, 7, seed).draw([4, 9], y.shape[2:], 1)
    rows = patches(x, site, where) @ w.reshape(4, -1).T
    assert np.allclose(rows, answers(y, where, 1), atol=1e-4)


@st.composite
def transposed_convs(draw):
    rank = draw(st.integers(1, 2))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    strides = per_axis(1, 3)
    tail = tuple(draw(st.integers(0, stride - 1)) for stride in strides)
    window = Window(
        per_axis(2, 3), strides, per_axis(1, 2), per_axis(0, 1) + per_axis(0, 1), transposed=True, tail=tail
    )
    return window, per_axis(4, 6)


@given(case=transposed_convs(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_patches_of_a_transposed_conv_are_what_reaches_each_position(case, seed):
    window, extents = case
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((2, 3, *extents)).astype(np.float32)
    w = generator.standard_normal((3, 4, *window.kernel)).astype(np.float32)
    attributes = {"strides": window.strides, "dilations": window.dilations, "pads": window.pads}
    y = answered("ConvTranspose", x, w, {**attributes, "output_padding": window.tail})
    site = Site("s", "ConvTranspose", "x", "y", "w", Axis("w", 1), Axis("w", 0), window=window)
    assert output_extents(site, x.shape) == y.shape[2:]
    where = Positions(8, 9, seed).draw([4, 9], y.shape[2:], 1)
    rows = patches(x, site, where) @ np.moveaxis(w, 1, 0).reshape(4, -1).T
    assert np.allclose(rows, answers(y, where, 1), atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6)])
def test_rows_of_a_dense_layer_are_its_positions(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    site = site_of(None, "MatMul")
    where = Positions(8, 10, 0).draw(range(5), output_extents(site, shape), 1)
    assert sorted(map(tuple, patches(x, site, where))) == sorted(map(tuple, x.reshape(-1, 6)))


@given(images=st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True), points=st.integers(1, 30))
def test_positions_belong_to_the_image_and_are_distinct(images, points):
    extents = (4, 5)
    together = Positions(8, points, 3).draw(images, extents, 1)
    assert together.shape == (len(images), min(points, 20), 2)
    for index, image in enumerate(images):
        assert np.array_equal(together[index], Positions(8, points, 3).draw([image], extents, 1)[0])
        assert len({tuple(place) for place in together[index]}) == min(points, 20)


@pytest.fixture(scope="module")
def network(resnet):
    net, _ = fold(load(resnet)[0])
    images = np.random.default_rng(0).standard_normal((7, 1, 16, 16)).astype(np.float32)
    spec = InputSpec("input", (None, 1, 16, 16), np.dtype(np.float32))
    return net, open_calibration(images, (spec,), DataOptions()), images


BATCHES = (Batch((0, 1, 2), 3), Batch((3, 4, 5), 3), Batch((6,), 1))


@given(data=st.data(), limit=st.sampled_from([0, 10**9]))
@settings(deadline=None, max_examples=10)
def test_a_frontier_holds_what_the_whole_network_computes(network, data, limit):
    net, calibration, images = network
    order = schedule(net)
    last = len(order.order)
    cuts = [*sorted(data.draw(st.sets(st.integers(1, last - 1), max_size=4))), last]
    early = data.draw(st.sampled_from(sorted(name for name, made in order.made.items() if 0 <= made < cuts[0])))
    engine = Engine.open(EngineOptions(provider="cpu"))
    whole = net.to_model()
    whole.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name, made in order.made.items()
        if made >= 0 and name not in net.output_names
    )
    expected = engine.session(whole, label="whole").run({"input": images})
    with TensorStore(limit) as store:
        frontier = Frontier("f", engine, order, calibration, BATCHES, store)
        for cut in cuts:
            wanted = [early, *(net.output_names if cut == last else ())]
            with frontier.moving(net, cut, wanted, later=[early]) as advance:
                for number, batch in enumerate(BATCHES):
                    found = advance(number)
                    assert set(found) >= {early, *order.live(cut)} - {"input"}
                    for name, array in found.items():
                        if name != "input":
                            assert np.allclose(array, expected[name][list(batch.samples)], atol=1e-3)


def test_narrowed_tensors_are_narrow_from_then_on(network):
    net, calibration, _ = network
    order = schedule(net)
    engine = Engine.open(EngineOptions(provider="cpu"))
    with TensorStore(10**9) as store:
        frontier = Frontier("f", engine, order, calibration, BATCHES, store)
        with frontier.moving(net, 2) as advance:
            wide = [dict(advance(number)) for number in range(3)]
        name = next(name for name in wide[0] if name != "input")
        frontier.narrow(name, 1, np.array([1, 3]))
        frontier.narrow(name, 1, np.array([1]))
        with frontier.moving(net, 2) as advance:
            narrow = [dict(advance(number)) for number in range(3)]
    assert all(np.array_equal(n[name], w[name][:, [3]]) for n, w in zip(narrow, wide, strict=True))
