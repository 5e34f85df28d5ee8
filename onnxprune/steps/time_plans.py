"""Planning to a latency budget: by the clocks of layers, corrected by the measured times of whole networks.

Times do not depend on weights, so a network of the planned sizes tells how fast the plan is before a single weight
is fitted. A plan whose time is near the budget is timed again, for longer, and only the second time counts: the best of
several uncertain numbers is biased. The speed-up is certain if the machine was idle and the confidence interval of
its measurement does not reach below 97 % of the target; else it is reported as an estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxprune.engine.timing import BUSY
from onnxprune.errors import OutOfReachError, PlanError
from onnxprune.note import Note
from onnxprune.planning import Assignment, Plan, search
from onnxprune.steps.bench import Bench, machine
from onnxprune.steps.form_curves import FormOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.cache import Checkpoint
    from onnxprune.planning.sensitivity import PredictedErrors
    from onnxprune.steps.curves import Curves
    from onnxprune.steps.prepare import Prepared


__all__ = ["plan_by_latency"]

_MOST_PLANS = 8
_TOLERANCE = 0.03  # share of the target speed-up
_CLOSE = 1.004  # ratio of two speed-ups by the clocks that are too close for another plan
_NUMBERS = ("asked", "predicted", "reached", "low", "high", "stretch")  # fields of `_Tried` in the checkpoint


def plan_by_latency(
    run: Prepared, curves: Curves, droppable: Sequence[str] = (), *, roughly: bool = False
) -> tuple[Assignment, tuple[Note, ...]]:
    """Plan by the clocks, time a network of the planned sizes, and repeat until the target speed-up is reached.

    The plan is kept in the cache, so that a continued run times no other one.

    Args:
        run: the prepared run, its cost model with clocks.
        curves: errors of removals and forms.
        droppable: groups of residual branches that may be removed.
        roughly: time every plan only once, also those near the target, and keep nothing in the cache.

    Returns:
        The assignment, and a note on the measurement.

    Raises:
        PlanError: the original is fast enough.
        OutOfReachError: no plan is fast enough.
    """
    if not (curves.rankings or curves.candidates):
        return Assignment(), ()
    options = run.options
    if roughly:
        found = _raced(run, curves.errors, Bench(run), droppable, twice=False)
        return found.assignment, (Note("latency", str(found)),)
    names, spread = (tuple(curves.rankings), tuple(curves.candidates)), (options.budget, options.allocation, droppable)
    asked = options.select, FormOptions.of(options), options.sensitivity
    checkpoint = run.cache.checkpoint("plan", names, asked, *spread, *machine(run))
    kept = _load(run, checkpoint)
    if kept is None:
        kept = _raced(run, curves.errors, Bench(run), droppable, twice=True)
        _save(run, checkpoint, kept)
    return kept.assignment, (Note("latency", str(kept)),)


@dataclass(frozen=True)
class _Tried:
    """Timed plan.

    Attributes:
        assignment: the plan.
        plans: number of plans timed.
        asked: target speed-up.
        predicted: speed-up by the clocks of layers.
        reached: measured speed-up.
        low: lower end of the 95 % confidence interval of `reached`.
        high: upper end of the 95 % confidence interval of `reached`.
        stretch: time of a run divided by its time on an idle machine, see `Timing`.
    """

    assignment: Assignment
    plans: int
    asked: float
    predicted: float
    reached: float
    low: float
    high: float
    stretch: float

    @property
    def near(self) -> bool:
        """Whether the plan is so near the target that the error of the measurement decides about it."""
        return self.asked * (1 - _TOLERANCE) <= self.reached <= self.asked * (1 + 2 * _TOLERANCE)

    def __str__(self) -> str:
        slower = f" beside other programs (a run takes {self.stretch:.1f} times as long as alone)"
        busy = slower if self.stretch > BUSY else ""
        measured = (
            f"{self.plans} plans timed{busy}: the one taken is {self.reached:.2f}x faster "
            f"[{self.low:.2f}, {self.high:.2f}], predicted {self.predicted:.2f}x"
        )
        if self.low >= self.asked * (1 - _TOLERANCE) and not busy:
            return measured
        return f"{measured}; AN ESTIMATE: {self.asked:.2f}x is not certain, plan again on an idle machine"


def _raced(run: Prepared, errors: PredictedErrors, bench: Bench, droppable: Sequence[str], *, twice: bool) -> _Tried:
    options, cost = run.options, run.cost
    budget, before = options.budget, bench.before_ms
    asked = before / budget.ms if budget.ms is not None else 1 / budget.fraction
    if asked <= 1:
        raise PlanError(f"{budget.text}: the original takes {before:.3g} ms and meets the budget: nothing to prune")
    tried: list[_Tried] = []
    wanted, within, beyond = asked / run.folding, 1.0, math.inf  # by the clocks: too slow, and fast enough
    while len(tried) < _MOST_PLANS:
        run.progress("time plans", len(tried), _MOST_PLANS)
        limit = replace(budget, fraction=run.before.latency() / (wanted * cost.latency()))
        try:
            planned = search(
                cost,
                errors.weighted,
                limit,
                allocation=options.allocation,
                align=options.alignment,
                droppable=droppable,
            )
        except OutOfReachError:
            if not tried:
                raise
            break
        predicted = run.folding * run.before.latency() / cost.latency(planned)
        tried.append(_timed(bench, predicted, planned, asked, len(tried) + 1, twice=twice))
        if asked <= tried[-1].reached <= asked * (1 + _TOLERANCE):
            break
        within, beyond = (wanted, beyond) if tried[-1].reached < asked else (within, wanted)
        if beyond / within < _CLOSE:
            break
        wanted *= asked * (1 + _TOLERANCE / 2) / tried[-1].reached
        if not within < wanted < beyond:
            wanted = math.sqrt(within * beyond) if beyond < math.inf else within * (1 + _TOLERANCE)
    run.progress("time plans", _MOST_PLANS, _MOST_PLANS)
    enough = [one for one in tried if one.reached >= asked * (1 - _TOLERANCE)]
    if not enough:
        most = max(tried, key=lambda one: one.reached)
        busy = ", timed beside other programs: try again on an idle machine" if most.stretch > BUSY else ""
        raise OutOfReachError(
            f"{budget.text} is out of reach: the fastest of {len(tried)} plans was {most.reached:.2f}x faster{busy}"
        )
    return replace(min(enough, key=lambda one: one.reached), plans=len(tried))


def _timed(bench: Bench, predicted: float, assignment: Assignment, asked: float, plans: int, *, twice: bool) -> _Tried:
    """Time a network of the planned sizes; with `twice`, again for longer if the first time is near the target."""
    for again in (False, True)[: 1 + twice]:
        timing = bench.timing(assignment, again=again)
        reached = timing.ratio, timing.ratio_low, timing.ratio_high
        tried = _Tried(assignment, plans, asked, predicted, *reached, timing.stretch)
        if not tried.near:
            break
    return tried


def _save(run: Prepared, checkpoint: Checkpoint, found: _Tried) -> None:
    numbers = {name: getattr(found, name) for name in ("plans", *_NUMBERS)}
    checkpoint.save("plan", {}, {"plan": Plan.of(run.channels, found.assignment).to_dict(), **numbers})


def _load(run: Prepared, checkpoint: Checkpoint) -> _Tried | None:
    saved = checkpoint.load("plan")
    try:
        if saved is None:
            return None
        plan = Plan.from_dict(saved.facts.pop("plan"))
        return _Tried(plan.assignment(run.channels), **saved.facts)
    except (AttributeError, KeyError, TypeError, PlanError):
        return None
