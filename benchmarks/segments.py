"""What is a depthwise-pointwise pair worth? Each pair of MobileNet v1 removed, the layer in front fitted to its output.

A pair whose input and output maps have equal shapes can go without any other change of the graph. The pointwise conv
in front of it is fitted to the pair's output behind the clipping activation: least squares, then steps of a
Gauss-Newton method with the linear part's Hessian, in which positions count only where both are not clipped alike. A
tenth of the photos tells the error of the fit. The plain command and channels only, at the speed-up of one pair, stand
beside them.

Run: ``python benchmarks/segments.py --data FOLDER``
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import arguments, machine, table
from deploy import Judge, photo_folders, pruned, run_options
from deployed import NETWORKS
from measures import session_of
from onnx import helper, numpy_helper
from PIL import Image

from onnxprune.graph.model.load import read_model
from onnxprune.graph.model.save import finished_model
from onnxprune.steps.prepare import folded

Array = np.ndarray[Any, Any]
Node = onnx.NodeProto

_NETWORK = "imagenet_mobilenet_v1_050_160"
_PHOTOS, _BATCH, _POSITIONS = 600, 20, 10
_HELD = 0.1  # of the photos, that tell the error
_RIDGE, _STEPS = 1e-3, 30
_CLIP = 6.0
_SPEEDUP = 1.1


def _captured(model: onnx.ModelProto, names: list[str], pixels: Array) -> list[Array]:
    """Values of tensors at some positions, equal ones for all of them: (photos * positions, channels) each."""
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.output[:]
    inner.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = session_of(inner)
    generator = np.random.default_rng(0)
    found: list[list[Array]] = [[] for _ in names]
    for photo in pixels:
        maps = session.run(None, {session.get_inputs()[0].name: photo[None]})
        places = generator.integers(0, maps[0][0, 0].size, _POSITIONS)
        for rows, values in zip(found, maps, strict=True):
            rows.append(values[0].reshape(len(values[0]), -1)[:, places].T)
    return [np.concatenate(rows) for rows in found]


def _fitted(inputs: Array, wanted: Array) -> tuple[Array, Array, float]:
    """Weights, bias, and the error behind the activation on held-out rows, relative to the variance."""
    held = round(_HELD * len(inputs))
    x = np.hstack([inputs, np.ones((len(inputs), 1))])
    fit, y = x[held:], np.clip(wanted, 0, _CLIP)
    gram = fit.T @ fit
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, fit.T @ wanted[held:])
    for _ in range(_STEPS):
        found = fit @ weights
        clipped = np.clip(found, 0, _CLIP) == np.clip(y[held:], 0, _CLIP)
        weights += np.linalg.solve(gram, fit.T @ np.where(clipped, 0.0, y[held:] - found))
    left = np.clip(x[:held] @ weights, 0, _CLIP) - y[:held]
    spread = y[:held] - y[held:].mean(0)
    return weights[:-1].T, weights[-1], float((left**2).sum() / (spread**2).sum())


def _without(model: onnx.ModelProto, first: Node, last: Node, weights: Array, bias: Array) -> onnx.ModelProto:
    """The model in which ``first``, with other weights, stands for all up to ``last``."""
    shorter = onnx.ModelProto()
    shorter.CopyFrom(model)
    values = {first.input[1]: weights[:, :, None, None], first.input[2]: bias}
    for tensor in shorter.graph.initializer:
        if tensor.name in values:
            array = np.ascontiguousarray(values[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in shorter.graph.node:
        for place, name in enumerate(node.input):
            if name == last.output[0]:
                node.input[place] = first.output[0]
    needed = {output.name for output in shorter.graph.output}
    for node in reversed(list(shorter.graph.node)):
        if needed.isdisjoint(node.output):
            shorter.graph.node.remove(node)
        else:
            needed |= set(node.input)
    return shorter


def _pairs(model: onnx.ModelProto) -> Iterator[tuple[Node, Node]]:
    """The pointwise convs in front of and at the end of every pair whose output could be its input."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    pointwise = [n for n in model.graph.node if n.op_type == "Conv" and shapes[n.input[1]][2:] == (1, 1)]
    for first, last in pairwise(pointwise):
        if shapes[first.input[1]][0] == shapes[last.input[1]][0]:
            yield first, last


def _rows(given: argparse.Namespace) -> Iterator[list[object]]:
    network = NETWORKS[_NETWORK]
    path = network.path(given.zoo)
    net, _, _ = folded(*read_model(path))
    model = finished_model(net)
    with photo_folders(given.data / "photos") as (folder, unused):
        judge = Judge(network, given, unused)
        photos = sorted(Path(folder).iterdir())[:: max(1, 5150 // _PHOTOS)][:_PHOTOS]
        images = (Image.open(photo).convert("RGB").resize((network.side,) * 2) for photo in photos)
        pixels = network.feed(np.stack([np.asarray(image) for image in images]))
        yield ["", *judge.row("original", model, network.side, 0)[1:-1]]
        for first, last in _pairs(model):
            weights, bias, error = _fitted(*_captured(model, [first.input[0], last.output[0]], pixels))
            shorter = _without(model, first, last, weights, bias)
            yield [f"{error:.3f}", *judge.row(f"without {last.name}", shorter, network.side, 0)[1:-1]]
        for way, size in (("plain", "inside"), ("channels", "keep")):
            options = run_options(network.data, samples=_PHOTOS, input_size=size)
            smaller = pruned(path, folder, options, speedup=_SPEEDUP)
            yield ["", *judge.row(f"{way}, {_SPEEDUP:g}x", smaller, network.side, 0)[1:-1]]


def main() -> None:
    """Print the table."""
    given = arguments(__doc__).parse_args()
    print(machine(), flush=True)
    header = ["held-out error", "way", "measured time", "top-1", "test: agreement / KL", "unused photos"]
    print(table(header, list(_rows(given))))


if __name__ == "__main__":
    main()
