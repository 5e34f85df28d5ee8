"""The main job, as a sequence of stages: load, fold, probe, decide, compress, verify, time, recover."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.commands.idle import check_options
from onnxprune.commands.record import Change, Report
from onnxprune.commands.result import ModelResult
from onnxprune.commands.started import Started, Stopwatch
from onnxprune.engine.batching import group_batches, sample_shapes
from onnxprune.engine.drop import expected_estimate
from onnxprune.engine.evaluation import Evaluator
from onnxprune.engine.providers import unused
from onnxprune.engine.timing import interleaved
from onnxprune.errors import LostTooMuchError, PlanError, VerifyError
from onnxprune.graph.model.load import read_model
from onnxprune.graph.model.patterns import meant
from onnxprune.graph.model.save import finished_model
from onnxprune.note import Note, warn
from onnxprune.options.budget import Budget
from onnxprune.planning import Plan
from onnxprune.planning.cost import cost_model
from onnxprune.progress import Progress, silent
from onnxprune.steps.cache import Cache
from onnxprune.steps.compress import Compressed, compress
from onnxprune.steps.decide import Decision, counted, decide
from onnxprune.steps.eligible import eligible_groups, nothing_to_prune
from onnxprune.steps.fit_order import plan_steps
from onnxprune.steps.prepare import open_inputs, prepared, workload
from onnxprune.steps.room import Room
from onnxprune.steps.rows import expected_rows, few_inputs
from onnxprune.steps.time_layers import timed_cost
from onnxprune.steps.verify import (
    check_drop,
    check_loading,
    check_removal,
    check_rewritten,
    compare_outputs,
    first_difference,
)
from onnxprune.steps.workload import Inputs, Workload
from onnxprune.torchnet import has_torch, require_torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.graph.channels.forms import Form
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.options.run import Options
    from onnxprune.planning.cost import CostModel
    from onnxprune.recovery.record import Recovery

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Job", "Result", "opened", "run"]


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


def run(
    source: onnx.ModelProto | bytes | str | os.PathLike[str],
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
    shown = replace(options, evaluate=None) if dry_run else options  # a plan cannot be measured
    with opened(source, data, shown, progress, must_prune=not (plan or dry_run), timed=plan is None) as job:
        return job.run(options, plan=plan, dry_run=dry_run)


@contextmanager
def opened(
    source: onnx.ModelProto | bytes | str | os.PathLike[str],
    data: CalibrationSource | None,
    options: Options,
    progress: Progress,
    *,
    must_prune: bool = True,
    timed: bool = True,
    choosing: bool = False,
) -> Iterator[Job]:
    """Prepare a model; the returned job can be pruned to several budgets without loading or sampling again.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: options of all runs of the job.
        progress: callback (stage, done, total, detail).
        must_prune: raise an error if no channel can be removed and no layer decomposed.
        timed: time the layers if the budget limits latency.
        choosing: set inputs apart to choose between results by; with ``options.recover`` they always are.

    Raises:
        PlanError: there is nothing to prune, and `must_prune`.
        OnnxPruneError: the model or the inputs cannot be used.
    """
    clock = Stopwatch()
    if options.recover is not None:
        require_torch()
    with clock("load"):
        original, label = read_model(source)
        net, notes, params = prepared(original, label)
        inputs = open_inputs(source, data, net, options, choosing=choosing or options.recover is not None)
    warn(expected_estimate(inputs.outputs.values(), len(inputs.held), options.max_drop, "held-out"))
    with workload(net, inputs, options, progress) as work:
        groups, skipped = eligible_groups(
            work.net, work.channels, options.include, options.exclude, Room(work.memory).solving
        )
        uses = options.uses
        if uses.prune and must_prune and not (groups or uses.spatial):
            raise PlanError(nothing_to_prune(work.channels, skipped))
        with clock("load"):
            check_loading(work.engine, original, work.net, inputs.calibration, work.batches[0])
        passed_over = unused(options.engine, work.engine.providers)
        notes += (Note("provider", passed_over),) if passed_over else ()
        cost = cost_model(work.net, work.channels, sample_shapes(inputs.calibration, inputs.specs))
        readers = dict.fromkeys(name for group in groups for name in group.consumers)
        warn(few_inputs(expected_rows(work, cost, readers), len(inputs.fit)))
        cache = Cache(options, original, inputs)
        evaluator = None
        if options.evaluate is not None:
            with clock("evaluate"):
                evaluator = Evaluator.open(options.evaluate, original, inputs.specs, work.engine)
        if options.budget.unit == "latency" and timed:
            with clock("time layers"):
                cost = timed_cost(work, cost, inputs, options, cache)
        started = Started(label, work, cost, params, skipped, notes, options, inputs, clock)
        yield Job(original, started, groups, cache, evaluator)


@dataclass(frozen=True)
class Job:
    """Prepared model and inputs, to be pruned to any budget.

    Attributes:
        original: the model as read.
        started: network, inputs and costs, for the report.
        groups: groups that may lose channels.
        cache: storage of finished steps.
        evaluator: the user's own measure with its value for the original; None without one.
    """

    original: onnx.ModelProto
    started: Started
    groups: tuple[ChannelGroup, ...]
    cache: Cache
    evaluator: Evaluator | None = None

    def run(
        self, options: Options, *, plan: Plan | None = None, dry_run: bool = False, rehearsal: bool = False
    ) -> Result:
        """Prune the model to one budget, or by a plan.

        Args:
            options: the options that the job was opened with, except for budget, refit, largest drop and bench.
            plan: plan to carry out instead of a budget.
            dry_run: return the plan without a model.
            rehearsal: verify on the inputs to choose by instead of the held-out ones.

        Raises:
            PlanError: no plan meets the budget, or the plan does not fit the model.
            VerifyError: the result failed its verification, or loses more than ``options.max_drop``.
        """
        started = replace(self.started, options=options, clock=Stopwatch(self.started.clock.seconds))
        work, cost, inputs, clock = started.work, started.cost, started.inputs, started.clock
        groups = self.groups if options.uses.prune or plan else ()
        with clock("probe"):
            decided = decide(work, cost, groups, started.skipped, plan, options, inputs, self.cache)
        keep = decided.keep
        if not (keep or decided.forms or plan or dry_run):
            raise PlanError(f"--recipe {options.recipe_used}: no layer can be decomposed; see `onnxprune inspect`")
        planned = partial(Plan.from_keep, work.channels, keep, model=started.model, budget=started.budget(plan))
        if dry_run:
            report = started.report(
                keep,
                decided.forms,
                plan,
                dry_run=True,
                notes=(*decided.notes, *self.cache.notes()),
                explanation=decided.explanation,
            )
            return Result(None, planned(decided.kept, decided.forms), report)
        with clock("compress"):
            compressed = _compressed(work, cost, decided, plan, options, self.cache)
        forms = compressed.forms
        if compressed.net.parameters() != cost.params(keep, forms):
            raise AssertionError(f"{compressed.net.parameters()} parameters, planned {cost.params(keep, forms)}")
        with clock("verify"):
            samples = inputs.choose if rehearsal else inputs.held
            model, divergence = _verified(
                work, self.original, compressed, inputs, samples, options, rehearsal=rehearsal
            )
        evaluation = None if options.recover is not None else self._evaluated(model, options, clock)
        with clock("bench"):
            timings = _timings(work, self.original, model, inputs, options) if options.bench else ()
        slower = _slower(timings, cost.macs({}) / cost.macs(keep, forms))
        if slower and plan is None and options.budget.unit == "latency":
            return self._returned(started, slower)
        recovery = None
        if options.recover is not None:
            with clock("recover"):
                model, recovery = _recovered(work, compressed, inputs, options, self.cache)
                divergence = recovery.after
            evaluation = self._evaluated(model, options, clock)
        report = started.report(
            keep,
            forms,
            plan,
            compressed.outcomes,
            notes=(*decided.notes, *(recovery.notes if recovery else ()), *self.cache.notes()),
            explanation=decided.explanation,
            recovery=recovery,
            file_bytes=Change(self.original.ByteSize(), model.ByteSize()),
            divergence=divergence,
            evaluation=evaluation,
            timing=timings[-1] if timings else None,
            warnings=(f"SLOWER: {slower}; give --speedup, a budget in time",) if slower else (),
        )
        return Result(model, planned(compressed.kept, forms), report)

    def _evaluated(self, model: onnx.ModelProto, options: Options, clock: Stopwatch) -> Evaluation | None:
        """Evaluate the user's own measure and check it against the largest drop; None if there is no measure."""
        if self.evaluator is None:
            return None
        with clock("evaluate"):
            found = self.evaluator.of(model)
        try:
            found.check(options.max_drop)
        except LostTooMuchError as error:
            raise LostTooMuchError(f"{error}; nothing was written") from error
        return found

    def _returned(self, started: Started, slower: str) -> Result:
        """Make the result of a time budget for which nothing faster was found: the original."""
        size = self.original.ByteSize()
        report = started.report(
            {},
            {},
            None,
            returned=f"RETURNED UNCHANGED: {slower}, so the result is the original",
            file_bytes=Change(size, size),
            evaluation=None if self.evaluator is None else self.evaluator.unchanged(),
        )
        return Result(self.original, Plan((), started.model, started.budget(None)), report)


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


