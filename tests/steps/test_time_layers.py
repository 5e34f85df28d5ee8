"""A budget in milliseconds: plans are corrected by what networks of their sizes take, or it is out of reach."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from graph.builder import Builder

import onnxprune
from onnxprune import Options
from onnxprune.commands import prune as pipeline
from onnxprune.engine.timing import Latency, Timing
from onnxprune.errors import PlanError, UsageError
from onnxprune.graph.channels.forms import DENSE, form_parts
from onnxprune.graph.model.normalize import with_shapes
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.progress import silent
from onnxprune.steps.bench import Bench
from onnxprune.steps.prepare import prepare
from onnxprune.steps.time_layers import behind_layers, timed_cost

pytestmark = pytest.mark.slow

QUICK = Options(bench=False, samples=200, align=4, refit=RefitOptions(refit="linear"))


def test_the_plan_is_corrected_until_the_speedup_is_met(narrow, machine):
    timed = machine(overhead=3.0)
    result = onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(speedup=1.5).budget()))
    assert 1.5 * 0.97 <= timed[-1] <= 1.5 * 1.05
    assert result.report.macs.ratio > 1.5
    assert any("plans timed" in note.text for note in result.report.notes)


def test_clocks_that_promise_too_little_do_not_throw_the_search_about(narrow, machine, monkeypatch):
    machine(overhead=0.0)
    timing, reached = Bench.timing, []

    def steep(bench, assignment, *, again=False):
        found = timing(bench, assignment)
        reached.append(found.ratio**2.5)
        return replace(found, ratio=reached[-1], ratio_low=reached[-1], ratio_high=reached[-1])

    monkeypatch.setattr(Bench, "timing", steep)
    options = replace(QUICK, align=2, budget=BudgetOptions(speedup=1.25).budget())
    onnxprune.prune(narrow, options=options, dry_run=True)
    assert 1.25 * 0.97 <= min(ratio for ratio in reached if ratio >= 1.25 * 0.97) <= 1.25 * 1.05
    assert len(reached) < 16  # up to eight plans, each timed twice


def timed_note(narrow) -> str:
    options = replace(QUICK, budget=BudgetOptions(speedup=1.5).budget())
    report = onnxprune.prune(narrow, options=options, dry_run=True).report
    return next(note.text for note in report.notes if "plans timed" in note.text)


def test_the_speedup_is_promised_where_its_interval_is_above_what_was_asked_for(narrow, machine):
    machine(overhead=3.0)
    assert "ESTIMATE" not in timed_note(narrow)


def test_a_wide_interval_and_a_busy_machine_are_said(narrow, machine):
    machine(overhead=3.0, spread=0.1, stretch=2.5)
    told = timed_note(narrow)
    assert "AN ESTIMATE: 1.50x is not certain" in told
    assert "a run takes 2.5 times as long as alone" in told


def test_a_plan_that_just_meets_the_speedup_by_luck_is_timed_again(narrow, machine, monkeypatch):
    machine(overhead=3.0)
    timing, seen = Bench.timing, []

    def lucky(bench, assignment, *, again=False):
        found = timing(bench, assignment)
        seen.append(again)
        return found if again else replace(found, ratio=1.5)

    monkeypatch.setattr(Bench, "timing", lucky)
    told = timed_note(narrow)
    assert seen[:2] == [False, True]
    assert "the one taken is 1.5" in told


@pytest.mark.parametrize(("ratio", "missed"), [(1.2, True), (1.42, False), (1.6, False)])
def test_a_result_that_is_slower_than_asked_for_is_said(tiny, machine, monkeypatch, ratio, missed):
    machine(overhead=0.0)
    one = Latency(1.0, 1.0, 9, 1.0)
    final = Timing(one, one, ratio, ratio - 0.03, ratio + 0.04, "CPU", 1, 1, 3)
    monkeypatch.setattr(pipeline, "interleaved", lambda *_, **__: final)
    options = replace(QUICK, bench=True, points=20, budget=BudgetOptions(speedup=1.5).budget())
    warnings = onnxprune.prune(tiny, options=options).report.warnings
    assert any("TOO SLOW: speedup 1.5 was asked for" in warning for warning in warnings) == missed


def test_milliseconds_may_be_asked_for(narrow, machine):
    timed = machine(overhead=0.0)
    before = onnxprune.inspect(narrow).macs / 1e6
    result = onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(latency_ms=before / 2).budget()))
    assert timed[-1] >= 2 * 0.97
    assert result.report.budget == f"{before / 2:g} ms"


def gated() -> onnx.ModelProto:
    """Two convs, each with an activation that no engine fuses, and a product of both in front of the head."""
    b = Builder(5)
    first = b.conv("x", 3, 8)
    soft = b.one("Mul", first, b.one("Softplus", first))
    second = b.conv(soft, 8, 6)
    gate = b.one("Softplus", second)
    return b.finish({b.head(gate, 6, 4): ["N", 4]}, 16)


def test_nodes_between_layers_belong_to_the_layer_in_front_of_them():
    with prepare(gated(), "synthetic", replace(QUICK, samples=20), silent) as run:
        net = with_shapes(run.net, {"x": (1, 3, 16, 16)})
        names = [node.name for node in net.nodes]
        convs = [node.name for node in net.nodes if node.op == "Conv"]
        soft = [node.name for node in net.nodes if node.op == "Softplus"]
        product = next(node.name for node in net.nodes if node.op == "Mul")
        times = {soft[0]: 1.0, f"{product}/fused": 2.0, soft[1]: 4.0, convs[0]: 8.0, "another": 16.0}
        assert not any(name.startswith("another") for name in names)
        assert behind_layers(net, {convs[0]: 8, convs[1]: 6}, times) == {convs[0]: 3.0, convs[1]: 4.0}
        assert behind_layers(net, {convs[0]: 8, convs[1]: 99}, times) == {convs[0]: 3.0}  # other channels


def test_fewer_channels_take_less_time_between_the_layers(machine, monkeypatch):
    machine(overhead=0.0)
    told = {}

    def timed(engine, model, feeds, scratch):
        soft = next(node.name for node in model.graph.node if node.op_type == "Softplus")
        return {soft: 5.0}

    monkeypatch.setattr("onnxprune.steps.time_layers.node_times", timed)
    options = replace(QUICK, samples=20, budget=BudgetOptions(speedup=1.5).budget(), engine=EngineOptions(threads=1))
    with prepare(gated(), "synthetic", options, silent) as run:
        cost = timed_cost(run)
        name = run.cost.layers_of(next(iter(cost.sizes)))[0]
        clock = cost.layers[name].clock
        told = {outputs: float(clock.ms(form_parts([DENSE]), 3, outputs)[0]) for outputs in (8, 4)}
        assert clock.behind == pytest.approx(5.0 / 8)
        assert told[8] - told[4] >= 2.5


def test_time_that_folding_saves_counts_towards_the_speedup(narrow, machine):
    timed = machine(overhead=0.0, folding=1.5)
    report = onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(speedup=2.1).budget())).report
    assert 2.1 * 0.97 <= timed[-1] <= 2.1 * 1.05
    assert 1.3 < report.macs.ratio < 1.6
    assert any(note.subject == "folding" and "1.50x faster" in note.text for note in report.notes)


def test_where_folding_alone_is_enough_nothing_is_removed(narrow, machine):
    machine(overhead=0.0, folding=1.5)
    report = onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(speedup=1.4).budget())).report
    assert report.macs.ratio == 1
    assert not any("NOTHING REMOVED" in warning for warning in report.warnings)
    assert report.divergence[0].relative_error < 1e-5


def test_a_smaller_input_is_refused_where_no_picture_can_be_resized_also_if_folding_is_enough(narrow, machine):
    machine(overhead=0.0, folding=1.5)
    options = replace(QUICK, input_size="auto", budget=BudgetOptions(speedup=1.4).budget())
    with pytest.raises(UsageError, match="--input-size auto"):
        onnxprune.prune(narrow, options=options)


def test_a_trial_of_a_search_is_whole_where_folding_is_enough(narrow, machine):
    machine(overhead=0.0, folding=1.5)
    options = replace(QUICK, bench=False, budget=BudgetOptions(speedup=1.4).budget())
    with pipeline.opened(narrow, None, options, silent, choosing=True) as run:
        assert pipeline.prune_opened(run, rehearsal=True).report.macs.ratio == 1


@pytest.mark.parametrize(
    ("ratio", "low", "high", "folding"),
    [(1.04, 1.03, 1.05, 1), (1.2, 1.02, 1.4, 1), (0.9, 0.7, 1.1, 1), (2.4, 2.3, 2.5, 2.4), (0.8, 0.7, 0.9, 0.8)],
)
def test_a_difference_that_may_be_chance_is_not_said_to_be_folding(narrow, monkeypatch, ratio, low, high, folding):
    one = Latency(1.0, 1.0, 9, 1.0)
    monkeypatch.setattr(Bench, "timing", lambda *_, **__: Timing(one, one, ratio, low, high, "CPU", 1, 1, 3))
    with prepare(narrow, None, QUICK, silent) as run:
        assert Bench(run).folding == folding


def test_what_cannot_be_reached_is_said(narrow, machine):
    machine(overhead=100.0)
    with pytest.raises(PlanError, match="out of reach") as caught:
        onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(speedup=3).budget()))
    assert "\n" not in str(caught.value)


def test_what_is_fast_enough_is_said(narrow, machine):
    machine(overhead=0.0)
    with pytest.raises(PlanError, match="meets the budget"):
        onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(latency_ms=1000).budget()))


def test_a_network_of_planned_sizes_has_the_parameters_of_the_plan(narrow, machine, monkeypatch):
    seen: list[tuple[int, int]] = []
    machine(overhead=0.0)
    timing = Bench.timing

    def counted(bench, assignment, **options):
        net = bench._sized(assignment)
        onnx.checker.check_model(net.to_model(), full_check=True)
        seen.append((net.parameters(), bench._run.cost.params(assignment)))
        return timing(bench, assignment, **options)

    monkeypatch.setattr(Bench, "timing", counted)
    onnxprune.prune(narrow, options=replace(QUICK, budget=BudgetOptions(speedup=1.7).budget()), dry_run=True)
    assert seen
    assert all(found == planned for found, planned in seen)


def test_a_run_that_goes_on_times_nothing_again(narrow, machine, tmp_path):
    timed = machine(overhead=1.0)
    options = replace(QUICK, budget=BudgetOptions(speedup=1.5).budget(), cache_dir=tmp_path)
    first = onnxprune.prune(narrow, options=options)
    before = len(timed)
    second = onnxprune.prune(narrow, options=options)
    assert len(timed) == before
    assert first.model.SerializeToString() == second.model.SerializeToString()
    onnxprune.prune(narrow, options=replace(options, bench_batch=2))
    assert len(timed) > before


def test_contradictions_are_one_line():
    with pytest.raises(UsageError, match="--speedup and --latency-ms"):
        BudgetOptions(speedup=2, latency_ms=3).budget()
    with pytest.raises(UsageError, match="--latency-ms must be above 0"):
        BudgetOptions(latency_ms=0).budget()
