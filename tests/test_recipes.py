"""Runs that decompose kernels and channels, select inputs, and follow plans with forms."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from runs import PLANNED, QUICK, accuracy

import onnxprune
from onnxprune import Plan
from onnxprune.errors import PlanError, UsageError, VerifyError
from onnxprune.graph.decompose import with_chains
from onnxprune.graph.forms import Form
from onnxprune.plan import LayerPlan, budget_from
from onnxprune.solve import RefitOptions
from onnxprune.stages import compress


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("vgg", "spatial"),
        ("vgg", "3c"),
        ("resnet", "3c"),
        ("resnet", "channel"),
        pytest.param("vgg", "channel", marks=pytest.mark.long),
        pytest.param("resnet", "spatial", marks=pytest.mark.long),
    ],
)
def test_every_recipe_meets_its_budget_and_keeps_the_accuracy(name, recipe, request):
    path = request.getfixturevalue(name)
    result = onnxprune.prune(path, macs="2x", options=replace(QUICK, recipe=recipe, samples=None))
    assert result.report.macs.ratio >= 2
    assert accuracy(result.model, path) > accuracy(onnx.load(path), path) - 1
    assert result.plan.layers
    names = {node.name for node in result.model.graph.node}
    for layer in result.plan.layers:
        assert (f"{layer.node}_V" in names) == (f"{layer.node}_H" in names) == (layer.form.spatial is not None)
        assert (f"{layer.node}_P" in names) == (layer.form.channel is not None)
    floats = sum(numpy_helper.to_array(t).size for t in result.model.graph.initializer if t.data_type == 1)
    assert result.report.params.after == floats


def test_knowing_the_activation_helps_where_kernels_are_decomposed(vgg):
    errors = {}
    for kind in ("linear", "auto", "none"):
        options = replace(QUICK, recipe="spatial", refit=RefitOptions(refit=kind))
        errors[kind] = onnxprune.prune(vgg, macs="4x", options=options).report.divergence[0].relative_error
    assert errors["auto"] < errors["linear"] < errors["none"]


def test_a_plan_with_forms_replays_and_resumes(narrow, tmp_path):
    options = replace(QUICK, recipe="3c", cache_dir=tmp_path / "cache")
    first = onnxprune.prune(narrow, macs="3x", options=options)
    (tmp_path / "plan.json").write_text(first.plan.to_json())
    again = onnxprune.prune(narrow, plan=tmp_path / "plan.json", options=PLANNED)
    assert again.plan.groups == first.plan.groups
    assert again.plan.layers == first.plan.layers
    resumed = onnxprune.prune(narrow, macs="3x", options=options)
    assert any(note.subject == "cache" for note in resumed.report.notes)
    assert resumed.model.SerializeToString() == first.model.SerializeToString()


def test_a_conv_in_a_branch_reads_some_of_the_channels_that_others_need(resnet):
    """As the plan says; all that the layers before it make stays, and the network is the one that was fitted."""
    name = "stage2.block2.conv1"
    weights = next(node.input[1] for node in onnx.load(resnet).graph.node if node.name == name)
    shape = next(tuple(t.dims) for t in onnx.load(resnet).graph.initializer if t.name == weights)
    read = shape[1] // 2
    for form in (Form(inputs=read), Form(shape[1] // 4, inputs=read)):
        plan = Plan((), layers=(LayerPlan(name, shape, form),))
        result = onnxprune.prune(resnet, plan=plan, options=PLANNED)
        nodes = {node.name: node for node in result.model.graph.node}
        assert nodes[f"{name}_inputs"].op_type == "Gather"
        values = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
        picked = values[nodes[f"{name}_inputs"].input[1]]
        assert len(picked) == read == len(set(picked.tolist()))
        reader = nodes[f"{name}_V" if form.spatial else name]
        assert reader.input[0] == nodes[f"{name}_inputs"].output[0]
        assert values[reader.input[1]].shape[1] == read
        left = {row.name: row for row in result.report.layers}
        assert all(row.outputs.before == row.outputs.after for row in left.values())
        assert left[name].macs.after <= left[name].macs.before / 2
        assert [layer.form for layer in result.plan.layers] == [form]
        assert Plan.from_dict(result.plan.to_dict()) == result.plan
        assert result.plan.to_dict()["version"] == 3  # readers of 2 would pass over the inputs


def test_inputs_are_selected_where_they_are_asked_for(narrow):
    asked = replace(QUICK, recipe="3c", align=1, select_inputs=True)
    result = onnxprune.prune(narrow, macs="3x", options=asked)
    some = {layer.node for layer in result.plan.layers if layer.form.inputs is not None}
    assert some
    assert some <= {n.name.removesuffix("_inputs") for n in result.model.graph.node if n.op_type == "Gather"}
    assert result.report.macs.ratio >= 3
    whole = onnxprune.prune(narrow, macs="3x", options=replace(asked, select_inputs=False))
    assert not any(layer.form.inputs for layer in whole.plan.layers)
    again = onnxprune.prune(narrow, plan=result.plan, options=PLANNED)
    assert again.plan.layers == result.plan.layers


@pytest.mark.parametrize(("recipe", "counted"), [("prune", "macs"), ("spatial", "macs"), ("3c", "speedup")])
def test_inputs_are_not_selected_in_silence_where_it_is_no_use(recipe, counted):
    budget = budget_from(**{counted: "2x" if counted == "macs" else 2.0})
    options = replace(QUICK, recipe=recipe, budget=budget)
    with pytest.raises(UsageError, match="--select-inputs needs --recipe 3c"):
        replace(options, select_inputs=True)


@pytest.mark.parametrize(
    ("asked", "done", "why"),
    [
        (Form(140), None, "stays one layer"),
        (Form(40, 0, 47), Form(40), "H and P are one conv"),
        (Form(140, 0, 10), Form(channel=10), "V and H are one conv"),
        (Form(140, inputs=20), Form(inputs=20), "stays one layer"),
        (Form(channel=47, inputs=20), Form(inputs=20), "stays one layer"),
        (Form(6, 1, inputs=48), Form(6, 1), "no more are left"),
        (Form(inputs=48), None, "no more are left"),
        (Form(first=1, channel=47), None, "stays one layer"),
    ],
)
def test_a_form_that_would_cost_more_is_declined_aloud(vgg, asked, done, why):
    plan = Plan((), layers=(LayerPlan("stage1.conv2", (48, 48, 3, 3), asked),))
    for dry_run in (True, False):
        result = onnxprune.prune(vgg, plan=plan, options=PLANNED, dry_run=dry_run)
        assert [layer.form for layer in result.plan.layers] == ([done] if done else [])
        notes = {note.subject: note.text for note in result.report.notes}
        assert why in notes["stage1.conv2"]
        assert Plan.from_dict(result.plan.to_dict()) == result.plan


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerPlan("nobody", (1, 1), Form(channel=1)), "no layer named 'nobody'"),
        (LayerPlan("stage1.conv2", (48, 47, 3, 3), Form(2)), "48x48x3x3 here"),
        (LayerPlan("stage1.conv2", (48, 48, 3, 3), Form(145)), "rank of 144 at most"),
        (LayerPlan("stage1.conv2", (48, 48, 3, 3), Form(channel=49)), "48 wide"),
        (LayerPlan("fc1", (64, 320), Form(2)), "cannot be split"),
        (LayerPlan("fc1", (64, 320), Form(inputs=2)), "'fc1' is no conv of one group"),
        (LayerPlan("stage1.conv2", (48, 48, 3, 3), Form(inputs=49)), "has 48 inputs, the plan says 49"),
    ],
)
def test_a_form_that_does_not_fit_is_an_error(vgg, layer, message):
    with pytest.raises(PlanError, match=message):
        onnxprune.prune(vgg, plan=Plan((), layers=(layer,)), options=PLANNED)


def test_a_recipe_with_forms_needs_a_budget_that_it_can_meet(slim):
    with pytest.raises(UsageError, match="--recipe 3c needs a budget"):
        onnxprune.prune(slim, keep_ratio=0.5, options=replace(QUICK, recipe="3c"))
    with pytest.raises(PlanError, match="no layer can be decomposed"):
        onnxprune.prune(slim, options=replace(QUICK, recipe="spatial", include=("fc1",)))


def test_wrong_factors_are_found_before_anything_is_written(slim, monkeypatch):
    def wrong(net, chains):
        changed = {site: replace(chain, second=chain.second * 1.5) for site, chain in chains.items()}
        return with_chains(net, changed)

    monkeypatch.setattr(compress, "with_chains", wrong)
    with pytest.raises(VerifyError, match="before layers were decomposed"):
        onnxprune.prune(slim, options=replace(QUICK, recipe="spatial"))
