"""The result is never slower than the original: measured twice, and then the original comes back, with the reason."""

from __future__ import annotations

import onnx
import pytest

import onnxprune
from onnxprune import Options, pipeline
from onnxprune.runtime.timing import Latency, Timing

TIMED = Options(align=4, points=20)


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


def test_what_is_slower_twice_comes_back_unchanged(tiny, measured, tmp_path):
    measured(0.8, 0.85)
    result = onnxprune.prune(tiny, options=TIMED)
    result.save(tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx") == onnx.load(tiny)
    assert any("RETURNED UNCHANGED" in warning for warning in result.report.warnings)
    assert result.report.macs.before == result.report.macs.after
    assert result.report.params.before == result.report.params.after
    assert result.plan.groups == ()


@pytest.mark.parametrize("ratios", [(1.5,), (0.95,), (0.8, 1.2), (0.8, 0.95)])
def test_what_may_be_as_fast_is_kept(tiny, measured, ratios):
    measured(*ratios)
    result = onnxprune.prune(tiny, options=TIMED)
    assert result.report.macs.ratio >= 1.9
    assert result.report.timing.ratio == ratios[-1]


def test_a_plan_file_and_a_budget_in_parameters_are_followed_whatever_it_takes(tiny, measured):
    measured(0.8, 0.8, 0.8, 0.8)
    first = onnxprune.prune(tiny, params="70%", options=TIMED)
    assert first.report.params.ratio > 1.3
    assert onnxprune.prune(tiny, plan=first.plan, options=TIMED).report.params.ratio == first.report.params.ratio