def _compressed(
    work: Workload, cost: CostModel, decided: Decision, plan: Plan | None, options: Options, cache: Cache
) -> Compressed:
    keep, forms = decided.keep, decided.forms
    by_name = {group.name: group for group in work.channels.prunable}
    branches = [cost.branches[name] for name, count in keep.items() if count == 0]
    shrinking = [by_name[name] for name, count in keep.items() if 0 < count < by_name[name].size]
    stay = meant(options.exclude, work.channels.sites)
    excluded = [name for name in work.channels.sites if name in stay]
    steps = plan_steps(
        work.net,
        work.order,
        work.channels,
        shrinking,
        downstream=options.refit.downstream and options.refit.refit != "none",
        frozen=[*excluded, *work.forbidden],
        reformed=forms,
        branches=branches,
    )
    rows = work.memory if options.refit.refit == "auto" else None  # memory limits the raw samples that are held
    counts = sorted(keep.items()), sorted(forms.items())
    asked = options.select, options.refit
    depends = (*asked, excluded, sorted(work.forbidden), rows, *counts)
    checkpoint = cache.checkpoint("compress", *depends, plan)

    def settle(found: Mapping[str, Form]) -> Mapping[str, Form]:
        return cost.settled(keep, found, counted(options))

    return compress(work, steps, keep, decided.kept, forms, branches, settle, options.select, options.refit, checkpoint)


