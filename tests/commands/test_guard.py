"""A result that is slower than the original: told by how much, and returned as it was only within a time budget."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from runs import SMALL

import onnxprune
from onnxprune import Options, cli
from onnxprune.commands import prune as pipeline
from onnxprune.engine.timing import Latency, Timing
from onnxprune.errors import NothingFasterError
from onnxprune.options.budget import BudgetOptions

pytestmark = pytest.mark.slow

TIMED = replace(SMALL, bench=True)
IN_TIME = replace(TIMED, budget=BudgetOptions(speedup=1.1).budget())


def timing(ratio: float) -> Timing:
    """Ten per cent either way."""
    one = Latency(1.0, 1.1, 9, 1.0)
    return Timing(one, one, ratio, ratio * 0.9, ratio * 1.1, "CPU", 1, 1, 3)


@pytest.fixture
def measured(monkeypatch):
    """Make measurements say so, one after the other."""

    def set_to(*ratios: float) -> None:
        left = iter(ratios)
        monkeypatch.setattr(pipeline, "interleaved", lambda *_, **__: timing(next(left)))

    return set_to


@pytest.fixture
def fast_enough(monkeypatch):
    """Let every plan meet its time budget: whole networks are not timed."""
    monkeypatch.setattr("onnxprune.steps.bench.Bench.timing", lambda *_, **__: timing(1.11))
    monkeypatch.setattr("onnxprune.steps.bench.Bench.folding", 1.0)


def test_within_a_time_budget_what_is_slower_twice_comes_back_unchanged(tiny, measured, fast_enough, tmp_path):
    measured(0.8, 0.85)
    result = onnxprune.prune(tiny, options=IN_TIME)
    assert result.returned
    result.save(tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx") == onnx.load(tiny)
    assert any("RETURNED UNCHANGED" in warning for warning in result.report.warnings)
    assert result.report.macs.before == result.report.macs.after
    assert result.report.params.before == result.report.params.after
    assert result.plan.groups == ()


def test_the_command_writes_it_and_exits_with_a_code_of_its_own(tiny, measured, fast_enough, tmp_path, capsys):
    measured(0.8, 0.85)
    out, record = tmp_path / "same.onnx", tmp_path / "run.json"
    arguments = ["--speedup", "1.1", "--recipe", "prune", "--align", "4", "--points", "20", "--no-cache"]
    code = cli.main([str(tiny), "-o", str(out), "--json", str(record), *arguments])
    assert code == NothingFasterError.exit_code
    assert onnx.load(out) == onnx.load(tiny)
    assert json.loads(record.read_text())["returned"] is True
    assert "nothing faster was found" in capsys.readouterr().err


@pytest.mark.parametrize("ratios", [(1.5,), (0.95,), (0.8, 1.2), (0.8, 0.95)])
def test_what_may_be_as_fast_is_kept_without_a_warning(tiny, measured, fast_enough, ratios):
    measured(*ratios)
    result = onnxprune.prune(tiny, options=IN_TIME)
    assert not result.returned
    assert result.report.macs.ratio > 1
    assert result.report.timing.ratio == ratios[-1]
    assert not any("SLOWER" in warning for warning in result.report.warnings)


@pytest.mark.parametrize("budget", [{"macs": "50%"}, {"params": "70%"}, {"keep_ratio": 0.5}])
def test_without_a_time_budget_the_smaller_network_is_the_result_with_a_warning(tiny, measured, budget):
    measured(0.8, 0.85)
    result = onnxprune.prune(tiny, **budget, options=TIMED)
    assert not result.returned
    assert result.report.params.ratio > 1.3
    assert any("SLOWER" in text and "0.80x" in text and "0.85x" in text for text in result.report.warnings)


def test_a_plan_file_is_followed_with_a_warning(tiny, measured):
    first = onnxprune.prune(tiny, options=replace(TIMED, bench=False))
    measured(0.8, 0.85)
    again = onnxprune.prune(tiny, plan=first.plan, options=Options(points=20))
    assert again.report.params.ratio == first.report.params.ratio
    assert any("SLOWER" in warning for warning in again.report.warnings)
