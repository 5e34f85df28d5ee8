"""Operators between the layers that ONNX does not define, and whose sizes no inference knows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.nets import build
from onnx import helper
from runs import SMALL

import onnxprune
from onnxprune import Options, cli
from onnxprune.engine.seen import with_seen_sizes
from onnxprune.engine.sessions import Engine
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.sizes import with_settled_sizes
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.engine import EngineOptions

_BODY = (
    "a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2) d = Gelu(c) e = Conv(d, w3) "
    "f = Relu(e) y = Conv(f, w4)"
)
_WEIGHTS = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (12, 8, 1, 1), "w4": (5, 12, 1, 1)}
CPU = Engine.open(EngineOptions(provider="cpu"))
X = np.random.default_rng(0).standard_normal((60, 3, 8, 8), dtype=np.float32)


def between(operator: str, domain: str, outputs: int = 1) -> onnx.ModelProto:
    """Four convs with an operator of another domain in the middle."""
    model = build(_BODY, _WEIGHTS, outputs="float[N,5,8,8] y", opset=20)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.op_type, node.domain = operator, domain
    node.output.extend(f"beside{index}" for index in range(1, outputs))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def seen(model: onnx.ModelProto, *feeds: np.ndarray):
    net, _ = load(model)
    return with_seen_sizes(net, CPU, lambda count: {"x": feeds[count - 2]})


def test_channels_behind_an_operator_of_another_domain_are_known_from_two_runs():
    net = seen(between("QuickGelu", "com.microsoft"), X[:2], X[2:5])
    assert [(entry.name, entry.sizes) for entry in net.header.seen] == [
        ("d", ((1, True), (8, False), (8, False), (8, False)))
    ]
    found = with_settled_sizes(net, {"x": (2, 3, 8, 8)})
    assert dims(found.tensors()["f"]) == ("N", 12, 8, 8)
    assert [group.producers for group in channel_map(found).prunable] == [("conv0",), ("conv4",)]


def test_a_size_that_depends_on_the_data_stays_unknown():
    body = "a = Conv(x, w1) n = NonZero(a) f = Cast<to=1>(n) s = ReduceMean<keepdims=0>(f) y = Add(a, s)"
    model = build(body, {"w1": (4, 3, 1, 1)}, outputs="float[N,4,8,8] y")
    assert [entry.name for entry in seen(model, np.abs(X[:2]), np.zeros_like(X[:3])).header.seen] == []


def test_nothing_is_run_where_all_sizes_are_known():
    net, _ = load(build("y = Conv(x, w1)", {"w1": (4, 3, 1, 1)}, outputs="float[N,4,8,8] y"))
    asked = []
    assert with_seen_sizes(net, CPU, lambda count: asked.append(count) or {"x": X[:count]}) is net
    assert not asked


def test_layers_on_both_sides_of_an_operator_of_another_domain_lose_channels():
    model = between("QuickGelu", "com.microsoft")
    half = replace(SMALL, budget=BudgetOptions(keep_ratio=0.5).budget())
    result = onnxprune.prune(model, data=X, options=half)
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert shapes["w1"] == [4, 3, 3, 3]
    assert shapes["w2"] == [8, 4, 3, 3]
    assert shapes["w3"][0] < 12


def library() -> str:
    """A library of custom operators that is published as a package."""
    return str(pytest.importorskip("onnxruntime_extensions").get_library_path())


def test_a_library_of_custom_operators_is_loaded_by_every_command(tmp_path, monkeypatch, capsys):
    path = library()
    monkeypatch.chdir(tmp_path)
    onnx.save(between("NegPos", "ai.onnx.contrib", outputs=2), "model.onnx")
    np.save("x.npy", X)
    given = ["--data", "x.npy", "--ops-library", path, "--no-bench"]
    assert cli.main(["model.onnx", "-o", "small.onnx", "--macs", "60%", "--json", "r.json", *given]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["options"]["engine"]["ops_library"] == [path]
    told = "".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"--ops-library{path}" in told
    assert cli.main(["compare", "model.onnx", "small.onnx", *given]) == 0
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(path)
    session = onnxruntime.InferenceSession("small.onnx", options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": X[:2]})[0].shape == (2, 5, 8, 8)


def test_without_its_library_an_operator_is_refused_with_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(between("NegPos", "ai.onnx.contrib", outputs=2), "model.onnx")
    np.save("x.npy", X)
    assert cli.main(["model.onnx", "-o", "small.onnx", "--data", "x.npy"]) == 7
    assert "--ops-library FILE" in capsys.readouterr().err
    assert cli.main(["model.onnx", "-o", "small.onnx", "--data", "x.npy", "--ops-library", "none.so"]) == 2
    assert "--ops-library none.so: no such file" in capsys.readouterr().err
    assert cli.main(["model.onnx", "-o", "small.onnx", "--data", "x.npy", "--ops-library", "x.npy"]) == 7
    assert "--ops-library x.npy: onnxruntime cannot load it" in capsys.readouterr().err
    assert not (tmp_path / "small.onnx").exists()


def test_a_custom_operator_at_the_end_stays_behind_the_cut_without_its_library():
    body = "a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) y = Gelu(c)"
    model = build(body, {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)}, outputs="float[N,5,8,8] y", opset=20)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Own", "ai.onnx.contrib"
    model.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    result = onnxprune.prune(model, data=X, options=SMALL)
    assert result.model.graph.node[-1].domain == "ai.onnx.contrib"
    assert result.report.macs.after < result.report.macs.before


def test_libraries_are_options_of_the_engine():
    assert Options().engine.ops_library == ()
