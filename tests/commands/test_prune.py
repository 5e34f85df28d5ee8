"""The main job on the shipped models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from runs import PLANNED, QUICK, accuracy, damage_store, stored

import onnxprune
from onnxprune import Plan
from onnxprune.errors import DataError, PlanError, UsageError, VerifyError
from onnxprune.graph.edit import remove as surgery
from onnxprune.graph.model.fold import fold
from onnxprune.note import RunWarning
from onnxprune.options.budget import Budget
from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.steps import prepare as start
from onnxprune.steps import verify

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_half_of_the_macs_costs_less_than_a_point(name, request):
    path = request.getfixturevalue(name)
    result = onnxprune.prune(path, macs="2x", options=replace(QUICK, samples=None))
    assert result.report.macs.ratio >= 2
    assert accuracy(result.model, path) > accuracy(onnx.load(path), path) - 1


def test_the_report_counts_what_is_in_the_file(slim):
    result = onnxprune.prune(slim, options=QUICK)
    floats = sum(
        numpy_helper.to_array(tensor).size for tensor in result.model.graph.initializer if tensor.data_type == 1
    )
    assert result.report.params.after == floats
    assert sum(row.macs.after for row in result.report.layers) == result.report.macs.after
    for row in result.report.layers:
        weight = next(node.input[1] for node in result.model.graph.node if node.name == row.name)
        shape = next(tensor.dims for tensor in result.model.graph.initializer if tensor.name == weight)
        assert np.prod(shape) == row.params.after


def test_inputs_outputs_and_open_sizes_are_those_of_the_original(resnet):
    original, result = onnx.load(resnet), onnxprune.prune(resnet, options=QUICK).model
    assert result.graph.input == original.graph.input
    assert [value.name for value in result.graph.output] == [value.name for value in original.graph.output]
    assert result.graph.output[0].type == original.graph.output[0].type


def test_the_same_seed_gives_the_same_bytes_and_the_original_is_not_changed(slim):
    model = onnx.load(slim)
    before = model.SerializeToString()
    data = {"input": np.random.default_rng(0).standard_normal((40, 1, 16, 16)).astype(np.float32)}
    first, second = (onnxprune.prune(model, data=data, options=QUICK) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert model.SerializeToString() == before


def test_the_lasso_meets_the_budget(resnet):
    options = replace(QUICK, select=SelectOptions(selector="lasso"))
    assert onnxprune.prune(resnet, macs="1.5x", options=options).report.macs.ratio >= 1.5


@pytest.mark.parametrize("variant", ["alternating", "path"])
def test_every_lasso_keeps_what_the_plan_says(slim, variant):
    options = replace(QUICK, select=SelectOptions(selector="lasso", lasso=variant))
    result = onnxprune.prune(slim, keep_ratio=0.75, options=options)
    assert all(len(group.kept) == group.keep for group in result.plan.groups)


def test_a_fixed_penalty_finds_its_own_counts(vgg):
    select = SelectOptions(selector="lasso", lasso="fixed", lasso_alpha=1e-3)
    options = replace(QUICK, align=None, select=select, budget=Budget("selector", 1.0, "the counts of the LASSO"))
    result = onnxprune.prune(vgg, options=options)
    assert any(group.keep < group.channels for group in result.plan.groups)


@pytest.mark.parametrize("refit", ["linear", "ridge", "scale-only", "auto"])
def test_every_refit_is_better_than_none(slim, refit):
    def errors(kind):
        result = onnxprune.prune(slim, keep_ratio=0.5, options=replace(QUICK, refit=RefitOptions(refit=kind)))
        return result.report.divergence[0].relative_error

    assert errors(refit) < errors("none")


def test_uniform_keeps_one_ratio_in_all_groups_that_have_the_level(slim):
    result = onnxprune.prune(slim, keep_ratio=0.5, options=replace(QUICK, align=1))
    assert {group.keep / group.channels for group in result.plan.groups} == {0.5}


def test_a_budget_in_parameters_is_met(slim):
    report = onnxprune.prune(slim, params="60%", options=QUICK).report
    assert report.params.after <= 0.6 * report.params.before


def test_a_dry_run_has_a_plan_and_no_model(slim):
    result = onnxprune.prune(slim, dry_run=True, options=QUICK)
    assert result.model is None
    assert result.plan.groups
    with pytest.raises(UsageError, match="dry run"):
        result.save("nowhere.onnx")


def test_a_plan_replays_channel_by_channel(resnet, tmp_path):
    first = onnxprune.prune(resnet, options=QUICK)
    path = tmp_path / "plan.json"
    path.write_text(first.plan.to_json())
    again = onnxprune.prune(resnet, plan=path, options=PLANNED)
    assert again.plan.groups == first.plan.groups
    assert again.model.SerializeToString() == first.model.SerializeToString()


def test_a_plan_without_channels_leaves_the_choice_to_the_selector(resnet):
    first = onnxprune.prune(resnet, options=QUICK)
    counts = Plan(tuple(replace(group, kept=None) for group in first.plan.groups))
    assert onnxprune.prune(resnet, plan=counts, options=PLANNED).plan.groups == first.plan.groups


def test_excluded_layers_stay_as_they_are(slim):
    result = onnxprune.prune(slim, macs="1.3x", options=replace(QUICK, exclude=("stage2.*",)))
    for row in result.report.layers:
        if row.name.startswith("stage2."):
            assert row.params.before == row.params.after
            assert row.error is None


def test_only_included_layers_lose_channels(slim):
    result = onnxprune.prune(slim, macs="1.2x", options=replace(QUICK, include=("stage1.*",)))
    lost = {row.name for row in result.report.layers if row.outputs.after < row.outputs.before}
    assert lost
    assert all(name.startswith("stage1.") for name in lost)


def test_a_pattern_that_matches_nothing_is_an_error(slim):
    with pytest.raises(UsageError, match=r"--exclude 'stage9\.\*' matches no layer"):
        onnxprune.prune(slim, options=replace(QUICK, exclude=("stage9.*",)))


def test_nothing_to_prune_is_an_error_with_the_reason_and_a_dry_run_lists_all(slim):
    options = replace(QUICK, exclude=("*",))
    with pytest.raises(PlanError, match=r"reason for \d+ of \d+ groups: .*--dry-run"):
        onnxprune.prune(slim, options=options)
    result = onnxprune.prune(slim, options=options, dry_run=True)
    assert all(row.reason for row in result.report.layers)
    assert result.report.macs.before == result.report.macs.after


def test_an_unreachable_budget_is_an_error(slim):
    with pytest.raises(PlanError, match="out of reach"):
        onnxprune.prune(slim, macs="500x", options=QUICK)


def test_a_drop_that_is_too_large_fails_and_names_a_tensor(slim):
    options = replace(QUICK, max_drop=0.0, refit=RefitOptions(refit="none"))
    with pytest.raises(VerifyError, match="first tensor that diverges"):
        onnxprune.prune(slim, keep_ratio=0.2, options=options)


def test_a_wrong_surgery_is_found_before_anything_is_written(slim, monkeypatch):
    def wrong(net, channels, after):
        zeroed = surgery.zero(net, channels, after)
        weight = next(node for node in zeroed.nodes if node.op == "Conv").inputs[1]
        weight.values = np.array(weight.values) * 1.5
        return zeroed

    monkeypatch.setattr(verify, "zero", wrong)
    with pytest.raises(VerifyError, match="is the first to differ"):
        onnxprune.prune(slim, options=QUICK)


def test_few_samples_are_said_with_the_layer_before_and_after_the_work(slim):
    with pytest.warns(RunWarning, match=r"FEW INPUTS: .* stage3.conv2 \(36 for 360\).* instead of 18 .*, 1800 would"):
        report = onnxprune.prune(slim, options=replace(QUICK, samples=20, points=2)).report
    assert any("FEW SAMPLES" in warning and "stage3.conv2 (" in warning for warning in report.warnings)
    assert next(row for row in report.layers if row.name == "stage3.conv2").reason.endswith("few samples")


def test_on_made_up_images_the_warning_is_in_the_report(slim):
    report = onnxprune.prune(slim, data="synthetic", options=replace(QUICK, samples=40)).report
    assert any("NO CALIBRATION DATA" in warning for warning in report.warnings)


def test_readers_and_iterables_are_calibration_data(slim):
    class Reader:
        def __init__(self):
            self.left = 30

        def get_next(self):
            self.left -= 1
            drawn = np.random.default_rng(self.left + 1).standard_normal((1, 1, 16, 16))
            return None if self.left < 0 else {"input": drawn.astype(np.float32)}

    assert onnxprune.prune(slim, data=Reader(), options=QUICK).report.data["fit"] == 27
    items = (np.random.default_rng(i).standard_normal((1, 16, 16)).astype(np.float32) for i in range(20))
    assert onnxprune.prune(slim, data=items, options=QUICK).report.data["fit"] == 18


def two_inputs() -> onnx.ModelProto:
    """Images of open size and a mask, each through a conv of its own, then together."""
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) p = Relu(a) b = Conv<pads=[1,1,1,1]>(m, w2, b2) q = Relu(b)
        c = Concat<axis=1>(p, q) d = Conv<pads=[1,1,1,1]>(c, w3, b3) e = Relu(d) y = Conv(e, w4, b4)
    """
    ends = "(float[N,3,H,W] x, float[N,1,H,W] m) => (float[N,2,H,W] y)"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {ends} {{ {body} }}')
    generator = np.random.default_rng(0)
    for index, shape in enumerate([(16, 3, 3, 3), (16, 1, 3, 3), (24, 32, 3, 3), (2, 24, 1, 1)], 1):
        weight = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        for name, array in ((f"w{index}", weight), (f"b{index}", generator.standard_normal(shape[0]) / 4)):
            model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def test_inputs_go_by_name_and_open_sizes_stay_open(tmp_path):
    model, generator = two_inputs(), np.random.default_rng(1)
    data = {
        "x": generator.standard_normal((60, 3, 10, 12)).astype(np.float32),
        "m": generator.standard_normal((60, 1, 10, 12)).astype(np.float32),
    }
    np.savez(tmp_path / "data.npz", **data)
    whole = onnxprune.prune(model, data=data, macs="1.5x", options=QUICK)
    assert whole.report.macs.ratio >= 1.5
    assert whole.model.graph.input == model.graph.input
    assert whole.model.graph.output == model.graph.output
    others = (tmp_path / "data.npz", [{name: array[i] for name, array in data.items()} for i in range(60)])
    for other in others:
        again = onnxprune.prune(model, data=other, macs="1.5x", options=QUICK)
        assert again.model.SerializeToString() == whole.model.SerializeToString()
    with pytest.raises(DataError, match="'m'"):
        onnxprune.prune(model, data={"x": data["x"]}, options=QUICK)


