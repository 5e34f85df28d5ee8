"""What outputs mean: by the user's word, the end of the graph, labels; and by the shape alone never classes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.helpers import parse
from onnxprune.engine.meaning import checked_kinds, meanings, with_labels
from onnxprune.errors import UsageError
from onnxprune.graph.model.load import load

CONV = "w = Constant <value = float[4,3,1,1] {1,0,0,0,1,0,0,0,1,1,1,1}> () c = Conv (x, w) "
ROW = "g = GlobalAveragePool (c) f = Flatten (g) "
ROWS = ROW + "y = Relu (f) z = Neg (f)"


def net_of(body: str, outputs: str):
    return load(parse(CONV + body, "float[N,3,6,5] x", outputs))[0]


def kind_of(body: str, output: str, **asked: str):
    net = net_of(body, output)
    (found,) = meanings(net, asked).values()
    return found.kind, found.axis


@pytest.mark.parametrize(
    ("body", "output", "expected"),
    [
        (ROW + "y = Softmax (f)", "float[N,4] y", ("classes", 1)),
        (ROW + "y = ArgMax <axis = 1> (f)", "int64[N,1] y", ("classes", None)),
        ("y = Softmax <axis = 1> (c)", "float[N,4,6,5] y", ("pixels", 1)),
        ("y = ArgMax <axis = 1, keepdims = 0> (c)", "int64[N,6,5] y", ("pixels", None)),
        ("y = Relu (c)", "float[N,4,6,5] y", ("values", None)),
        (ROW + "y = Sigmoid (f)", "float[N,4] y", ("values", None)),
        (ROW + "y = Relu (f)", "float[N,4] y", ("undecided", 1)),
        ("y = GlobalAveragePool (c)", "float[N,4,1,1] y", ("undecided", 1)),
        (ROW + "u = Constant <value = int64[1] {2}> () y = Unsqueeze (f, u)", "float[N,4,1] y", ("values", None)),
    ],
)
def test_without_a_softmax_or_argmax_no_shape_makes_classes_or_pixels(body, output, expected):
    assert kind_of(body, output) == expected


def test_the_users_word_beats_the_graph():
    assert kind_of(ROW + "y = Softmax (f)", "float[N,4] y", y="values") == ("values", None)
    assert kind_of(ROW + "y = Relu (f)", "float[N,4] y", y="classes") == ("classes", 1)
    assert kind_of("y = Relu (c)", "float[N,4,6,5] y", y="pixels") == ("pixels", 1)
    moved = "r = Transpose <perm = [0, 2, 3, 1]> (c) y = Relu (r)"
    assert kind_of(moved, "float[N,6,5,4] y", y="pixels") == ("pixels", 3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"y": "pixels"}, r"y=pixels: 'y' has shape \(N, 4\), expected an axis of classes and positions"),
        ({"m": "classes"}, r"m=classes: 'm' has shape \(N, 4, 6, 5\), expected one axis of classes"),
        ({"q": "classes"}, r"q=classes: no output has this name; expected one of y, m"),
        ({"y": "boxes"}, r"y=boxes: unknown kind 'boxes'; expected one of classes, pixels, values"),
    ],
)
def test_a_word_that_cannot_be_is_one_line(asked, message):
    net = net_of(ROW + "y = Relu (f) m = Neg (c)", "float[N,4] y, float[N,4,6,5] m")
    with pytest.raises(UsageError, match=message) as caught:
        meanings(net, asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", [["classes"], ["=classes"], ["y=classes", "y=values"], ["y=boxes"]])
def test_texts_that_name_no_output_and_kind_are_refused(texts):
    with pytest.raises(UsageError, match="--output"):
        checked_kinds(texts)


def test_a_name_may_have_an_equals_sign():
    assert checked_kinds(["a=b=values", "y=classes"]) == {"a=b": "values", "y": "classes"}


def settled(body: str, outputs: str, labels: list[int], **asked: str) -> list[str]:
    net = net_of(body, outputs)
    found = with_labels(net, meanings(net, asked), np.array(labels), "test.npz")
    return [meaning.kind for meaning in found.values()]


def test_labels_make_the_one_undecided_output_that_fits_them_classes():
    one = ROW + "y = Relu (f) m = Neg (c)", "float[N,4] y, float[N,4,6,5] m"
    assert settled(*one, [0, 3, 1]) == ["classes", "values"]
    assert settled(*one, [0, 4, 1]) == ["undecided", "values"], "there is no class 4"
    assert settled(*one, []) == ["undecided", "values"]
    two = ROWS, "float[N,4] y, float[N,4] z"
    assert settled(*two, [0, 1]) == ["undecided", "undecided"], "they may belong to either"
    assert settled(*two, [0, 1], z="values") == ["classes", "values"]
    known = ROW + "y = Relu (f) s = Softmax (f)", "float[N,4] y, float[N,4] s"
    assert settled(*known, [0, 1]) == ["undecided", "classes"], "the softmax has the classes"
