"""State of a run before the compression, and its report at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune._version import __version__
from onnxprune.commands.record import Change, Report
from onnxprune.commands.rows import layer_rows
from onnxprune.engine.drop import damage, estimate, losses
from onnxprune.engine.evaluation import name_of
from onnxprune.note import Note
from onnxprune.steps.rows import Rows, few_samples

if TYPE_CHECKING:
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.graph.channels.forms import Form
    from onnxprune.options.budget import Budget
    from onnxprune.options.run import Options
    from onnxprune.planning import Explanation, Plan
    from onnxprune.planning.cost import CostModel
    from onnxprune.recovery.record import Recovery
    from onnxprune.steps.fit import SiteOutcome
    from onnxprune.steps.workload import Inputs, Workload

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Started", "Stopwatch"]

_MISSED = 0.03  # share of the target speed-up by which a latency budget may be missed without a warning


class Stopwatch:
    """Wall time of named stages: ``with clock("probe"): ...``."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        """Continue from ``seconds``, the times of earlier stages."""
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Started:
    """State of a run; ``params`` is the number of parameters of the original before folding."""

    model: str
    work: Workload
    cost: CostModel
    params: int
    skipped: Mapping[str, str]
    notes: tuple[Note, ...]
    options: Options
    inputs: Inputs
    clock: Stopwatch = field(default_factory=Stopwatch)

    def budget(self, plan: Plan | None) -> str:
        """Return the budget in words."""
        return self.options.budget.text if plan is None else f"as planned ({plan.budget or 'a plan file'})"

    def report(
        self,
        keep: Mapping[str, int],
        forms: Mapping[str, Form],
        plan: Plan | None,
        outcomes: Mapping[str, SiteOutcome] | None = None,
        *,
        dry_run: bool = False,
        notes: tuple[Note, ...] = (),
        explanation: Explanation | None = None,
        recovery: Recovery | None = None,
        file_bytes: Change | None = None,
        divergence: tuple[OutputDivergence, ...] = (),
        evaluation: Evaluation | None = None,
        timing: Timing | None = None,
        returned: str = "",
        warnings: tuple[str, ...] = (),
    ) -> Report:
        """Make the record of the run; ``returned`` is the reason if its result is the original."""
        outcomes = outcomes or {}
        work, cost = self.work, self.cost
        macs = Change(cost.macs({}), cost.macs(keep, forms))
        if plan is not None and plan.nominal is not None:
            notes = (Note("plan", f"calls itself {plan.nominal:g}x; this is {macs.ratio:.2f}x fewer MACs"), *notes)
        described = self.inputs.calibration.description
        fitted = [Rows(name, outcome.samples, outcome.columns) for name, outcome in outcomes.items()]
        damaged = damage(divergence, "held-out", trained=recovery is not None)
        sure = estimate(losses(divergence), self.options.max_drop) if self.options.evaluate is None else ""
        told = (
            damaged,
            sure,
            described.get("warning"),
            few_samples(fitted, len(self.inputs.fit)),
            returned or self._unchanged(keep, forms, plan),
            *warnings,
            timing.warning if timing else "",
            _missed(self.options.budget, timing) if timing and plan is None else "",
        )
        return Report(
            version=__version__,
            model=self.model,
            dry_run=dry_run,
            budget=self.budget(plan),
            options=_options(self.options, work.positions.points),
            data={**described, **self.inputs.parts.counts},
            provider=work.engine.provider,
            threads=self.options.engine.threads or 0,
            notes=(*self.notes, *notes),
            warnings=tuple(str(warning) for warning in told if warning),
            damaged=bool(damaged),
            estimate=bool(sure),
            layers=layer_rows(work.net, work.channels, cost, keep, forms, outcomes, self.skipped),
            macs=macs,
            params=Change(self.params, self.params if returned else cost.params(keep, forms)),
            file_bytes=file_bytes,
            divergence=divergence,
            evaluation=evaluation,
            timing=timing,
            returned=bool(returned),
            explanation=explanation,
            recovery=recovery,
            seconds=self.clock.seconds,
        )

    def _unchanged(self, keep: Mapping[str, int], forms: Mapping[str, Form], plan: Plan | None) -> str:
        """Return a warning if nothing was removed; else empty."""
        sizes = {group.name: group.size for group in self.work.channels.prunable}
        if plan is not None or forms or any(count < sizes[name] for name, count in keep.items()):
            return ""
        align = self.options.alignment
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