def test_data_of_the_wrong_shape_is_an_error(slim):
    with pytest.raises(DataError):
        onnxprune.prune(slim, data=np.zeros((5, 3, 7, 7), np.float32), options=QUICK)


def test_spilling_to_disk_changes_nothing(narrow, monkeypatch):
    roomy = onnxprune.prune(narrow, options=replace(QUICK, memory=4 << 30))
    monkeypatch.setattr("onnxprune.steps.room.Room.held", 1)
    tight = onnxprune.prune(narrow, options=replace(QUICK, memory=4 << 30, samples=300))
    worst = max(
        np.abs(numpy_helper.to_array(a).astype(float) - numpy_helper.to_array(b)).max()
        for a, b in zip(roomy.model.graph.initializer, tight.model.graph.initializer, strict=True)
        if a.data_type == 1
    )
    assert worst < 1e-3


def test_a_killed_run_goes_on_where_it_was(slim, tmp_path):
    options = replace(QUICK, cache_dir=tmp_path)
    whole = onnxprune.prune(slim, options=replace(QUICK))
    seen: list[int] = []

    def kill(stage, done, total):
        if stage == "compress" and done > 0.6 * total:
            raise KeyboardInterrupt

    def watch(stage, done, total):
        if stage == "compress":
            seen.append(done)

    with pytest.raises(KeyboardInterrupt):
        onnxprune.prune(slim, options=options, progress=kill)
    assert "step-0" in stored(tmp_path)
    resumed = onnxprune.prune(slim, options=options, progress=watch)
    assert min(seen) > 0
    assert any(note.subject == "cache" for note in resumed.report.notes)
    assert resumed.model.SerializeToString() == whole.model.SerializeToString()


def test_a_damaged_checkpoint_is_as_good_as_none(slim, tmp_path):
    options = replace(QUICK, cache_dir=tmp_path)
    first = onnxprune.prune(slim, options=options)
    assert damage_store(tmp_path, lambda value: value[:50])
    assert onnxprune.prune(slim, options=options).model.SerializeToString() == first.model.SerializeToString()


def test_a_wrong_fold_is_found_before_anything_is_sampled(slim, monkeypatch):
    def wrong(net):
        plain, notes = fold(net)
        conv = next(node for node in plain.nodes if node.op == "Conv")
        conv.inputs[1].values = np.array(conv.inputs[1].values) * 1.5
        return plain, notes

    monkeypatch.setattr(start, "fold", wrong)
    with pytest.raises(VerifyError, match="changed output 'logits'"):
        onnxprune.prune(slim, options=QUICK)
