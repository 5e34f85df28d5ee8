"""An inspection says what a run could do: its costs are those of networks that were really cut."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.remove import alive_without, remove
from onnxprune.planning.cost import cost_model
from onnxprune.steps.prepare import folded


def test_halved_is_what_halving_every_group_really_costs(vgg) -> None:
    found = onnxprune.inspect(vgg)
    net, _, params = folded(onnx.load(vgg), "vgg")
    channels = channel_map(net)
    alive = alive_without(channels, {group.name: range(group.size // 2) for group in channels.prunable})
    smaller = remove(net, channels, channels.all_alive(), alive)
    left = cost_model(smaller, channel_map(smaller), found.inputs).macs()
    assert found.halved == pytest.approx(found.macs / left)
    assert found.reach == 1
    assert found.params == params
    assert sum(layer.macs for layer in found.layers) == found.macs


def unet() -> onnx.ModelProto:
    """A stem, a step down, a transposed conv up, a skip connection, and an operator that nothing passes."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3, H, W] x) => (float[N, 5, H, W] y) {
            a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w1)
            b = Conv<kernel_shape=[2, 2], strides=[2, 2]>(a, w2)
            c = ConvTranspose<kernel_shape=[2, 2], strides=[2, 2]>(b, w3)
            d = Concat<axis=1>(a, c)
            e = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(d, w4)
            f = LRN<size=3>(e)
            y = Conv<kernel_shape=[1, 1]>(f, w5)
        }
    """)
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (16, 8, 2, 2), "w3": (16, 6, 2, 2), "w4": (10, 14, 3, 3), "w5": (5, 10, 1, 1)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    for node, name in zip(model.graph.node, ("stem", "down", "up", "cat", "merge", "lrn", "head"), strict=True):
        node.name = name
    return model


def test_every_layer_has_a_reason_or_may_go() -> None:
    found = onnxprune.inspect(unet(), size=32)
    layers = {layer.name: layer for layer in found.layers}
    assert not layers["stem"].reason
    assert not layers["up"].reason
    assert not layers["down"].reason
    assert layers["up"].inputs_prunable
    assert "no rule for LRN" in layers["merge"].reason
    assert "graph output 'y'" in layers["head"].reason
    assert layers["merge"].inputs_prunable
    assert found.inputs == {"x": (1, 3, 32, 32)}
    assert "32 assumed" in found.notes[0]
    touched = sum(layers[name].macs for name in ("stem", "down", "up", "merge"))
    assert found.reach == pytest.approx(touched / found.macs)
