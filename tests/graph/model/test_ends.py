"""Models are cut in front of what chooses among values, or where the user says, and put together again."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from graph.model.test_constants import model_of, x
from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.model.load import read_parts
from onnxprune.options.reading import ReadOptions

DETECTOR = """net (float[1, 3, 16, 16] x) => (int64[k, 3] chosen, float[1, 4, 16, 16] map) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r = Relu (h)
    map = Conv <pads = [1, 1, 1, 1]> (r, w2)
    flat = Reshape (map, shape)
    boxes = Transpose <perm = [0, 2, 1]> (flat)
    score = Conv (r, w3)
    s = Sigmoid (score)
    scores = Reshape (s, row)
    size = Shape (x)
    high = Gather (size, two)
    most = Cast <to = 7> (high)
    chosen = NonMaxSuppression (boxes, scores, most, half, half)
}"""
WEIGHTS = {
    "w1": x(8, 3, 3, 3),
    "w2": x(4, 8, 3, 3),
    "w3": x(1, 8, 1, 1),
    "shape": np.array([1, 4, -1]),
    "row": np.array([1, 1, -1]),
    "two": np.array([2]),
    "half": np.array([0.5], np.float32),
}


def detector() -> onnx.ModelProto:
    return model_of(DETECTOR, **WEIGHTS)


def outputs_of(model: onnx.ModelProto, **feeds) -> list:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_a_detector_is_cut_in_front_of_its_suppression_and_joined_to_the_same():
    model = detector()
    parts = read_parts(model)
    assert {output.name for output in parts.front.graph.output} == {"map", "boxes", "scores"}
    assert parts.tail is not None
    assert parts.tail.runs
    whole = parts.whole()
    onnx.checker.check_model(whole)
    assert [output.name for output in whole.graph.output] == ["chosen", "map"]
    feeds = {"x": x(1, 3, 16, 16)}
    for wanted, found in zip(outputs_of(model, **feeds), outputs_of(whole, **feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_sizes_of_the_input_are_computed_behind_the_cut():
    """What no layer has part in is no tensor to compare."""
    parts = read_parts(detector())
    assert "most" not in {output.name for output in parts.front.graph.output}
    assert "most" in {name for node in parts.tail.nodes for name in node.output}


def test_names_that_the_front_takes_meanwhile_are_made_way_for():
    model = detector()
    parts = read_parts(model)
    front = onnx.ModelProto()
    front.CopyFrom(parts.front)
    for node in front.graph.node:  # a compressed network may have new names: here, of a tail's output and constant
        for field in (node.input, node.output):
            field[:] = [{"h": "chosen", "w1": "half"}.get(name, name) for name in field]
    for tensor in front.graph.initializer:
        tensor.name = {"w1": "half"}.get(tensor.name, tensor.name)
    whole = parts.whole(front)
    onnx.checker.check_model(whole)
    feeds = {"x": x(1, 3, 16, 16)}
    for wanted, found in zip(outputs_of(model, **feeds), outputs_of(whole, **feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_model_without_choices_is_whole():
    model = model_of(
        "net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) { h = Conv (x, w)  y = Relu (h) }", w=x(4, 3, 3, 3)
    )
    assert read_parts(model).tail is None


def test_choices_among_sizes_or_constants_cut_nothing():
    model = model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y, int64[a, b] z) {
            h = Conv (x, w)
            y = Relu (h)
            s = Shape (y)
            z = NonZero (s)
        }""",
        w=x(4, 3, 3, 3),
    )
    assert read_parts(model).tail is None


def test_choices_in_front_of_all_layers_cut_nothing():
    model = model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
            best, place = TopK <axis = 1> (x, three)
            h = Conv (best, w)
            y = Relu (h)
        }""",
        w=x(4, 3, 3, 3),
        three=np.array([3]),
    )
    assert read_parts(model).tail is None


@pytest.mark.parametrize("domain", ["TRT", ""])
def test_an_unknown_operator_at_the_end_is_left_and_not_run(domain):
    model = detector()
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "EfficientNMS_TRT", domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    parts = read_parts(model)
    assert parts.tail is not None
    assert not parts.tail.runs
    assert {node.op_type for node in parts.whole().graph.node} >= {"EfficientNMS_TRT", "Conv"}
    assert parts.runnable() is parts.front


def test_an_unknown_operator_in_the_middle_is_refused_in_a_line():
    model = detector()
    model.graph.node[1].op_type = "MyRelu"
    with pytest.raises(ModelError, match=r"no operator MyRelu .*--until"):
        read_parts(model)


def test_until_names_tensors_or_nodes():
    model = detector()
    parts = read_parts(model, ReadOptions(until=("r",)))
    assert [output.name for output in parts.front.graph.output] == ["r"]
    assert [node.op_type for node in parts.front.graph.node] == ["Conv", "Relu"]
    assert [node.op_type for node in parts.whole().graph.node].count("Conv") == 3
    model.graph.node[1].name = "first relu"
    assert [output.name for output in read_parts(model, ReadOptions(until=("first relu",))).front.graph.output] == ["r"]
    outputs = [output.name for output in read_parts(model, ReadOptions(until=("s",))).front.graph.output]
    assert outputs == ["s", "r"]  # which the rest reads too


def test_until_that_does_not_fit_is_told_in_a_line():
    with pytest.raises(UsageError, match=r"--until nowhere: .* no such tensor or node"):
        read_parts(detector(), ReadOptions(until=("nowhere",)))
    with pytest.raises(ModelError, match="nothing with weights is in front of most"):
        read_parts(detector(), ReadOptions(until=("most",)))


def test_a_body_that_chooses_and_reads_from_outside_is_part_of_the_tail():
    model = model_of(
        """net (float[1, 3, 8, 8] x, bool[1] yes) => (int64[a, b] y) {
            h = Conv (x, w)
            r = Relu (h)
            y = If (yes) <
                then_branch = one () => (int64[a, b] p) { p = NonZero (r) },
                else_branch = two () => (int64[a, b] q) { n = Neg (h)  q = NonZero (n) } >
        }""",
        w=x(4, 3, 3, 3),
    )
    parts = read_parts(model)
    assert {output.name for output in parts.front.graph.output} == {"r", "h"}
    assert not parts.tail.runs  # it reads an input that the front does not have
    feeds = {"x": x(1, 3, 8, 8), "yes": np.array([False])}
    np.testing.assert_array_equal(outputs_of(parts.whole(), **feeds)[0], outputs_of(model, **feeds)[0])
