"""What a comparison counts as lost: the worst of all outputs, and answers that are none."""

from __future__ import annotations

import numpy as np
import onnx
from graph.nets import build
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.compare import CompareOptions

TWO = build(
    "h = Conv<pads=[1,1,1,1]>(x, w1, b1) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3) "
    "r = Conv(h, w4)",
    {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (5, 6), "b3": (5,), "w4": (2, 6, 1, 1)},
    outputs="float[N,5] y, float[N,2,8,8] r",
)
DATA = {"x": np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)}
OPTIONS = CompareOptions(bench=False, max_drop=1)


def with_weight(name: str, factor: float) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(TWO.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(tensor), name))
    return model


def test_the_worst_output_counts_beside_a_classifier():
    found = onnxprune.compare(TWO, with_weight("w4", 50), data=DATA, options=OPTIONS)
    assert not found.within
    assert found.drop > 100
    assert "relative error" in found.drop_kind


def test_it_counts_beside_labels_too():
    found = onnxprune.compare(TWO, with_weight("w4", 50), data=DATA, labels=[0] * 20, options=OPTIONS)
    assert not found.within


def test_no_number_is_no_right_answer():
    found = onnxprune.compare(TWO, with_weight("b3", np.nan), data=DATA, labels=[0] * 20, options=OPTIONS)
    assert found.accuracy is not None
    assert found.accuracy[1] == 0
