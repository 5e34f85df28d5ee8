"""Engines, small models and nets for the tests of the runtime."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime

from onnxprune.engine.sessions import Engine
from onnxprune.engine.timing import Clocks, Repeats, Timing, interleaved
from onnxprune.graph.channels.groups import ChannelMap, channel_map
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.schedule import Schedule, schedule
from onnxprune.options.engine import EngineOptions

Array = np.ndarray[Any, Any]

MODELS = Path(__file__).parents[2] / "models"
CPU = Engine(EngineOptions(provider="cpu", threads=1), ("CPUExecutionProvider",))


def parse(body: str, inputs: str, outputs: str) -> onnx.ModelProto:
    """A model from textual nodes."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return onnx.parser.parse_model(text)


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of a model from onnxruntime itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


@cache
def resnet() -> tuple[Net, Schedule, ChannelMap]:
    """The residual network of the digits."""
    net, _ = load(MODELS / "digits_resnet.onnx")
    net, _ = fold(net)
    return net, schedule(net), channel_map(net)


def timing_of(before, after, feeds, *, seed: int = 0, clock=None, cpu_clock=None, **repeats) -> Timing:
    """`interleaved` by clocks of a test, beside no other programs."""
    others = repeats.pop("others", lambda: 0)
    clocks = Clocks(wall=clock or time.perf_counter_ns, cpu=cpu_clock, others=others)
    return interleaved(before, after, feeds, repeats=Repeats(**repeats), seed=seed, clocks=clocks)
