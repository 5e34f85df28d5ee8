"""Latency of single layers in milliseconds, measured on the engine that will run them, for their exact shapes.

On the CPU, many layers run in one model, and onnxruntime's profile gives the time of each, with its activation fused
and without the layout conversions at the borders of so small a model. Other providers give no times of single nodes:
there each layer is a separate model, and the time of a model that only copies tensors is subtracted.

The time of a layer is the mean of its fastest runs; if one thread runs the whole model, it is CPU time, because other
programs only add to wall time. The profile has wall time only, of nodes so short that most runs are undisturbed.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.engine.clocks import low_mean, thread_clock

if TYPE_CHECKING:
    from pathlib import Path

    from onnxprune.engine.sessions import Engine, Session
    from onnxprune.graph.channels.sites import Window

    Array = np.ndarray[Any, Any]

__all__ = ["Kernel", "Task", "measured", "node_times"]

_OPSET = 17
_TOGETHER = 48  # layers in one model
_MOST_ELEMENTS = 1 << 26  # of what one model reads and writes
_RUNS, _LEAST_RUNS, _SECONDS, _WARMUP = 40, 5, 0.5, 2
_PATIENCE = 3  # wall time over the time that counts, at most
_PROFILED = "CPUExecutionProvider"
_LABEL = "a model of layers to time"
_LAYERS = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_KERNEL = "_kernel_time"  # end of the names of such events
_NAMED = re.compile(r"(?<![0-9A-Za-z])t(\d+)t")


@dataclass(frozen=True)
class Kernel:
    """Layer for the engine, without its numbers of channels.

    Attributes:
        window: window of a Conv or ConvTranspose; None for a Gemm.
        groups: number of groups of a grouped conv; 0 for a depthwise conv, with one group per channel.
        extents: sizes of the input's spatial axes; for a Gemm, the rows of one sample.
        activation: operator of one input that follows and may be fused, such as ``Relu``; empty for none.
    """

    window: Window | None
    groups: int
    extents: tuple[int, ...]
    activation: str = ""


@dataclass(frozen=True)
class Task:
    """Layer to measure, with its input and output channels (of all groups) and the batch size."""

    kernel: Kernel
    inputs: int
    outputs: int
    batch: int

    @property
    def source(self) -> tuple[int, ...]:
        """Shape of the input."""
        if self.kernel.window is None:
            return (self.batch * int(np.prod(self.kernel.extents)), self.inputs)
        return (self.batch, self.inputs, *self.kernel.extents)

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weights."""
        window = self.kernel.window
        if window is None:
            return (self.outputs, self.inputs)
        groups = self.kernel.groups or self.inputs
        if window.transposed:
            return (self.inputs, self.outputs // groups, *window.kernel)
        return (self.outputs, self.inputs // groups, *window.kernel)

    @property
    def elements(self) -> int:
        """Read and written."""
        window, positions = self.kernel.window, self.source[0]
        if window is not None:
            positions = self.batch * int(np.prod(window.outputs(self.kernel.extents)))
        return int(np.prod(self.source)) + int(np.prod(self.weight)) + positions * self.outputs

    def nodes(self, name: str) -> list[onnx.NodeProto]:
        """The layer and its activation, making `name` from ``<name>x``, ``<name>w`` and ``<name>v``."""
        window, activation = self.kernel.window, self.kernel.activation
        inputs, made = [f"{name}x", f"{name}w", f"{name}v"], f"{name}a" if activation else name
        if window is None:
            layer = helper.make_node("Gemm", inputs, [made], f"{name}n", transB=1)
        else:
            operator = "ConvTranspose" if window.transposed else "Conv"
            groups = self.kernel.groups or self.inputs
            layer = helper.make_node(operator, inputs, [made], f"{name}n", group=groups, **window.attributes())
        behind = [helper.make_node(activation, [made], [name], f"{name}m")] if activation else []
        return [layer, *behind]


def measured(
    engine: Engine, tasks: Iterable[Task], scratch: Path, progress: Callable[[int, int], None]
) -> dict[Task, float]:
    """Measure the milliseconds of each task on an idle machine: the mean of the fastest quarter of some runs.

    Args:
        engine: engine that runs the layers.
        tasks: layers to measure, each once.
        scratch: folder for the profiler's files, which are deleted.
        progress: callback (done, total).

    Raises:
        EngineError: the engine cannot run a layer.
    """
    distinct = list(dict.fromkeys(tasks))
    profiled = engine.providers[0] == _PROFILED
    found: dict[Task, float] = {}
    for chunk in _chunks(distinct, _TOGETHER if profiled else 1):
        progress(len(found), len(distinct))
        found.update(_profiled(engine, chunk, scratch) if profiled else _alone(engine, chunk))
    progress(len(distinct), len(distinct))
    return found


def _chunks(tasks: Sequence[Task], most: int) -> Iterable[list[Task]]:
    chunk: list[Task] = []
    size = 0
    for task in tasks:
        if chunk and (len(chunk) == most or size + task.elements > _MOST_ELEMENTS):
            yield chunk
            chunk, size = [], 0
        chunk.append(task)
        size += task.elements
    if chunk:
        yield chunk


def _profiled(engine: Engine, tasks: Sequence[Task], scratch: Path) -> dict[Task, float]:
    """All in one model, by the profile."""
    model, feeds = _model(tasks)
    session = engine.session(model, label=_LABEL, profile=scratch / "profile")
    _repeated(session, feeds)
    total: dict[Task, float] = dict.fromkeys(tasks, 0.0)
    for name, ms in _kernel_times(session).items():
        if number := _NAMED.search(name):
            total[tasks[int(number[1])]] += ms
    return total


def node_times(engine: Engine, model: onnx.ModelProto, feeds: Mapping[str, Array], scratch: Path) -> dict[str, float]:
    """Measure the milliseconds of the nodes of a model that are no layers, as the engine runs them.

    Args:
        engine: engine that runs the model.
        model: the model.
        feeds: its inputs.
        scratch: folder for the profiler's file, which is deleted.

    Returns:
        Milliseconds by the engine's name; none for a provider without times of single nodes. Nodes that the engine
        fuses with a layer are part of the layer.

    Raises:
        EngineError: the engine cannot run the model.
    """
    if engine.providers[0] != _PROFILED:
        return {}
    session = engine.session(model, label="the network to compress", profile=scratch / "profile")
    _repeated(session, feeds)
    return _kernel_times(session, _LAYERS)


def _kernel_times(session: Session, without: Collection[str] = ()) -> dict[str, float]:
    """End the profiling; return the milliseconds of each node, the mean of its fastest runs, by its name.

    Args:
        session: session with a profile.
        without: operators whose nodes are left out.
    """
    profile = session.end_profiling()
    times: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        name = str(event.get("name", ""))
        operator = event.get("args", {}).get("op_name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and operator not in without:
            times[name.removesuffix(_KERNEL)].append(float(event["dur"]) / 1e3)
    profile.unlink()
    return {name: float(low_mean(np.array(found[_WARMUP:] or found))) for name, found in times.items()}


def _alone(engine: Engine, tasks: Sequence[Task]) -> dict[Task, float]:
    """Each a model of its own, less what one takes that copies the same tensors in and out."""
    found = {}
    for task in tasks:
        took = []
        for model, feeds in (_model([task]), _nothing(task)):
            session = engine.session(model, label=_LABEL)
            took.append(float(low_mean(np.array(_repeated(session, feeds)[_WARMUP:]))))
        found[task] = max(took[0] - took[1], 0.0)
    return found


def _repeated(session: Session, feeds: Mapping[str, Array]) -> list[float]:
    """Milliseconds of each run, warm-up first: for half a second, which beside other programs may take longer."""
    taken: list[float] = []
    clock = thread_clock(session) or time.perf_counter_ns
    last = time.perf_counter() + _PATIENCE * _SECONDS
    while len(taken) < _WARMUP + _LEAST_RUNS or (
        len(taken) < _RUNS and sum(taken) < 1e3 * _SECONDS and time.perf_counter() < last
    ):
        start = clock()
        session.run(feeds)
        taken.append((clock() - start) / 1e6)
    return taken


def _model(tasks: Sequence[Task]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The layers side by side, and what they read."""
    generator = np.random.default_rng(0)
    nodes, weights, inputs, outputs, feeds = [], [], [], [], {}
    for number, task in enumerate(tasks):
        name = f"t{number}t"
        nodes += task.nodes(name)
        drawn = generator.standard_normal(task.weight, dtype=np.float32)
        weights += [
            numpy_helper.from_array(drawn, f"{name}w"),
            numpy_helper.from_array(np.zeros(task.outputs, np.float32), f"{name}v"),
        ]
        inputs.append(helper.make_tensor_value_info(f"{name}x", onnx.TensorProto.FLOAT, task.source))
        outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        feeds[f"{name}x"] = generator.random(task.source, dtype=np.float32)
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8), feeds


def _nothing(task: Task) -> tuple[onnx.ModelProto, dict[str, Array]]:
    source = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, task.source)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, task.source)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [source], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return model, {"x": np.zeros(task.source, np.float32)}
