"""Options that would do nothing in a run are an error that names them; those with something to do are not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

import onnxprune
from onnxprune import CompareOptions, Options, Plan, PlanOptions, cli
from onnxprune.commands import idle
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.graph.channels.forms import Form
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.planning import GroupPlan, LayerPlan

GROUP = GroupPlan("conv1", ("conv2",), 4, 2, (0, 1))
NAMED = Plan((GROUP,))
COUNTED = Plan((replace(GROUP, kept=None),))
SPLIT = Plan((), layers=(LayerPlan("conv2", (4, 4, 3, 3), Form(2, 0)),))
PLAN = ["--plan", "plan.json"]
PARETO = ["--pareto", "points"]


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        (["--lasso", "fixed"], "--lasso does nothing without --selector lasso"),
        (["--rank-tol", "0.2"], "--rank-tol does nothing without --selector lasso"),
        (["--lasso-alpha", "1", "--layer-alpha", "1"], "--lasso-alpha, --layer-alpha do nothing without --selector"),
        (["--selector", "lasso", "--lasso-alpha", "1"], "--lasso-alpha does nothing without --lasso fixed"),
        (
            ["--selector", "lasso", "--lasso", "fixed", "--rank-tol", "0.2"],
            "--rank-tol does nothing with --lasso fixed",
        ),
        (["--ridge", "0.1"], "--ridge does nothing without --refit ridge"),
        (["--basis", "plain", "--recipe", "prune"], "--basis does nothing if no kernel is decomposed"),
        (["--rounds", "0", "--recipe", "channel"], "--rounds does nothing if no kernel is decomposed"),
        (["--rounds", "2", "--refit", "none"], "--rounds does nothing with --refit none"),
        (["--rounds", "2", "--basis", "plain"], "--rounds does nothing with --basis plain"),
        (["--no-downstream", "--refit", "none"], "--no-downstream does nothing with --refit none"),
        (["--no-sensitivity", "--keep-ratio", "0.5"], "--no-sensitivity does nothing with --keep-ratio"),
        (["--no-sensitivity", "--selector", "lasso", "--lasso", "fixed"], "if the LASSO finds its own counts"),
        (["--align", "4", "--selector", "lasso", "--lasso", "fixed"], "--align does nothing if the LASSO"),
        (["--no-drop-branches", "--keep-ratio", "0.5"], "--no-drop-branches does nothing with --keep-ratio"),
        (["--no-drop-branches", "--recipe", "spatial"], "--no-drop-branches does nothing with --recipe spatial"),
        (["--selector", "lasso", "--recipe", "channel"], "--selector does nothing with --recipe channel"),
        (
            ["--no-sensitivity", "--allocation", "uniform", "--recipe", "prune"],
            "--no-sensitivity does nothing with --allocation uniform and --recipe",
        ),
        (["--no-bench", "--bench-batch", "4", "--macs", "2x"], "--bench-batch does nothing with --no-bench"),
        (["--no-cache", "--cache-dir", "."], "--cache-dir does nothing with --no-cache"),
        (["--learning-rate", "1"], "--learning-rate does nothing without --recover"),
        ([*PLAN, "--speedup", "2"], "--speedup does nothing with --plan"),
        ([*PLAN, "--recipe", "3c", "--align", "4"], "--recipe, --align do nothing with --plan"),
        (["--explain", "--keep-ratio", "0.5"], "--explain does nothing without an allocation"),
        (["--explain", *PLAN], "--explain does nothing without an allocation"),
        (["--explain", "--quiet"], "--explain does nothing with --quiet"),
        (["--verbose", "--quiet"], "--verbose and --quiet contradict"),
        (["--dry-run", "--max-drop", "1"], "--dry-run needs a budget: give one"),
        (["--evaluate", "measure.py:steady"], "--evaluate without a budget needs --max-drop"),
        ([*PARETO, "--verbose"], "leave -o, --verbose out"),
    ],
)
def test_a_command_with_an_option_that_does_nothing_is_refused_before_any_work(
    capsys, tmp_path, monkeypatch, arguments, idle
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "measure.py").write_text("def steady(run):\n    return 1.0\n")
    assert cli.main([str(tmp_path / "no.onnx"), "-o", str(tmp_path / "p.onnx"), *arguments]) == UsageError.exit_code
    found = capsys.readouterr().err
    assert idle in found
    assert found.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--selector", "lasso", "--rank-tol", "0.2"],
        ["--selector", "lasso", "--lasso", "fixed", "--lasso-alpha", "1", "--layer-alpha", "1"],
        ["--refit", "ridge", "--ridge", "0.1"],
        ["--recipe", "spatial", "--basis", "plain"],
        ["--rounds", "0"],
        ["--no-bench", "--bench-batch", "4", "--speedup", "2"],
        ["--allocation", "uniform", "--no-sensitivity"],
        ["--keep-ratio", "0.5", "--align", "1"],
        ["--recover", "--learning-rate", "1", "--macs", "2x"],
        [*PLAN, "--refit", "ridge", "--ridge", "1", "--max-drop", "1"],
        ["--dry-run", "--max-drop", "1", "--speedup", "2", "--recover", "1"],
    ],
)
def test_options_that_do_something_are_let_through_to_the_model(capsys, tmp_path, arguments):
    assert cli.main([str(tmp_path / "no.onnx"), "-o", str(tmp_path / "p.onnx"), *arguments]) != UsageError.exit_code
    assert "no such file" in capsys.readouterr().err or "plan.json" in arguments


@pytest.mark.parametrize(
    ("options", "plan", "idle"),
    [
        (Options(refit=RefitOptions(ridge=1.0)), None, "--ridge"),
        (Options(recipe="3c"), NAMED, "--recipe"),
        (Options(select=SelectOptions(selector="lasso")), NAMED, "--selector"),
        (Options(select=SelectOptions(selector="lasso")), COUNTED, ""),
        (Options(refit=RefitOptions(rounds=0)), NAMED, "--rounds"),
        (Options(refit=RefitOptions(rounds=0)), SPLIT, ""),
        (Options(bench=False, bench_batch=2, budget=BudgetOptions(latency_ms=1).budget()), None, ""),
        (Options(bench=False, bench_batch=2, budget=BudgetOptions(latency_ms=1).budget()), NAMED, "--bench-batch"),
    ],
)
def test_options_in_python_are_held_to_the_same_table(options, plan, idle):
    if idle:
        with pytest.raises(UsageError, match=rf"^{idle} does nothing .*: leave {idle} out"):
            onnxprune.prune("nowhere.onnx", plan=plan, options=options)
    else:
        with pytest.raises(OnnxPruneError, match="no such file"):
            onnxprune.prune("nowhere.onnx", plan=plan, options=options)


def test_a_comparison_is_held_to_it_too(tiny, tmp_path):
    with pytest.raises(UsageError, match="--bench-batch does nothing with --no-bench"):
        onnxprune.compare("nowhere.onnx", tiny, options=CompareOptions(bench=False, bench_batch=2))
    with pytest.raises(UsageError, match="--label-offset does nothing without labels"):
        onnxprune.compare(tiny, tiny, options=CompareOptions(bench=False, label_offset=1))
    labelled = CompareOptions(bench=False, label_offset=1)
    assert onnxprune.compare(tiny, tiny, labels=np.zeros(44, int), options=labelled).accuracy is not None


def test_every_option_of_the_table_exists():
    rules = idle._rules(Options(), None)
    assert all(hasattr(Options(), name.split(".")[0]) for rule in rules for name in rule.fields)
    for rule in rules:
        idle.check_idle(Options(), Options(), [replace(rule, met=False)])  # raises AttributeError where one does not
    assert set(idle.PLANNED) <= {field.name for field in fields(PlanOptions)}
