"""What the end of a graph says of its outputs, seen through nodes that only move elements."""

from __future__ import annotations

import pytest
from engine.helpers import parse

from onnxprune.graph.model.load import load
from onnxprune.graph.model.outputs import ending

CONV = "w = Constant <value = float[4,3,1,1] {1,0,0,0,1,0,0,0,1,1,1,1}> () c = Conv (x, w) "
INTS = "flat = Constant <value = int64[3] {0, 4, -1}> () one = Constant <value = int64[1] {1}> () "


def said(body: str, output: str, inputs: str = "float[N,3,6,5] x"):
    net = load(parse(CONV + INTS + body, inputs, output))[0]
    found = ending(net, net.output_names[0])
    return None if found is None else (found.says, found.axis)


@pytest.mark.parametrize(
    ("body", "output", "expected"),
    [
        ("y = Softmax <axis = 1> (c)", "float[N,4,6,5] y", ("probabilities", 1)),
        ("s = LogSoftmax <axis = 1> (c) y = Identity (s)", "float[N,4,6,5] y", ("logarithms", 1)),
        ("s = Softmax <axis = 1> (c) y = Transpose <perm = [0, 2, 3, 1]> (s)", "float[N,6,5,4] y",
         ("probabilities", 3)),
        ("s = Softmax <axis = 1> (c) y = Reshape (s, flat)", "float[N,4,30] y", ("probabilities", 1)),
        ("s = Softmax <axis = 1> (c) y = Unsqueeze (s, one)", "float[N,1,4,6,5] y", ("probabilities", 2)),
        ("g = GlobalAveragePool (c) s = Softmax <axis = 1> (g) y = Flatten (s)", "float[N,4] y", ("probabilities", 1)),
        ("y = ArgMax <axis = 1> (c)", "int64[N,1,6,5] y", ("labels", None)),
        ("a = ArgMax <axis = 1> (c) y = Cast <to = 1> (a)", "float[N,1,6,5] y", ("labels", None)),
        ("y = Sigmoid (c)", "float[N,4,6,5] y", ("numbers", None)),
        ("g = GlobalAveragePool (c) f = Flatten (g) n = ReduceL2 <axes = [1]> (f) y = Div (f, n)", "float[N,4] y",
         ("numbers", None)),
        ("s = Softmax <axis = 1> (c) y = Flatten <axis = 1> (s)", "float[N,120] y", None),
        ("s = Softmax <axis = 1> (c) y = Relu (s)", "float[N,4,6,5] y", None),
        ("g = GlobalAveragePool (c) y = Flatten (g)", "float[N,4] y", None),
    ],
)  # fmt: skip
def test_the_axis_of_classes_is_followed_to_the_output_or_given_up(body, output, expected):
    assert said(body, output) == expected


def test_an_old_softmax_over_several_wide_axes_is_no_evidence():
    from onnx import helper

    def old(outer: str):
        model = parse(CONV + "y = Softmax <axis = 1> (c)", f"float[N,3,{outer}] x", f"float[N,4,{outer}] y")
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", 11))
        return ending(load(model)[0], "y")

    assert old("6,5") is None
    single = old("1,1")
    assert single is not None
    assert single.axis == 1
