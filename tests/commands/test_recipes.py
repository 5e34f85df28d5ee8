"""Runs that decompose kernels and channels, and follow plans with forms."""

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
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit.decompose import with_chains
from onnxprune.options.solve import RefitOptions
from onnxprune.planning import LayerPlan
from onnxprune.steps import compress

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize(
    ("asked", "done", "why"),
    [
        (Form(140), None, "is kept as one layer"),
        (Form(40, 0, 47), Form(40), "H and P are one conv"),
        (Form(140, 0, 10), Form(channel=10), "V and H are one conv"),
        (Form(first=1, channel=47), None, "is kept as one layer"),
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
        (LayerPlan("stage1.conv2", (48, 47, 3, 3), Form(2)), "48x48x3x3 in this model, the plan expects 48x47x3x3"),
        (LayerPlan("stage1.conv2", (48, 48, 3, 3), Form(145)), "rank of at most 144"),
        (LayerPlan("stage1.conv2", (48, 48, 3, 3), Form(channel=49)), "has 48 outputs, the plan expects a width of 49"),
        (LayerPlan("fc1", (64, 320), Form(2)), "cannot be split"),
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
