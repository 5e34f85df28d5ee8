"""Prune: load, prepare, measure error curves, decide, compress, verify, time, recover, report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxprune.commands.idle import check_options
from onnxprune.commands.pictures import Chosen, best_picture, fed_smaller, folding_is_enough, small_feeds
from onnxprune.commands.record import Change, Report
from onnxprune.commands.reporting import Outcome, budget_text, report
from onnxprune.commands.result import ModelResult
from onnxprune.engine.drop import expected_estimate
from onnxprune.engine.evaluation import Evaluator
from onnxprune.engine.inputs import input_specs
from onnxprune.engine.providers import unused
from onnxprune.engine.timing import interleaved
from onnxprune.errors import LostTooMuchError, PlanError, VerifyError
from onnxprune.graph.model.save import finished_model
from onnxprune.note import Note, warn
from onnxprune.options.budget import Budget
from onnxprune.planning import Assignment, Plan
from onnxprune.progress import Progress, silent
from onnxprune.steps.bench import Bench
from onnxprune.steps.compress import Compressed, compress
from onnxprune.steps.decide import decide
from onnxprune.steps.picture import resized
from onnxprune.steps.prepare import Prepared, prepare
from onnxprune.steps.rows import expected_rows, few_inputs
from onnxprune.steps.stopwatch import Stopwatch
from onnxprune.steps.time_layers import timed_cost
from onnxprune.steps.verify import check_drop, check_loading, verify
from onnxprune.torchnet import has_torch, require_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.options.run import Options
    from onnxprune.recovery.record import Recovery
    from onnxprune.steps.prepare import Source

__all__ = ["Result", "opened", "prune_opened", "run_prune"]


@dataclass(frozen=True)
class Result(ModelResult):
    """Result of a run: the pruned model, its plan and a report.

    Attributes:
        plan: channels kept per group and form per layer, as carried out; after a dry run, as planned, with the number
            of channels for each group that is not selected yet.
        report: record of the run.
    """

    plan: Plan
    report: Report

    @property
    def returned(self) -> bool:
        """Whether the model is the unchanged original, because nothing faster was found for a time budget."""
        return self.report.returned


def run_prune(
    source: Source,
    data: CalibrationSource | None,
    options: Options,
    *,
    plan: Plan | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Result:
    """Prune a model to the budget of its options, or by a plan.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: budget and all other options.
        plan: plan to carry out instead of a budget.
        dry_run: return the plan without a model.
        progress: callback (stage, done, total, detail).

    Raises:
        OnnxPruneError: any of the errors in `errors`; nothing was written.
    """
    check_options(options, plan)
    options = options.at_effort(torch=has_torch())
    if plan is not None and options.budget.unit == "latency":  # no layer is timed: the cost of a plan is its MACs
        options = replace(options, budget=Budget("macs", 1.0, "as planned"))
    measured = replace(options, evaluate=None) if dry_run else options  # a plan cannot be measured
    with opened(source, data, measured, progress, must_prune=not (plan or dry_run), timed=plan is None) as run:
        return prune_opened(replace(run, options=options), plan=plan, dry_run=dry_run)


@contextmanager
def opened(
    source: Source,
    data: CalibrationSource | None,
    options: Options,
    progress: Progress,
    *,
    must_prune: bool = True,
    timed: bool = True,
    choosing: bool = False,
) -> Iterator[Prepared]:
    """Prepare a model; the prepared run can be pruned to several budgets without loading or sampling again.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: options of all budgets.
        progress: callback (stage, done, total, detail).
        must_prune: raise an error if no channel can be removed and no layer decomposed.
        timed: time the layers if the budget limits latency.
        choosing: set inputs apart to choose between results by; with ``options.recover`` they always are.

    Raises:
        PlanError: there is nothing to prune, and `must_prune`.
        OnnxPruneError: the model or the inputs cannot be used.
    """
    if options.recover is not None:
        require_torch()
    with prepare(source, data, options, progress, choosing=choosing or options.recover is not None) as run:
        warn(expected_estimate(run.inputs.outputs.values(), len(run.inputs.held), options.allowed_drop, "held-out"))
        if options.uses.prune and must_prune and not (run.eligible.groups or options.uses.spatial):
            raise PlanError(run.eligible.nothing(run.channels))
        with run.clock("load"):
            check_loading(run)
        readers = dict.fromkeys(name for group in run.eligible.groups for name in group.consumers)
        warn(few_inputs(expected_rows(run, readers), len(run.inputs.fit)))
        notes = [*run.cost.notes]
        if run.fixed and all(spec.shape[0] is None for spec in input_specs(run.network.full)):
            notes.append(Note("batch", "the graph fixes it to one, the inputs do not: one sample is run at a time"))
        passed_over = unused(options.engine, run.engine.providers)
        if passed_over:
            notes.append(Note("provider", passed_over))
        run = replace(run, network=replace(run.network, notes=(*run.network.notes, *notes)))
        if options.evaluate is not None:
            with run.clock("evaluate"):
                measure = Evaluator.open(options.evaluate, run.network.parts.runnable(), run.inputs.specs, run.engine)
            run = replace(run, evaluator=measure)
        if options.budget.unit == "latency" and timed:
            with run.clock("time layers"):
                run = _folding_told(replace(run, cost=timed_cost(run), folding=Bench(run).folding))
        yield run


def _folding_told(run: Prepared) -> Prepared:
    """Add a note if folding alone changes the time of the network."""
    if run.folding == 1:
        return run
    told = f"alone makes the file as given {run.folding:.2f}x faster, which counts towards a budget in time"
    if run.folding < 1:
        told = f"alone makes the file as given {1 / run.folding:.2f}x slower, which a budget in time has to make up for"
    return replace(run, network=replace(run.network, notes=(*run.network.notes, Note("folding", told))))


def prune_opened(run: Prepared, *, plan: Plan | None = None, dry_run: bool = False, rehearsal: bool = False) -> Result:
    """Prune a prepared model to the budget of its options, or by a plan.

    Args:
        run: the prepared run; its options may differ from those it was opened with in budget, refit, largest drop and
            bench.
        plan: plan to carry out instead of a budget.
        dry_run: return the plan without a model.
        rehearsal: verify on the inputs to choose by instead of the held-out ones.

    Raises:
        PlanError: no plan meets the budget, or the plan does not fit the model.
        VerifyError: the result failed its verification, or loses more than ``options.max_drop``.
    """
    given = run = replace(run, clock=Stopwatch(run.clock.seconds))
    options, parts, clock = run.options, run.network.parts, run.clock
    chosen = Chosen(run)
    with clock("picture"):
        if plan is not None:
            chosen = Chosen(run if plan.picture is None else resized(run, plan.picture))
        elif not rehearsal or options.side is not None:
            chosen = best_picture(run)
        elif folding_is_enough(run):
            chosen = Chosen(replace(run, whole=True))
    run = chosen.run
    with clock("probe"):
        decided = decide(run, plan, chosen.curves)
    asked = decided.assignment
    if not (asked.channels or asked.forms or plan or dry_run or run.whole or run.network.picture):
        raise PlanError(f"--recipe {options.recipe_used}: no layer can be decomposed; see `onnxprune inspect`")
    if dry_run:
        notes = (*chosen.notes, *decided.notes, *run.cache.notes())
        found = Outcome(assignment=asked, plan=plan, dry_run=True, notes=notes, explanation=decided.explanation)
        return Result(None, _plan(run, asked, plan), report(run, found))
    with clock("compress"):
        compressed = compress(run, asked)
        other = chosen.instead_of(finished_model(compressed.net))
        if other is not None:
            chosen, run = other, other.run
            decided = decide(run)
            compressed = compress(run, decided.assignment)
    done = compressed.assignment
    if compressed.net.parameters() != run.cost.params(done):
        raise AssertionError(f"{compressed.net.parameters()} parameters, planned {run.cost.params(done)}")
    with clock("verify"):
        verified = verify(run, compressed, rehearsal=rehearsal)
    model, divergence = verified.model, verified.divergence
    evaluation = None if options.recover is not None else _evaluated(run, model)
    fed = run.network.picture is not None and options.feeds_smaller
    with clock("bench"):
        timings = _timings(run, fed_smaller(run, model) if fed else model, fed=fed) if options.bench else ()
    slower = _slower(timings, run.before.macs() / run.cost.macs(done))
    if slower and plan is None and options.budget.unit == "latency":
        return _returned(given, slower)
    recovery = None
    if options.recover is not None:
        with clock("recover"):
            model, recovery = _recovered(run, compressed)
        divergence, evaluation = recovery.after, _evaluated(run, model)
    model = parts.whole(fed_smaller(run, model) if fed else model)
    outcome = Outcome(
        assignment=done,
        plan=plan,
        fits=compressed.outcomes,
        notes=(*chosen.notes, *decided.notes, *(recovery.notes if recovery else ()), *run.cache.notes()),
        explanation=decided.explanation,
        recovery=recovery,
        file_bytes=Change(parts.whole().ByteSize(), model.ByteSize()),
        divergence=divergence,
        evaluation=evaluation,
        timing=timings[-1] if timings else None,
        warnings=(f"SLOWER: {slower}; give --speedup, a budget in time",) if slower else (),
    )
    return Result(model, _plan(run, done, plan), report(run, outcome))


def _plan(run: Prepared, assignment: Assignment, plan: Plan | None) -> Plan:
    found = Plan.of(run.channels, assignment, model=run.network.parts.label, budget=budget_text(run.options, plan))
    return replace(found, picture=run.network.picture)


def _evaluated(run: Prepared, model: onnx.ModelProto) -> Evaluation | None:
    """Evaluate the user's own measure and check it against the largest drop; None if there is no measure."""
    if run.evaluator is None:
        return None
    with run.clock("evaluate"):
        found = run.evaluator.of(run.network.parts.runnable(model))
    try:
        found.check(run.options.max_drop)
    except LostTooMuchError as error:
        raise LostTooMuchError(f"{error}; nothing was written") from error
    return found


