"""Report of a run, made from the prepared run and its `Outcome`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.commands.record import Change, Report
from onnxprune.commands.rows import layer_rows
from onnxprune.engine.drop import damage, estimate, losses
from onnxprune.engine.evaluation import name_of
from onnxprune.note import Note
from onnxprune.planning import Assignment
from onnxprune.steps.rows import Rows, few_samples

if TYPE_CHECKING:
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.options.budget import Budget
    from onnxprune.options.run import Options
    from onnxprune.planning import Explanation, Plan
    from onnxprune.recovery.record import Recovery
    from onnxprune.steps.fit import SiteOutcome
    from onnxprune.steps.prepare import Prepared

__all__ = ["Outcome", "budget_text", "report"]

_MISSED = 0.03  # share of the target speed-up by which a latency budget may be missed without a warning


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Results of a run, for its report.

    Attributes:
        assignment: assignment that was carried out, or planned.
        plan: plan that was carried out; None for a budget.
        dry_run: True if the run only planned.
        fits: quality of the fit per site name.
        notes: remarks of the steps.
        explanation: reasons of the plan.
        recovery: record of the training.
        file_bytes: size of the model in bytes.
        divergence: difference of the outputs from the original's on held-out inputs.
        evaluation: values of the user's own measure.
        timing: latency before and after.
        returned: the reason if the result is the unchanged original; else empty.
        warnings: further warnings.
    """

    assignment: Assignment
    plan: Plan | None = None
    dry_run: bool = False
    fits: Mapping[str, SiteOutcome] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    explanation: Explanation | None = None
    recovery: Recovery | None = None
    file_bytes: Change | None = None
    divergence: tuple[OutputDivergence, ...] = ()
    evaluation: Evaluation | None = None
    timing: Timing | None = None
    returned: str = ""
    warnings: tuple[str, ...] = ()


def budget_text(options: Options, plan: Plan | None) -> str:
    """Return the budget in words."""
    return options.budget.text if plan is None else f"as planned ({plan.budget or 'a plan file'})"


def report(run: Prepared, outcome: Outcome) -> Report:
    """Make the record of a run."""
    cost, options, plan, timing = run.cost, run.options, outcome.plan, outcome.timing
    macs = Change(run.before.macs(), cost.macs(outcome.assignment))
    notes = outcome.notes
    if plan is not None and plan.nominal is not None:
        notes = (Note("plan", f"calls itself {plan.nominal:g}x; this is {macs.ratio:.2f}x fewer MACs"), *notes)
    described = run.inputs.calibration.description
    fitted = [Rows(name, fit.samples, fit.columns) for name, fit in outcome.fits.items()]
    damaged = damage(outcome.divergence, "held-out", trained=outcome.recovery is not None)
    sure = estimate(losses(outcome.divergence), options.allowed_drop)
    told = (
        damaged,
        sure,
        described.get("warning"),
        few_samples(fitted, len(run.inputs.fit)),
        outcome.returned or _unchanged(run, outcome),
        *outcome.warnings,
        timing.warning if timing else "",
        _missed(options.budget, timing) if timing and plan is None else "",
    )
    params = run.network.params
    return Report(
        version=__version__,
        model=run.network.parts.label,
        dry_run=outcome.dry_run,
        budget=budget_text(options, plan),
        options=_options(options, run.positions.points),
        data={**described, **run.inputs.parts.counts},
        provider=run.engine.provider,
        threads=options.engine.threads or 0,
        notes=(*run.network.notes, *notes),
        warnings=tuple(str(warning) for warning in told if warning),
        damaged=bool(damaged),
        estimate=bool(sure),
        picture=run.network.picture,
        fed_smaller=run.network.picture is not None and options.feeds_smaller,
        layers=layer_rows(run, outcome.assignment, outcome.fits),
        macs=macs,
        params=Change(params, params if outcome.returned else cost.params(outcome.assignment)),
        file_bytes=outcome.file_bytes,
        divergence=outcome.divergence,
        evaluation=outcome.evaluation,
        timing=timing,
        returned=bool(outcome.returned),
        explanation=outcome.explanation,
        recovery=outcome.recovery,
        seconds=run.clock.seconds,
    )


def _unchanged(run: Prepared, outcome: Outcome) -> str:
    """Return a warning if nothing was removed; else empty."""
    sizes, done = run.cost.sizes, outcome.assignment
    fewer = done.forms or any(count < sizes[name] for name, count in done.counts.items())
    if outcome.plan is not None or run.whole or run.network.picture is not None or fewer:
        return ""
    align = run.options.alignment
    return f"NOTHING REMOVED: with --align {align} every group stays whole; ask for more, or try --align 1"


def _missed(budget: Budget, timing: Timing) -> str:
    """Return a warning if the result certainly misses a latency budget by more than 3 %; else empty."""
    asked = timing.before.quiet_ms / budget.ms if budget.ms is not None else 1 / budget.fraction
    if budget.unit != "latency" or timing.ratio_high >= asked * (1 - _MISSED):
        return ""
    return (
        f"TOO SLOW: {budget.text} was asked for, which is {asked:.2f}x faster than the original, and the result is "
        f"{timing.ratio:.2f}x faster [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]: plan again when nothing else "
        "runs"
    )


def _options(options: Options, points: int | None) -> dict[str, object]:
    """Return the options of a run, one record per group, with defaults filled in; `points`: positions per layer."""
    groups: dict[str, Any] = {}
    for name, group in options.groups().items():
        groups[name] = None if group is None else asdict(group)
    groups["plan"] |= {"recipe": options.recipe_used, "align": options.alignment}
    groups["inputs"] |= {"memory": options.memory_bytes, "points": points}
    # JSON has no infinity.
    strengths = [strength if math.isfinite(strength) else "infinite" for strength in options.refit.strengths]
    groups["refit"] |= {"strengths": strengths}
    return {
        **groups,
        "effort": options.effort,
        "max_drop": options.max_drop,
        "outputs": dict(options.outputs),
        "evaluate": None if options.evaluate is None else name_of(options.evaluate),
    }
