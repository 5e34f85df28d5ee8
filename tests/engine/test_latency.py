"""Layers that are timed: every kind runs, nothing stays behind, more work takes no less time than none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from graph.builder import Builder

from onnxprune.engine import latency
from onnxprune.engine.latency import Kernel, Task, measured, node_times
from onnxprune.engine.sessions import Engine
from onnxprune.graph.channels.sites import Window
from onnxprune.options.engine import EngineOptions

SQUARE = Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
DOUBLED = Window((2, 2), (2, 2), (1, 1), (0, 0, 0, 0), transposed=True, tail=(0, 0))
LINE = Window((5,), (2,), (1,), (0, 0), "SAME_UPPER")
TASKS = {
    "dense": Task(Kernel(SQUARE, 1, (9, 9), "Relu"), 6, 20, 2),
    "vertical": Task(Kernel(SQUARE.along((0,)), 1, (9, 9)), 8, 16, 1),
    "grouped": Task(Kernel(SQUARE, 2, (9, 9), "Sigmoid"), 8, 16, 1),
    "depthwise": Task(Kernel(SQUARE, 0, (33, 33)), 8, 16, 1),
    "transposed": Task(Kernel(DOUBLED, 1, (15, 15), "HardSwish"), 8, 7, 1),
    "one axis": Task(Kernel(LINE, 1, (330,)), 16, 16, 3),
    "rows": Task(Kernel(None, 1, (70,), "Relu"), 120, 50, 2),
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.open(EngineOptions(provider="cpu", threads=1))


def nothing(done: int, total: int) -> None:
    """Show nothing."""


def test_every_kind_of_layer_has_a_time_and_no_file_stays(engine, tmp_path):
    found = measured(engine, [*TASKS.values(), *TASKS.values()], tmp_path, nothing)
    assert set(found) == set(TASKS.values())
    assert all(ms > 0 for ms in found.values())
    assert not list(tmp_path.iterdir())


def test_providers_without_times_of_nodes_run_each_layer_alone(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "_PROFILED", "nobody")
    found = measured(engine, TASKS.values(), tmp_path, nothing)
    assert set(found) == set(TASKS.values())
    assert all(ms >= 0 for ms in found.values())


def test_what_a_layer_reads_and_writes_is_counted():
    assert TASKS["dense"].source == (2, 6, 9, 9)
    assert TASKS["dense"].weight == (20, 6, 3, 3)
    assert TASKS["dense"].elements == 2 * 6 * 81 + 20 * 6 * 9 + 2 * 81 * 20
    assert TASKS["depthwise"].weight == (16, 1, 3, 3)
    assert TASKS["transposed"].weight == (8, 7, 2, 2)
    assert TASKS["rows"].source == (140, 120)


def test_nodes_that_are_no_layers_have_times_under_their_names(engine, tmp_path):
    b = Builder(3)
    h = b.one("Softplus", b.conv("x", 3, 8))
    model = b.finish({b.head(h, 8, 5): ["N", 5]}, 16)
    found = node_times(engine, model, {"x": np.ones((1, 3, 16, 16), np.float32)}, tmp_path)
    layers = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert next(node.name for node in model.graph.node if node.op_type == "Softplus") in found
    assert not layers & set(found)
    assert not list(tmp_path.iterdir())


def test_a_provider_without_times_of_nodes_has_none(tmp_path):
    other = SimpleNamespace(providers=("CUDAExecutionProvider",))
    assert node_times(other, onnx.ModelProto(), {}, tmp_path) == {}