def _verified(
    work: Workload,
    original: onnx.ModelProto,
    compressed: Compressed,
    inputs: Inputs,
    samples: Indices,
    options: Options,
    *,
    rehearsal: bool,
) -> tuple[onnx.ModelProto, tuple[OutputDivergence, ...]]:
    batches = group_batches(samples, inputs.specs, len(work.batches[0].samples))
    check_removal(work, compressed.alive, batches[0])
    model = finished_model(compressed.net)
    if compressed.net is not compressed.dense:
        check_rewritten(work.engine, compressed.dense, model, inputs.calibration, batches[0])
    try:
        divergence = compare_outputs(work.engine, original, model, inputs, batches, work.progress)
        if options.recover is None:  # else the drop is checked after the training
            check_drop(divergence, _allowed(options))
    except VerifyError as error:
        left = compressed.net.tensors().keys()
        place = None
        if not rehearsal:
            place = first_difference(work, compressed.dense, work.net, compressed.alive, batches[0], among=left)
        where = f"; the first tensor that diverges is '{place.name}'" if place else ""
        raise type(error)(f"{error}{where}; nothing was written") from error
    return model, divergence


def _recovered(
    work: Workload, compressed: Compressed, inputs: Inputs, options: Options, cache: Cache
) -> tuple[onnx.ModelProto, Recovery]:
    """Train the network on the original's outputs, and check it against the largest drop."""
    from onnxprune.recovery.distil import recovered  # needs torch, an optional dependency

    assert options.recover is not None
    digest = hashlib.sha256(compressed.net.to_model().SerializeToString(deterministic=True)).hexdigest()
    model, record = recovered(
        work.net,
        compressed.net,
        inputs,
        work.engine,
        options.recover,
        options.data,
        memory=options.memory_bytes,
        folder=cache.checkpoint("recover", options.recover, digest, options.engine.threads).folder,
        progress=work.progress,
    )
    try:
        check_drop(record.after, _allowed(options))
    except VerifyError as error:
        raise type(error)(f"{error}; nothing was written") from error
    return model, record


def _allowed(options: Options) -> float | None:
    """Return the largest drop allowed of the outputs; None if the user's own measure decides instead."""
    return options.max_drop if options.evaluate is None else None


def _timings(
    work: Workload, original: onnx.ModelProto, model: onnx.ModelProto, inputs: Inputs, options: Options
) -> tuple[Timing, ...]:
    """Measure the latency once, and again if the result is slower: a disturbance may last as long as one measurement.

    The feeds are held-out inputs, repeated to fill the bench batch.
    """
    work.progress("measure latency", 0, 1)
    batch = group_batches(np.resize(inputs.held, options.bench_batch), inputs.specs, options.bench_batch)[0]
    before = work.engine.session(original, label="the original")
    after = work.engine.session(model, label="the result")
    feeds = inputs.calibration.load(batch.samples)
    timings = [interleaved(before, after, feeds, seed=options.seed)]
    if timings[0].slower:
        timings.append(interleaved(before, after, feeds, seed=options.seed + 1))
    work.progress("measure latency", 1, 1)
    return tuple(timings)
