"""Residual branches that go whole, from the plan to the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph.families import FAMILIES, SIDE

import onnxprune
from onnxprune import Options, Plan, RecoverOptions
from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit import drop
from onnxprune.options.solve import RefitOptions
from onnxprune.planning import GroupPlan, LayerPlan

pytestmark = pytest.mark.slow

QUICK = Options(bench=False, samples=200, refit=RefitOptions(refit="linear"))
HARD = replace(QUICK, align=16)


def dropping(path, *names: str, **others: int) -> Plan:
    """A plan by which some branches go, and other groups keep so many."""
    groups = {group.name: group for group in onnxprune.inspect(path).groups}
    keep = {**dict.fromkeys(names, 0), **others}
    return Plan(tuple(GroupPlan(n, groups[n].consumers, groups[n].size, count) for n, count in keep.items()))


@pytest.mark.parametrize("refit", ["linear", "auto", "none"])
def test_a_branch_is_gone_from_the_file_the_report_and_the_count(narrow, refit):
    found = onnxprune.inspect(narrow)
    name, other = found.branches[1], found.branches[2]
    plan = dropping(narrow, name, **{other: 8})
    result = onnxprune.prune(narrow, plan=plan, options=replace(QUICK, refit=RefitOptions(refit=refit)))
    before = {node.name for node in onnx.load(narrow).graph.node if node.op_type == "Conv"}
    after = {node.name for node in result.model.graph.node if node.op_type == "Conv"}
    rows = {row.name: row for row in result.report.layers}
    gone = before - after
    assert name in gone
    assert len(gone) == 2
    for row in rows.values():
        assert (row.macs.after == row.params.after == row.outputs.after == 0) == (row.name in gone)
        assert row.shape.endswith("-> gone") == (row.name in gone)
        assert ("branch is removed" in row.reason) == (row.name in gone)
    assert any(note.subject == "residual branches" and name in note.text for note in result.report.notes)
    assert result.report.macs.after == sum(row.macs.after for row in rows.values())

    planned = {group.producer: group for group in result.plan.groups}
    assert (planned[name].keep, planned[name].kept) == (0, ())
    assert planned[other].keep == 8
    assert result.plan.to_dict()["version"] == 3
    again = onnxprune.prune(narrow, plan=Plan.from_dict(result.plan.to_dict()), options=QUICK)
    assert again.plan == replace(result.plan, budget=again.plan.budget)


def test_what_follows_a_branch_that_is_gone_makes_up_for_it(narrow):
    plan = dropping(narrow, onnxprune.inspect(narrow).branches[1])
    refits = (replace(QUICK.refit, downstream=downstream) for downstream in (False, True))
    left, fitted = (
        onnxprune.prune(narrow, plan=plan, options=replace(QUICK, refit=refit)).report.divergence[0] for refit in refits
    )
    assert fitted.kl < 0.8 * left.kl


def test_a_network_without_any_of_its_branches_still_runs_and_can_be_recovered(narrow):
    plan = dropping(narrow, *onnxprune.inspect(narrow).branches)
    options = replace(QUICK, recover=RecoverOptions(epochs=1))
    result = onnxprune.prune(narrow, plan=plan, options=options)
    assert sum(node.op_type == "Add" for node in result.model.graph.node) == 0
    recovery = result.report.recovery
    assert recovery is not None
    assert recovery.steps > 0
    made = {name for node in result.model.graph.node for name in node.output}
    assert recovery.features
    assert set(recovery.features) <= made  # and none of a branch that is gone


@pytest.mark.parametrize("recipe", ["prune", "3c"])
def test_a_hard_budget_takes_whole_branches_unless_they_are_to_stay(resnet, recipe):
    options = replace(HARD, recipe=recipe)
    names = set(onnxprune.inspect(resnet).branches)

    def dropped(speedup=17, **changes):
        result = onnxprune.prune(resnet, macs=1 / speedup, options=replace(options, **changes))
        assert result.report.macs.ratio >= speedup
        return {group.producer for group in result.plan.groups if not group.keep}

    some = dropped()
    assert some
    assert some <= names
    assert not dropped(12, drop_branches=False)


def test_a_plan_that_empties_a_group_of_no_branch_is_refused(resnet):
    found = onnxprune.inspect(resnet)
    name = next(group.name for group in found.groups if group.name not in found.branches and not group.pins)
    with pytest.raises(PlanError, match=f"none of the channels of '{name}'"):
        onnxprune.prune(resnet, plan=dropping(resnet, name), options=QUICK)


@pytest.fixture(scope="module")
def bottleneck(tmp_path_factory):
    """With a projection shortcut right behind its stem."""
    path = tmp_path_factory.mktemp("bottleneck") / "net.onnx"
    onnx.save(FAMILIES["resnet_bottleneck"](), path)
    inputs = np.random.default_rng(0).standard_normal((60, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(path.with_suffix(".calib.npz"), x=inputs)
    return path


def test_a_tensor_that_a_branch_reads_may_lose_channels_when_the_branch_goes(bottleneck):
    found = onnxprune.inspect(bottleneck)
    net = {group.name: group for group in found.groups}
    stem, first = "conv0", found.branches[0]
    assert len(net[stem].consumers) == 2
    result = onnxprune.prune(bottleneck, plan=dropping(bottleneck, first, **{stem: 8}), options=QUICK)
    assert {group.producer: group.keep for group in result.plan.groups} == {stem: 8, first: 0}


def test_what_a_plan_asks_for_inside_a_branch_that_goes_is_declined_aloud(bottleneck):
    found = onnxprune.inspect(bottleneck)
    net = {group.name: group for group in found.groups}
    last = found.branches[-1]
    (inner,) = (name for name, group in net.items() if last in group.consumers)
    result = onnxprune.prune(bottleneck, plan=dropping(bottleneck, last, **{inner: 4}), options=QUICK)
    assert [group.producer for group in result.plan.groups if group.keep < group.channels] == [last]
    assert any(
        note.subject == inner and "removed with its residual branch" in note.text for note in result.report.notes
    )


@pytest.mark.parametrize("way", ["exclude", "include"])
def test_a_plan_does_not_take_a_layer_that_is_to_stay(bottleneck, way):
    found = onnxprune.inspect(bottleneck)
    last = found.branches[-1]
    first = next(group.name for group in found.groups if last in group.consumers)
    patterns = {"exclude": (first,), "include": (last,)}[way]
    with pytest.raises(PlanError, match="keeps a layer of its residual branch"):
        onnxprune.prune(bottleneck, plan=dropping(bottleneck, last), options=replace(QUICK, **{way: patterns}))


def test_what_differs_first_is_no_tensor_of_a_branch_that_is_gone(resnet):
    plan = dropping(resnet, *onnxprune.inspect(resnet).branches)
    with pytest.raises(onnxprune.errors.VerifyError, match="the first tensor that diverges is") as caught:
        onnxprune.prune(resnet, plan=plan, options=replace(QUICK, max_drop=0.0, samples=60))
    place = str(caught.value).split("diverges is '")[1].split("'")[0]
    model = onnxprune.prune(resnet, plan=plan, options=replace(QUICK, samples=60)).model
    assert place in {name for node in model.graph.node for name in node.output}


def test_a_form_in_a_branch_that_is_gone_is_declined_aloud(resnet):
    name = onnxprune.inspect(resnet).branches[1]
    weights = next(node.input[1] for node in onnx.load(resnet).graph.node if node.name == name)
    shape = next(tuple(tensor.dims) for tensor in onnx.load(resnet).graph.initializer if tensor.name == weights)
    plan = replace(dropping(resnet, name), layers=(LayerPlan(name, shape, Form(4)),))
    result = onnxprune.prune(resnet, plan=plan, options=QUICK)
    assert not result.plan.layers
    assert any(note.subject == name and "removed with its residual branch" in note.text for note in result.report.notes)


def test_a_wrong_cut_is_found_before_anything_is_written(resnet, monkeypatch):
    plan = dropping(resnet, onnxprune.inspect(resnet).branches[1])
    right = drop.without_branches

    def off(net, channels, gone):
        cut = right(net, channels, gone)
        first = next(node for node in cut.nodes if node.op == "Conv")
        first.inputs[1].values = np.asarray(first.inputs[1].values) * np.float32(1.5)
        return cut

    monkeypatch.setattr("onnxprune.steps.compress.without_branches", off)
    with pytest.raises(onnxprune.errors.VerifyError, match="before layers were decomposed and branches cut"):
        onnxprune.prune(resnet, plan=plan, options=QUICK)