def _returned(run: Prepared, slower: str) -> Result:
    """Make the result of a time budget for which nothing faster was found: the original."""
    original = run.network.parts.whole()
    outcome = Outcome(
        assignment=Assignment(),
        returned=f"RETURNED UNCHANGED: {slower}, so the result is the original",
        file_bytes=Change(original.ByteSize(), original.ByteSize()),
        evaluation=None if run.evaluator is None else run.evaluator.unchanged(),
    )
    return Result(original, _plan(run, Assignment(), None), report(run, outcome))


def _slower(timings: Sequence[Timing], fewer: float) -> str:
    """Describe how much slower than the original the result is; empty unless every measurement is certain of it.

    Args:
        timings: latency measurements of original and result.
        fewer: MACs of the original divided by MACs of the result.
    """
    if not timings or not all(timing.slower for timing in timings):
        return ""
    times = " and ".join(f"{t.ratio:.2f}x [{t.ratio_low:.2f}, {t.ratio_high:.2f}]" for t in timings)
    return (
        f"with {fewer:.2f}x fewer MACs the network is slower than the original ({times} of its speed, "
        f"{timings[0].provider}, batch {timings[0].batch})"
    )


def _recovered(run: Prepared, compressed: Compressed) -> tuple[onnx.ModelProto, Recovery]:
    """Train the network on the original's outputs, and check it against the largest drop."""
    from onnxprune.recovery.distil import recovered  # needs torch, an optional dependency

    training = run.options.recover
    assert training is not None
    digest = hashlib.sha256(compressed.net.to_model().SerializeToString(deterministic=True)).hexdigest()
    checkpoint = run.cache.checkpoint("recover", training, digest, run.options.engine.threads)
    teacher, student = run.network.full, compressed.net
    model, record = recovered(teacher, student, run.inputs, run.engine, run.options, checkpoint, run.progress)
    try:
        check_drop(record.after, run.options.allowed_drop)
    except VerifyError as error:
        raise type(error)(f"{error}; nothing was written") from error
    return model, record


def _timings(run: Prepared, model: onnx.ModelProto, *, fed: bool) -> tuple[Timing, ...]:
    """Measure the latency once, and again if the result is slower: a disturbance may last as long as one measurement.

    The feeds are held-out inputs, repeated to fill the bench batch, and made smaller if the model is `fed` smaller
    pictures.
    """
    run.progress("measure latency", 0, 1)
    parts = run.network.parts
    before = run.engine.session(parts.runnable(), label="the original")
    after = run.engine.session(parts.runnable(model), label="the result")
    feeds, seed = run.inputs.repeated(run.options.bench_batch), run.options.seed
    smaller = small_feeds(run, run.options.bench_batch) if fed else feeds
    timings = [interleaved(before, after, feeds, feeds_after=smaller, seed=seed)]
    if timings[0].slower:
        timings.append(interleaved(before, after, feeds, feeds_after=smaller, seed=seed + 1))
    run.progress("measure latency", 1, 1)
    return tuple(timings)
