"""Several budgets from one calibration: each point is what a run of its own gives, and the largest one is found."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import SMALL

import onnxprune
from onnxprune import cli
from onnxprune.commands import sweep
from onnxprune.errors import (
    EngineError,
    LostTooMuchError,
    ModelError,
    OutOfReachError,
    PlanError,
    UsageError,
    VerifyError,
)
from onnxprune.options.budget import WITHIN_DROP

pytestmark = pytest.mark.slow


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


def test_a_point_is_what_a_run_of_its_own_gives(tiny):
    points = list(sweep.run_pareto(tiny, None, SMALL, silent, (1.5, 2.0)))
    assert [point.asked for point in points] == [1.5, 2.0]
    for point in points:
        alone = onnxprune.prune(tiny, macs=1 / point.asked, options=SMALL)
        assert point.result.model.SerializeToString() == alone.model.SerializeToString()
        assert point.result.report.macs == alone.report.macs


def test_a_sweep_ends_where_nothing_more_is_in_reach(tiny):
    points = list(sweep.run_pareto(tiny, None, SMALL, silent, (1.5, 1e6, 2e6)))
    assert [point.result is None for point in points] == [False, True]
    assert "out of reach" in points[-1].why


def changed(thing, **changes):
    """`dataclasses.replace`, also of what is no dataclass."""
    if isinstance(thing, FakeRun):
        thing.options = changes["options"]
    return thing if isinstance(thing, (SimpleNamespace, FakeRun)) else replace(thing, **changes)


class FakeRun:
    """Within the drop up to a speed-up, in reach up to another one."""

    def __init__(self, most: float, reach: float, strict: float) -> None:
        self.most, self.reach, self.strict, self.runs, self.timing = most, reach, strict, 0, None
        self.options = None

    def pruned(self, *, rehearsal=False):
        self.runs += 1
        speedup = 1 / self.options.budget.fraction
        if speedup > self.reach * (1 + 1e-9):
            raise OutOfReachError("out of reach")
        if speedup > (self.most if rehearsal else min(self.most, self.strict)) * (1 + 1e-9):
            raise LostTooMuchError("too far")
        return SimpleNamespace(
            speedup=speedup, returned=False, report=SimpleNamespace(notes=(), timing=self.timing, budget="")
        )


@contextmanager
def job(monkeypatch, most: float, reach: float = 1e9, strict: float = 1e9):
    fake = FakeRun(most, reach, strict)
    with monkeypatch.context() as patched:
        patched.setattr(sweep, "opened", lambda *_, **__: nullcontext(fake))
        patched.setattr(sweep, "prune_opened", FakeRun.pruned)
        patched.setattr(sweep, "picture_alone", lambda run: None)
        patched.setattr(sweep, "replace", changed)
        yield fake


def test_what_is_chosen_is_held_to_the_drop_on_other_inputs_and_else_the_next_smaller_one_is(monkeypatch):
    with job(monkeypatch, 4.0, strict=3.0):
        found = sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)
    assert 2.0 <= found.speedup <= 3.0
    with job(monkeypatch, 4.0, strict=1.1):
        found = sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)
    assert 1.05 <= found.speedup <= 1.1
    with job(monkeypatch, 4.0, strict=1.0), pytest.raises(LostTooMuchError, match=r"even 1\.05x is too much"):
        sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)


def test_what_is_hardly_faster_when_it_is_timed_is_no_result(monkeypatch):
    with job(monkeypatch, 4.0) as fake:
        fake.timing = SimpleNamespace(ratio=1.02)
        with pytest.raises(OutOfReachError, match=r"nothing within --max-drop is 1\.05x faster: .*--max-drop"):
            sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)


@given(most=st.floats(1.1, 40), reach=st.floats(1.1, 40))
def test_the_largest_speedup_is_found_to_eight_per_cent_in_a_few_runs(most, reach) -> None:
    with pytest.MonkeyPatch.context() as patch, job(patch, most, reach) as fake:
        found = sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)
    edge = min(most, reach)
    assert edge / 1.081 <= found.speedup <= edge * (1 + 1e-9)
    assert fake.runs <= 12


def test_where_the_smallest_step_loses_too_much_nothing_is_made(monkeypatch):
    with job(monkeypatch, 1.02), pytest.raises(LostTooMuchError, match=r"even 1\.05x is too much: too far"):
        sweep.run_largest("m", None, replace(SMALL, max_drop=0.0), silent)


def test_where_the_smallest_step_is_out_of_reach_that_is_the_error(monkeypatch):
    with (
        job(monkeypatch, 40, reach=1.02),
        pytest.raises(OutOfReachError, match=r"even 1\.05x is too much: out of reach"),
    ):
        sweep.run_largest("m", None, replace(SMALL, max_drop=0.0), silent)


@pytest.mark.parametrize("kind", [VerifyError, PlanError, EngineError, ModelError])
def test_a_failure_that_is_no_matter_of_the_speedup_is_raised_and_ends_the_search(monkeypatch, kind):
    def fail(run, **_):
        raise kind("broken")

    monkeypatch.setattr(FakeRun, "pruned", fail)
    with job(monkeypatch, 40):
        with pytest.raises(kind, match=r"^broken$"):
            sweep.run_largest("m", None, replace(SMALL, max_drop=1.0), silent)
        with pytest.raises(kind, match=r"^broken$"):
            list(sweep.run_pareto("m", None, SMALL, silent))


def test_a_sweep_of_which_the_first_point_is_out_of_reach_is_an_error_and_leaves_no_folder(
    capsys, monkeypatch, tiny, tmp_path, machine
):
    machine(overhead=0.0)
    monkeypatch.setattr(sweep.run_pareto, "__defaults__", ((1e6,),))
    code, _, text = ran(capsys, tiny, "--pareto", tmp_path / "points", "--no-bench", "--no-cache")
    assert (code, "out of reach" in text) == (OutOfReachError.exit_code, True)
    assert not (tmp_path / "points").exists()


def test_the_largest_speedup_within_a_drop_is_within_it(tiny):
    result = sweep.run_largest(tiny, None, replace(SMALL, max_drop=10.0), silent)
    assert all(output.top1_agreement >= 0.9 for output in result.report.divergence)
    assert any(note.subject == "--max-drop" for note in result.report.notes)
    assert result.report.macs.ratio > 1.1


def ran(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_writes_every_point_the_json_and_the_plot(capsys, monkeypatch, tiny, tmp_path, machine):
    machine(overhead=0.0)
    monkeypatch.setattr(sweep.run_pareto, "__defaults__", ((1.5, 2.0),))
    folder = tmp_path / "points"
    code, text, _ = ran(capsys, tiny, "--pareto", folder, "--align", "4", "--no-bench", "--no-cache")
    assert code == 0
    names = {path.name for path in folder.iterdir()}
    assert names >= {"tiny-1.5x.onnx", "tiny-2x.onnx", "pareto.json"}
    assert "agreement" in text
    content = json.loads((folder / "pareto.json").read_text())
    assert [point["asked"] for point in content["points"]] == [1.5, 2.0]
    for point in content["points"]:  # time is MACs here, and a budget in time is met within 3 %
        assert point["macs"]["before"] >= 0.97 * point["asked"] * point["macs"]["after"]
        onnx.checker.check_model(onnx.load(point["output"]), full_check=True)


@pytest.mark.parametrize("extra", [["-o", "x.onnx"], ["--speedup", "2"], ["--dry-run"], ["--macs", "50%"]])
def test_a_sweep_and_one_budget_contradict(capsys, tiny, tmp_path, extra):
    code, _, text = ran(capsys, tiny, "--pareto", tmp_path / "points", *extra)
    assert code == UsageError.exit_code
    assert extra[0] in text
    assert not (tmp_path / "points").exists()


def test_a_drop_is_points_or_per_cent(capsys, tiny, tmp_path, machine, monkeypatch):
    monkeypatch.setattr(sweep, "_FIRST", 1.2)
    monkeypatch.setattr(sweep, "_MOST", 1.3)
    machine(overhead=0.0)
    out = tmp_path / "p.onnx"
    quick = ("--align", "4", "--no-bench", "--no-cache", "-o", out)
    assert ran(capsys, tiny, "--max-drop", "5%", *quick)[0] == 0
    assert out.is_file()
    code, _, text = ran(capsys, tiny, "--max-drop", "little", *quick)
    assert (code, "little" in text) == (UsageError.exit_code, True)


def test_the_package_has_both(tiny, machine, monkeypatch):
    monkeypatch.setattr(sweep, "_MOST", 2.5)
    points = list(onnxprune.pareto(tiny, speedups=(1.5,), options=SMALL))
    assert [point.asked for point in points] == [1.5]
    assert isinstance(points[0], onnxprune.Point)
    machine(overhead=0.0)
    result = onnxprune.prune(tiny, options=replace(SMALL, budget=WITHIN_DROP, max_drop=100))
    assert any(note.subject == "--max-drop" for note in result.report.notes)
    with pytest.raises(UsageError, match="--recover needs a budget"):
        onnxprune.prune(tiny, options=replace(SMALL, budget=WITHIN_DROP, recover=onnxprune.RecoverOptions()))
