"""The published VGG-16 plans replay on any graph of its shapes, and say what they really count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import Options, Plan
from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import Form

pytestmark = pytest.mark.slow

PLANS = Path(__file__).parents[2] / "models" / "plans"
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
QUICK = Options(bench=False, samples=4, points=4)


def vgg16(width: int = 512, size: int = 32) -> onnx.ModelProto:
    """VGG-16 with node names of another exporter; weights are constant, for speed."""
    nodes, weights, source, inputs = [], [], "input", 3
    for stage, widths in enumerate(STAGES):
        for outputs in (min(w, width) for w in widths):
            name = f"/features/{len(weights)}/Conv"
            values = np.full((outputs, inputs, 3, 3), 1e-3, np.float32)
            values[:: 2 + stage % 2] *= -1
            weights.append(numpy_helper.from_array(values, name + ".weight"))
            nodes.append(helper.make_node("Conv", [source, name + ".weight"], [name], name, pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [name], [name + ".relu"]))
            source, inputs = name + ".relu", outputs
        nodes.append(helper.make_node("MaxPool", [source], [f"p{stage}"], kernel_shape=[2, 2], strides=[2, 2]))
        source = f"p{stage}"
    nodes.append(helper.make_node("Flatten", [source], ["output"]))
    ends = [
        helper.make_tensor_value_info("input", 1, ["N", 3, size, size]),
        helper.make_tensor_value_info("output", 1, ["N", inputs]),
    ]
    graph = helper.make_graph(nodes, "vgg16", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def planned(name: str) -> onnxprune.Result:
    return onnxprune.prune(vgg16(), data="synthetic", plan=PLANS / f"{name}.json", options=QUICK, dry_run=True)


def test_the_nominal_five_times_counts_four_and_a_half() -> None:
    result = planned("vgg16_prune_5x")
    assert result.report.macs.ratio == pytest.approx(4.5, abs=0.05)
    assert any("calls itself 5x; this is 4.52x" in note.text for note in result.report.notes)
    kept = [group.keep for group in result.plan.groups if group.keep < group.channels]
    assert kept == [24, 22, 41, 51, 108, 89, 111, 184, 276, 228]


def test_the_published_ranks_and_widths_are_in_the_plan() -> None:
    result = planned("vgg16_3c_4x")
    forms = {layer.node: layer.form for layer in result.plan.layers}
    assert len(forms) == 12
    assert forms["/features/1/Conv"] == Form(22, 0, 22)
    # 3 m >= 2 o: H and P of conv5 are one.
    assert forms["/features/10/Conv"] == Form(398, 0)
    assert {g.producer: g.keep for g in result.plan.groups if g.keep < g.channels} == {
        "/features/1/Conv": 55,
        "/features/2/Conv": 111,
        "/features/3/Conv": 111,
        "/features/4/Conv": 222,
        "/features/5/Conv": 222,
        "/features/7/Conv": 445,
        "/features/8/Conv": 445,
    }
    row = next(row for row in result.report.layers if row.name == "/features/8/Conv")
    assert row.shape == "512x512x3x3 -> V 256, H 256->256, P 256->445"


def test_a_graph_of_other_shapes_is_refused_with_the_first_that_differs() -> None:
    with pytest.raises(PlanError, match=r"number 8 is '/features/7/Conv' with 256x256x3x3, expected 'conv4_1'"):
        onnxprune.prune(vgg16(256), data="synthetic", plan=PLANS / "vgg16_3c_4x.json", options=QUICK, dry_run=True)


@pytest.mark.parametrize("name", ["vgg16_3c_4x", "vgg16_prune_5x"])
def test_plan_files_come_back_as_they_were_written(name) -> None:
    text = (PLANS / f"{name}.json").read_text()
    assert Plan.load(PLANS / f"{name}.json").to_json() == text


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", {}, "'layers' must be a list"),
        ("layers", [{"node": ""}], r"layers\[0\]: expected an object"),
        ("layers", [{"node": "a", "shape": [1, 1]}], "expected 'spatial' or 'channel'"),
        ("layers", [{"node": "a", "shape": [1, 1], "channel": 1, "inputs": 1}], "a conv reads all inputs"),
        ("layers", [{"node": "a", "shape": [1], "channel": 1}], "a shape is a list"),
        ("layers", [{"node": "a", "shape": [1, 1], "channel": 0}], "'channel' must be a whole number from 1"),
        ("layers", [{"node": "a", "shape": [1, 1], "channel": 1}] * 2, "'a' is listed twice"),
        ("order", [["a"]], r"order\[0\]: expected a pair"),
        ("nominal", 0.5, "'nominal' must be a number above 1"),
        ("nominal", True, "'nominal' must be a number above 1"),
    ],
)
def test_malformed_fields_are_named(field, value, message) -> None:
    content = {"format": "onnxprune-plan", "version": 2, "groups": [], field: value}
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(content)
