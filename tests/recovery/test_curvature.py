"""The Fisher information: against its closed form, and as what an error does to the divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph.families import FAMILIES
from runtime.helpers import parse
from scipy.special import log_softmax

from onnxprune.errors import ModelError
from onnxprune.graph.fold import fold
from onnxprune.graph.load import load
from onnxprune.graph.sites import find_sites
from onnxprune.recovery.curvature import channel_weights
from onnxprune.recovery.program import TorchNet
from onnxprune.runtime.meaning import Meaning

TWO = (
    "a = Constant <value = float[3,2] {1,2, -1,1, 0.5,3}> () b = Constant <value = float[3] {0.1,0,-0.2}> () "
    "c = Constant <value = float[4,3] {1,0,2, -1,1,0, 3,0.5,0, 0,0,1}> () d = Constant <value = float[4] {0,1,0,0}> () "
    "h = Gemm <transB = 1> (x, a, b) r = Relu (h) y = Gemm <transB = 1> (r, c, d) "
)


def two(end: str = "", outputs: str = "float[N,4] y"):
    return load(parse(TWO + end, "float[N,2] x", outputs))[0]


def weights_of(net, x, axes, draws=400, temperature=2.0):
    outputs = {name: Meaning("classes", 1) for name in net.output_names if name == "y"} or None
    batches = [{"x": x[:50]}, {"x": x[50:]}]
    return channel_weights(net, axes, batches, temperature=temperature, draws=draws, seed=0, outputs=outputs)


X = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32)


@pytest.mark.parametrize(("end", "outputs"), [("", "float[N,4] y"), ("p = Softmax (y)", "float[N,4] p")])
def test_of_logits_it_is_the_closed_form(end, outputs):
    found = weights_of(two(end, outputs), X, {"y": -1})["y"]
    h = np.maximum(X @ np.array([[1, -1, 0.5], [2, 1, 3]]) + [0.1, 0, -0.2], 0)
    logits = h @ np.array([[1, 0, 2], [-1, 1, 0], [3, 0.5, 0], [0, 0, 1]]).T + [0, 1, 0, 0]
    p = np.exp(log_softmax(logits / 2, axis=1))
    np.testing.assert_allclose(found, (p * (1 - p)).mean(axis=0) / 4, rtol=0.05)


def test_half_of_it_is_what_a_squared_error_does_to_the_divergence():
    net = two()
    found = weights_of(net, X, {"h": -1}, draws=400)["h"]
    module = TorchNet(net, (), ("y",))
    before = log_softmax(module(torch.from_numpy(X)).numpy() / 2, axis=1)
    bias = module.weight("b")
    for channel in range(3):
        moved = []
        for step in (0.02, -0.02):
            with torch.no_grad():
                bias[channel] += step
                after = log_softmax(module(torch.from_numpy(X)).numpy() / 2, axis=1)
                bias[channel] -= step
            moved.append(float((np.exp(before) * (before - after)).sum(axis=1).mean()) / 0.02**2)
        assert found[channel] / 2 == pytest.approx(np.mean(moved), rel=0.15)


def test_of_numbers_it_is_the_square_of_the_jacobian():
    end = "s = Constant <value = int64[3] {0,2,2}> () z = Reshape (y, s)"
    net = two(end, "float[N,2,2] z")
    found = weights_of(net, X, {"y": -1, "h": -1})
    assert np.ptp(found["y"]) < 0.05 * found["y"].mean(), "every number counts alike"
    read = np.array([[1, 0, 2], [-1, 1, 0], [3, 0.5, 0], [0, 0, 1]])
    seen = (X @ np.array([[1, -1, 0.5], [2, 1, 3]]) + [0.1, 0, -0.2] > 0).mean(axis=0)
    wanted = np.square(read).sum(axis=0) * seen
    np.testing.assert_allclose(found["h"] / found["h"].sum(), wanted / wanted.sum(), rtol=0.15)


@pytest.mark.parametrize("family", ["resnet_basic", "mobilenet_v2"])
def test_every_layer_of_a_network_gets_weights(family):
    net = fold(load(FAMILIES[family]())[0])[0]
    sites = find_sites(net)
    x = np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32)
    found = channel_weights(
        net, {s.response: s.channel_axis for s in sites}, [{net.input_names[0]: x}], temperature=4, draws=1, seed=0
    )
    assert set(found) == {site.response for site in sites}
    for site in sites:
        assert found[site.response].shape == (net.tensors()[site.output_axis.tensor].shape[site.output_axis.axis],)
        assert np.isfinite(found[site.response]).all()


def test_a_tensor_on_which_nothing_depends_is_left_out_and_a_network_without_a_way_back_is_an_error():
    assert set(weights_of(two("z = Neg (x)", "float[N,4] y, float[N,2] z"), X, {"z": -1, "y": -1}, draws=1)) == {"y"}
    with pytest.raises(ModelError, match="Hardmax"):
        weights_of(
            two("k = Hardmax (y) w = Constant <value = float[4,1] {1,1,1,1}> () z = MatMul (k, w)", "float[N,1] z"),
            X,
            {"y": -1},
        )
