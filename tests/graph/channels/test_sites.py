"""A site is one matrix, whatever operator it is; and the order of execution that sites are fitted in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.cases import CASES
from graph.nets import build, feeds, outputs_of, worst_difference
from onnxprune.graph.channels.sites import find_sites, matrix
from onnxprune.graph.edit.weights import ensure_biases, with_weights
from onnxprune.graph.model.load import load
from onnxprune.graph.model.schedule import schedule, segment

LAYERS = ["Conv", "Conv in two groups", "depthwise Conv with a multiplier", "Gemm", "MatMul", "Transpose", "Squeeze"]
LAYERS += ["ConvTranspose"]


@pytest.mark.parametrize("name", LAYERS)
def test_writing_back_what_was_read_changes_no_output(name):
    net = ensure_biases(load(CASES[name])[0])
    fitted = {site: matrix(net, site) for site in find_sites(net)}
    assert fitted
    again = with_weights(net, fitted)
    assert worst_difference(outputs_of(again.to_model()), outputs_of(CASES[name])) < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_doubling_a_sites_weights_and_bias_doubles_its_answer(name):
    net = ensure_biases(load(CASES[name])[0])
    site = find_sites(net)[-1]
    weight, bias = matrix(net, site)
    doubled = with_weights(net, {site: (2 * weight, 2 * bias)})
    left, right = outputs_of(doubled.to_model()), [2 * value for value in outputs_of(net.to_model())]
    last = site.response in net.output_names or name == "Transpose"
    assert not last or worst_difference(left, right) < 1e-6


def test_a_bias_of_one_value_for_all_outputs_is_spread():
    body = "f = Flatten(x) h = Gemm<beta=2.0>(f, w, one) y = Relu(h)"
    model = build(body, {"w": (192, 5), "one": np.array([0.5], np.float32)})
    net = ensure_biases(load(model)[0])
    _, bias = matrix(net, find_sites(net)[0])
    assert np.allclose(bias, np.ones(5))
    assert worst_difference(outputs_of(net.to_model(), feeds(model)), outputs_of(model)) < 1e-6


def test_weights_of_another_shape_are_refused():
    net = ensure_biases(load(CASES["Conv"])[0])
    site = find_sites(net)[0]
    weight, bias = matrix(net, site)
    with pytest.raises(ValueError, match="conv0"):
        with_weights(net, {site: (weight[:, :, :-1], bias)})


@pytest.mark.parametrize(
    "name", ["Conv", "dense block", "residual block with a shortcut that shrinks", "squeeze and excite"]
)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_pieces_run_one_after_the_other_give_what_the_whole_gives(name, data):
    model = CASES[name]
    net, _ = load(model)
    order = schedule(net)
    last = len(order.order)
    cuts = sorted(data.draw(st.sets(st.integers(1, last - 1), max_size=4)))
    held = dict(feeds(model))
    for start, stop in zip([0, *cuts], [*cuts, last], strict=True):
        piece = segment(net, order, start, stop, net.output_names)
        if piece is None:
            continue
        exported = gs.export_onnx(piece, do_type_check=False)
        exported.ir_version = 8
        names = [value.name for value in exported.graph.input]
        found = outputs_of(exported, {name: held[name] for name in names})
        held.update(zip([value.name for value in exported.graph.output], found, strict=True))
        held = {name: held[name] for name in {*order.live(stop), *net.output_names} if name in held}
    assert worst_difference([held[name] for name in net.output_names], outputs_of(model)) < 1e-6


def test_a_shortcut_comes_before_the_branch_that_it_is_added_to():
    net, _ = load(CASES["residual block with a shortcut that shrinks"])
    order = schedule(net)
    assert order.index("conv5") < order.index("conv4")
