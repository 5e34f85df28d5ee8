"""Real models as real exporters wrote them; skipped where there is no zoo."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from onnxprune.graph.channels import channel_map
from onnxprune.graph.fold import fold
from onnxprune.graph.load import load, read_model
from onnxprune.graph.net import dims, numpy_dtype
from onnxprune.graph.save import finished_model
from onnxprune.graph.surgery import alive_without, remove, zero

MODELS = [
    "audio_basic_pitch",
    "cifar10_resnet20_rawexport",
    "cifar10_resnet56",
    "cifar10_resnet8",
    "cls_ppocr_textangle",
    "det_blazeface_front",
    "det_ultraface_rfb320",
    "imagenet_mobilenet_v1_050_160",
    "imagenet_squeezenet1_1",
    "sr_vdsr",
    "vww_mobilenet_v1_025_96",
]


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_for(net):
    generator = np.random.default_rng(0)
    found = {}
    for name in net.input_names:
        tensor = net.tensors()[name]
        shape = [size if isinstance(size, int) else (2 if axis == 0 else 32) for axis, size in enumerate(dims(tensor))]
        kind = numpy_dtype(tensor.dtype)
        drawn = generator.integers(0, 255, shape) if kind.kind in "iu" else generator.standard_normal(shape)
        found[name] = drawn.astype(kind)
    return found


def worst(left, right):
    return max(float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9)) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_loading_and_folding_change_no_output(zoo, name):
    original, _ = read_model(zoo / "models" / f"{name}.onnx")
    net, _ = fold(load(original)[0])
    feeds = feeds_for(net)
    assert worst(run(net.to_model(), feeds), run(original, feeds)) < 1e-4


@pytest.mark.parametrize("name", [name for name in MODELS if name != "det_blazeface_front"])
def test_removing_equals_zeroing(zoo, name):
    net, _ = fold(load(zoo / "models" / f"{name}.onnx")[0])
    channels = channel_map(net)
    generator = np.random.default_rng(1)
    assert channels.prunable
    removal = {
        g.name: generator.choice(g.size, int(generator.integers(0, g.size)), replace=False) for g in channels.prunable
    }
    alive = alive_without(channels, removal)
    smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
    feeds = feeds_for(net)
    assert worst(run(smaller, feeds), run(zero(net, channels, alive).to_model(), feeds)) < 1e-4


def test_layout_tricks_pin_with_a_reason(zoo):
    net, _ = fold(load(zoo / "models" / "det_blazeface_front.onnx")[0])
    for group in channel_map(net).groups:
        assert group.pins
        assert all("'" in reason for reason in group.pins)
