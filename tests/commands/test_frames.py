"""Frames of a video merged into the batch: a multiple of the batch is so many images of each sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph.nets import build, ints
from runs import SMALL

import onnxprune
from onnxprune.commands.inspect import run_inspection
from onnxprune.engine.seen import by_sample
from onnxprune.engine.sessions import Engine
from onnxprune.graph.model.load import load
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.steps.eligible import forbidden_sites

_CONVS = (
    "h = Conv<pads=[1,1,1,1]>(f, w1) r = Relu(h) c = Conv<pads=[1,1,1,1]>(r, w2) k = Relu(c) p = GlobalAveragePool(k) "
)
_BY_SAMPLE = f"f = Reshape(x, images) {_CONVS} s = Reshape(p, clips) m = ReduceMean<axes=[1], keepdims=0>(s) "
_BY_FRAME = (
    f"t = Transpose<perm=[1,0,2,3,4]>(x) f = Reshape(t, images) {_CONVS} s = Reshape(p, turned) "
    "m = ReduceMean<axes=[0], keepdims=0>(s) "
)
_WEIGHTS = {
    "w1": (8, 3, 3, 3),
    "w2": (10, 8, 3, 3),
    "w3": (5, 10),
    "images": ints(-1, 3, 8, 8),
    "clips": ints(-1, 4, 10),
    "turned": ints(4, -1, 10),
}
_HALF = np.random.default_rng(1).standard_normal((4, 3, 3, 3), dtype=np.float32)
CPU = Engine.open(EngineOptions(provider="cpu"))
X = np.random.default_rng(0).standard_normal((60, 4, 3, 8, 8), dtype=np.float32)


def video(body: str, batch: str | int = "N", own: np.ndarray | None = None):
    """A classifier of clips of four frames."""
    weights = _WEIGHTS if own is None else {**_WEIGHTS, "w1": own}
    return build(body + "y = Gemm<transB=1>(m, w3)", weights, inputs=f"float[{batch},4,3,8,8] x")


@pytest.mark.parametrize(("body", "found"), [(_BY_SAMPLE, {"f", "r"}), (_BY_FRAME, set())])
def test_the_order_of_merged_frames_is_measured(body, found):
    net, _ = load(video(body))
    assert by_sample(net, CPU, lambda count: {"x": X[:count]}, ["f", "r"]) == found


def test_frames_of_one_sample_are_its_own_in_any_order():
    net, _ = load(video(_BY_FRAME, batch=1))
    assert by_sample(net, CPU, lambda count: {"x": X[:1]}, ["f", "r"]) == {"f", "r"}


def test_layers_on_frames_are_pruned_and_fitted_on_all_of_them():
    """Half of the channels are multiples of the others, so that a fit without them is exact."""
    model = video(_BY_SAMPLE, own=np.concatenate([_HALF, 2 * _HALF]))
    assert run_inspection(model).reach > 0.99  # all but the Gemm
    half = replace(SMALL, budget=BudgetOptions(keep_ratio=0.5).budget())
    result = onnxprune.prune(model, data=X, options=half)
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert (shapes["w1"], shapes["w2"]) == ([4, 3, 3, 3], [10, 4, 3, 3])
    assert result.report.divergence[0].relative_error < 1e-3


def test_layers_on_frames_by_time_stay_with_the_reason():
    net, _ = load(video(_BY_FRAME))
    asked = []
    reasons = forbidden_sites(net, {"x": (2, 4, 3, 8, 8)}, 1 << 30, lambda names: asked.extend(names) or ())
    assert asked == ["f", "r"]
    assert reasons["conv2"] == "Conv 'conv2': the first axis of its input is not the batch"
    assert "conv2" not in forbidden_sites(net, {"x": (2, 4, 3, 8, 8)}, 1 << 30)
