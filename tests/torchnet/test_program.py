"""A graph run by torch answers as onnxruntime does, has the right gradients, and goes back into the same graph."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from engine.helpers import parse, run
from graph.families import FAMILIES, SIDE
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model
from onnxprune.torchnet.program import TorchNet, with_weights_of
from onnxprune.torchnet.trainable import balanced, trainable


def loaded(model) -> Net:
    return fold(load(model)[0])[0]


def images(count: int = 2, seed: int = 0):
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("folded", [True, False])
def test_families_answer_alike(family, folded):
    model = FAMILIES[family]()
    net = loaded(model) if folded else load(model)[0]
    module = TorchNet(net, trainable(net))
    with torch.no_grad():
        found = module.run({"x": torch.from_numpy(images())}, module.output_names)
    for name, wanted in zip(module.output_names, run(model, {"x": images()}), strict=True):
        np.testing.assert_allclose(found[name].numpy(), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gradients_are_those_of_the_outputs(family):
    """Along a random direction of all weights, against a central difference in double precision."""
    net = loaded(FAMILIES[family]())
    module = TorchNet(net, trainable(net)).double()
    feeds = {"x": torch.from_numpy(images()).double()}
    generator = torch.Generator().manual_seed(0)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    assert len(weights) >= 4
    direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]

    def loss() -> torch.Tensor:
        found = module.run(feeds, module.output_names)
        return torch.stack([found[name].square().mean() for name in module.output_names]).sum()

    @torch.no_grad()
    def after(step: float) -> float:
        for weight, way in zip(weights, direction, strict=True):
            weight += step * way
        moved = float(loss())
        for weight, way in zip(weights, direction, strict=True):
            weight -= step * way
        return moved

    loss().backward()
    slope = sum(float((w.grad * way).sum()) for w, way in zip(weights, direction, strict=True) if w.grad is not None)
    step = 1e-7  # small: a ReLU that turns in between would spoil the difference
    numeric = (after(step) - after(-step)) / (2 * step)
    assert slope == pytest.approx(numeric, rel=1e-3, abs=1e-6)


def test_weights_go_back_into_the_same_graph(resnet):
    net = loaded(resnet)
    module = TorchNet(net, trainable(net))
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.01)
    back = with_weights_of(net, module)
    assert [node.name for node in back.nodes] == [node.name for node in net.nodes]
    model = finished_model(back)
    x = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    name = net.input_names[0]
    x = x[:, :, : net.tensors()[name].shape[2], : net.tensors()[name].shape[3]]
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), run(model, {name: x})[0], rtol=1e-4, atol=1e-4)
    assert trainable(net)
    for weight in trainable(net):
        before, after = (graph.tensors()[weight].values for graph in (net, back))
        np.testing.assert_allclose(after, before * np.float32(1.01), rtol=1e-6)


def test_the_state_dict_is_keyed_by_the_names_of_the_initializers(vgg):
    net = loaded(vgg)
    module = TorchNet(net, trainable(net))
    assert set(trainable(net)) <= set(module.state_dict())
    other = TorchNet(net, trainable(net))
    assert not any(other.load_state_dict(module.state_dict()))


@pytest.mark.parametrize(
    "names",
    [
        ("a.b", "a"),
        ("a", "a.b"),
        ("forward", "float"),
        ("a..b", ".a"),
        ("v.forward", "v"),
        ("norms", "_steps"),
        ("sample.w", "keys"),
    ],
)
def test_names_that_torch_does_not_allow_are_changed_and_stay_apart(names):
    weights = {name: np.full((3, 3, 1, 1), 1.0 + place, np.float32) for place, name in enumerate(names)}
    nodes = [
        helper.make_node("Conv", ["x", names[0]], ["h"], "first"),
        helper.make_node("Conv", ["h", names[1]], ["y"], "second"),
    ]
    net = loaded(model_of(nodes, weights, "y"))
    module = TorchNet(net, trainable(net))
    assert set(module.keys) == set(names)
    assert len(set(module.keys.values())) == 2
    assert set(module.keys.values()) == set(module.state_dict())
    for name in names:
        np.testing.assert_array_equal(module.weight(name).detach().numpy(), weights[name])
    assert copy.deepcopy(module).state_dict().keys() == module.state_dict().keys()


def model_of(nodes, weights, *outputs, opset: int = 17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model)


def test_shared_weights_are_one_parameter_and_frozen_ones_none():
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "v": np.ones((3, 3, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "one"),
        helper.make_node("Conv", ["a", "w"], ["b"], "two"),
        helper.make_node("Conv", ["b", "v"], ["y"], "three"),
    ]
    net = loaded(model_of(nodes, weights, "y"))
    assert trainable(net) == ("w", "v")
    assert len(list(TorchNet(net, trainable(net)).parameters())) == 2
    assert trainable(net, ("two",)) == ("v",), "frozen for one of its users is frozen for all"
    assert trainable(net, ("t*",)) == ()


def test_all_unsupported_operators_are_listed_at_once():
    model = parse(
        "w = Constant <value = float[3,3,1,1] {1,0,0,0,1,0,0,0,1}> () a = Hardmax (x) b = Det (a)"
        " c = Conv (a, w) d = Hardmax (c) y = Add (d, b)",
        "float[N,3,4,4] x",
        "float[N,3,4,4] y",
    )
    net = load(model)[0]
    with pytest.raises(ModelError) as caught:
        TorchNet(net)
    assert "Hardmax" in str(caught.value)
    assert "Det" in str(caught.value)
    assert "leave --recover out" in str(caught.value)


@pytest.mark.parametrize("family", ["mobilenet_v2", "vgg_bn", "resnet_basic"])
def test_balancing_changes_no_output(family):
    if family not in FAMILIES:
        pytest.skip(f"no family {family}")
    model = FAMILIES[family]()
    net = loaded(model)
    even = finished_model(balanced(net, trainable(net)))
    for ours, wanted in zip(run(even, {"x": images()}), run(model, {"x": images()}), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_balancing_gives_the_factors_of_a_chain_equal_norms():
    rng = np.random.default_rng(0)
    weights = {
        "v": (100 * rng.standard_normal((4, 3, 3, 1))).astype(np.float32),
        "vb": rng.standard_normal(4).astype(np.float32),
        "h": (0.01 * rng.standard_normal((5, 4, 1, 3))).astype(np.float32),
    }
    weights["v"][2] = 0  # a dead channel stays as it is
    nodes = [
        helper.make_node("Conv", ["x", "v", "vb"], ["a"], "V"),
        helper.make_node("Conv", ["a", "h"], ["y"], "H"),
    ]
    model = model_of(nodes, weights, "y")
    net = loaded(model)
    even = balanced(net, trainable(net))
    first = np.linalg.norm(even.tensors()["v"].values.reshape(4, -1), axis=1)
    second = np.linalg.norm(even.tensors()["h"].values.transpose(1, 0, 2, 3).reshape(4, -1), axis=1)
    np.testing.assert_allclose(first[[0, 1, 3]], second[[0, 1, 3]], rtol=1e-5)
    np.testing.assert_array_equal(even.tensors()["vb"].values[2], weights["vb"][2])
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(finished_model(even), {"x": x})[0], run(model, {"x": x})[0], rtol=1e-3, atol=1e-4)
    assert trainable(even) == trainable(net)
    frozen = balanced(net, ("v", "vb"))
    np.testing.assert_array_equal(frozen.tensors()["v"].values, weights["v"])


def test_no_gradient_passes_a_cut():
    net = loaded(FAMILIES["vgg_bn"]())
    module = TorchNet(net, trainable(net))
    names = [node.outputs[0].name for node in net.nodes if node.op == "Relu"]
    found = module.run({"x": torch.from_numpy(images())}, [names[0], names[1]], cuts=(names[0],))
    found[names[1]].sum().backward()
    with_gradient = [name for name in trainable(net) if module.weight(name).grad is not None]
    assert with_gradient
    assert set(with_gradient).isdisjoint(t.name for t in net.nodes[0].inputs)
    found = module.run({"x": torch.from_numpy(images())}, [names[0]], cuts=(names[0],))
    found[names[0]].sum().backward()
    assert module.weight(net.nodes[0].inputs[1].name).grad is not None
