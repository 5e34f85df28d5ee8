"""Chains in the place of layers: the same answers, whatever strides, pads, dilations and groups; costs as counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.nets import build, feeds, outputs_of, worst_difference
from onnxprune.graph.channels.forms import DENSE, Form, LayerShape, describe
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.channels.sites import find_sites, matrix
from onnxprune.graph.edit.decompose import Chain, with_chains
from onnxprune.graph.edit.weights import ensure_biases, with_weights
from onnxprune.graph.model.load import load
from onnxprune.graph.model.save import finished_model
from onnxprune.planning.assignment import Assignment
from onnxprune.planning.cost import cost_model
from onnxprune.solve import Factors, merge, split_columns

SIZES = {(3, 3): "float[N,4,9,8] x", (5, 1): "float[N,4,9,8] x", (3, 2, 3): "float[N,4,6,5,7] x"}


def one_conv(kernel, attributes="", groups=1, inputs=None, names=True):
    """A conv of 4 to 6 channels with a name of its own."""
    body = f"y = Conv<group={groups}{attributes}>(x, w, b)"
    weights = {"w": (6, 4 // groups, *kernel), "b": (6,)}
    ends = inputs or SIZES[kernel]
    dims = ",".join("abcdef"[: len(kernel)])
    return build(body, weights, inputs=ends, outputs=f"float[N,6,{dims}] y", names=names)


def drawn_chain(site, form, seed=0) -> Chain:
    """Random factors, group by group."""
    rng = np.random.default_rng(seed)
    kernel = site.window.kernel if site.window else ()
    inputs, outputs = 4 // site.groups, 6 // site.groups
    middle = form.channel or outputs
    first = None
    columns = inputs * int(np.prod(kernel))
    if form.spatial:
        first = rng.standard_normal((site.groups, form.spatial, inputs * kernel[form.first]))
        columns = form.spatial * int(np.prod(kernel)) // kernel[form.first]
    second = rng.standard_normal((site.groups, middle, columns))
    last = rng.standard_normal((site.groups, outputs, middle)) if form.channel else None
    return Chain(form, first, second, last)


def product(site, chain: Chain):
    """The dense weights that a chain makes: (groups, outputs, columns)."""
    kernel = site.window.kernel if site.window else ()
    split = split_columns(4 // site.groups, kernel, chain.form.first) if chain.form.spatial else None
    parts = [
        Factors(
            None if chain.first is None else chain.first[g],
            chain.second[g],
            chain.last[g] if chain.form.channel else None,
        )
        for g in range(site.groups)
    ]
    return np.stack([part.weight(split) for part in parts])


FORMS = [Form(3), Form(3, 1), Form(channel=2), Form(2, 0, 2), Form(2, 1, 1)]
ATTRIBUTES = [
    "",
    ", strides=[2,1], pads=[1,0,2,1]",
    ", dilations=[2,1], pads=[2,1,0,1]",
    ', auto_pad="SAME_UPPER", strides=[2,3]',
    ', auto_pad="SAME_LOWER"',
    ', auto_pad="VALID", strides=[1,2]',
]


def agree(model, form, seed=0) -> None:
    net = ensure_biases(load(model)[0])
    site = find_sites(net)[0]
    chain = drawn_chain(site, form, seed)
    _, bias = matrix(net, site)
    dense = with_weights(net, {site: (product(site, chain), bias)})
    given = feeds(model, size=8)
    left, right = (
        outputs_of(finished_model(with_chains(dense, {site: chain})), given),
        outputs_of(dense.to_model(), given),
    )
    assert worst_difference(left, right) < 1e-5


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_a_chain_answers_as_the_dense_conv_does(form, attributes) -> None:
    agree(one_conv((3, 3), attributes), form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_grouped_chain_answers_as_the_grouped_conv_does(form) -> None:
    agree(one_conv((3, 3), ", pads=[1,1,1,1]", groups=2), form)


@pytest.mark.parametrize("form", [Form(3, 0), Form(3, 1), Form(2, 2, 2), Form(channel=3)], ids=str)
def test_a_conv_in_three_dimensions_is_split_along_any_axis(form) -> None:
    agree(one_conv((3, 2, 3), ", strides=[1,2,1], pads=[1,0,1,1,1,1]"), form)


@pytest.mark.parametrize("layer", ["Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", "Gemm(x, t, b)", "MatMul(x, t)"])
def test_dense_layers_become_two(layer) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    chosen = {"w": weight} if "w" in layer.split("(")[1] else {"t": weight.T.copy()}
    if "b)" in layer:
        chosen["b"] = rng.standard_normal(6).astype(np.float32)
    agree(build(f"y = {layer}", chosen, inputs="float[N,4] x", outputs="float[N,6] y"), Form(channel=2))


def test_names_say_what_the_nodes_are() -> None:
    net = ensure_biases(load(one_conv((3, 3)))[0])
    site = find_sites(net)[0]
    for form, names in ((Form(2, 0, 2), ["V", "H", "P"]), (Form(2, 1, 2), ["H", "V", "P"])):
        made = with_chains(net, {site: drawn_chain(site, form)}).nodes
        assert [node.name for node in made] == [f"conv0_{name}" for name in names]
    assert [n.name for n in with_chains(net, {site: drawn_chain(site, Form(channel=2))}).nodes] == ["conv0", "conv0_P"]


@settings(max_examples=20, deadline=None)
@given(form=st.sampled_from(FORMS), attributes=st.sampled_from(ATTRIBUTES), groups=st.sampled_from([1, 2]))
def test_costs_are_those_of_the_network_with_the_chain(form, attributes, groups) -> None:
    model = one_conv((3, 3), attributes, groups)
    net = ensure_biases(load(model)[0])
    site = find_sites(net)[0]
    cost = cost_model(net, channel_map(net), {"x": (1, 4, 9, 8)})
    chained = with_chains(net, {site: drawn_chain(site, form)})
    again, _ = load(finished_model(chained))
    recounted = cost_model(again, channel_map(again), {"x": (1, 4, 9, 8)})
    assert cost.macs(Assignment(forms={"conv0": form})) == recounted.macs()
    assert cost.params(Assignment(forms={"conv0": form})) == recounted.params() == chained.parameters()


SQUARE = LayerShape((3, 3), 1, 1.0, (1.0, 1.0))


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 60))
def test_h_and_p_are_multiplied_where_three_times_the_width_is_twice_the_outputs(width) -> None:
    outputs = 40
    simplest = SQUARE.simplest(
        Form(width, 0, width), outputs, lambda form: float(SQUARE.cost(form, 400, outputs, "macs"))
    )
    assert (simplest.channel is None) == (3 * width >= 2 * outputs)
    assert simplest.spatial == width


@settings(max_examples=100, deadline=None)
@given(rank=st.integers(1, 100), width=st.integers(1, 50), unit=st.sampled_from(["macs", "params"]))
def test_the_simplest_form_costs_no_more_than_the_form_or_the_dense_layer(rank, width, unit) -> None:
    form = Form(rank, 0, width)
    cheapest = SQUARE.simplest(form, 40, lambda part: float(SQUARE.cost(part, 20, 40, unit)))
    assert float(SQUARE.cost(cheapest, 20, 40, unit)) <= float(SQUARE.cost(form, 20, 40, unit))
    assert float(SQUARE.cost(cheapest, 20, 40, unit)) <= float(SQUARE.cost(DENSE, 20, 40, unit))


def test_a_form_is_described_in_one_line() -> None:
    before, after = (512, 512, 3, 3), (475, 512, 3, 3)
    assert describe(before, after, Form(175, 0, 232)) == "512x512x3x3 -> V 175, H 175->232, P 232->475"
    assert describe(before, after) == "512x512x3x3 -> 475x512x3x3"
    assert describe(before, before) == "512x512x3x3"
    assert describe((64, 32), (64, 32), Form(channel=8)) == "64x32 -> 8 wide, P 8->64"


def test_outputs_that_go_leave_the_last_factor() -> None:
    net = ensure_biases(load(one_conv((3, 3), groups=2))[0])
    site = find_sites(net)[0]
    for form in FORMS:
        chain = drawn_chain(site, form)
        kept = np.array([0, 2, 3, 5])
        expected = product(site, chain).reshape(6, -1)[kept]
        assert np.allclose(product(site, chain.outputs(kept)).reshape(4, -1), expected)


def test_merging_to_a_simpler_form_changes_no_weight() -> None:
    net = ensure_biases(load(one_conv((3, 3)))[0])
    site = find_sites(net)[0]
    chain, split = drawn_chain(site, Form(2, 0, 2)), split_columns(4, (3, 3), 0)
    factors = Factors(chain.first[0], chain.second[0], chain.last[0])
    for spatial in (True, False):
        merged = merge(factors, split, spatial=spatial, channel=False)
        assert np.allclose(merged.weight(split), factors.weight(split))
