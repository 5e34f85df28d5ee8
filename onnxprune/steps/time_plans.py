"""Planning to a latency budget: by the clocks of layers, corrected by the measured times of whole networks.

Times do not depend on weights, so a network of the planned sizes tells how fast the plan is before a single weight
is fitted. A plan whose time is near the budget is timed again, for longer, and only the second time counts: the best of
several uncertain numbers is biased. The speed-up is certain if the machine was idle and the confidence interval of
its measurement does not reach below 97 % of the target; else it is reported as an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.engine.timing import BUSY
from onnxprune.errors import OutOfReachError, PlanError
from onnxprune.graph.channels.forms import DENSE, Forms
from onnxprune.note import Note
from onnxprune.planning import Choice, search
from onnxprune.steps.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.forms import Form
    from onnxprune.options.run import Options
    from onnxprune.planning.cost import CostModel
    from onnxprune.steps.checkpoint import Checkpoint
    from onnxprune.steps.curves import Probed
    from onnxprune.steps.workload import Inputs, Workload


__all__ = ["plan_by_latency"]

_MOST_PLANS = 8
_TOLERANCE = 0.03  # share of the target speed-up
_NUMBERS = ("asked", "predicted", "reached", "low", "high", "stretch")  # fields of `_Tried` in the checkpoint


def plan_by_latency(
    work: Workload,
    cost: CostModel,
    probed: Probed,
    options: Options,
    inputs: Inputs,
    checkpoint: Checkpoint,
    droppable: Sequence[str] = (),
) -> tuple[dict[str, int], dict[str, Form], tuple[Note, ...]]:
    """Plan by the clocks, time a network of the planned sizes, and repeat until the target speed-up is reached.

    Args:
        work: the original and the inputs.
        cost: cost model of the original, with clocks.
        probed: errors of removals and forms.
        options: budget, allocation and alignment.
        inputs: inputs of the network.
        checkpoint: storage of the plan, so that a continued run times no other one.
        droppable: groups of residual branches that may be removed.

    Returns:
        Number of channels to keep per group, forms per site, and a note on the measurement.

    Raises:
        PlanError: the original is fast enough.
        OutOfReachError: no plan is fast enough.
    """
    if not (probed.rankings or probed.candidates):
        return {}, {}, ()
    found = _load(checkpoint, probed)
    if found is None:
        found = _raced(work, cost, probed, options, Bench(work, cost, inputs, options), droppable)
        _save(checkpoint, probed, found)
    return found.choice.keep, found.choice.forms, (Note("latency", str(found)),)


@dataclass(frozen=True)
class _Tried:
    """Timed plan.

    Attributes:
        choice: the plan.
        plans: number of plans timed.
        asked: target speed-up.
        predicted: speed-up by the clocks of layers.
        reached: measured speed-up.
        low: lower end of the 95 % confidence interval of `reached`.
        high: upper end of the 95 % confidence interval of `reached`.
        stretch: time of a run divided by its time on an idle machine, see `Timing`.
    """

    choice: Choice
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


def _raced(
    work: Workload, cost: CostModel, probed: Probed, options: Options, bench: Bench, droppable: Sequence[str]
) -> _Tried:
    curves = probed.sensitivity.curves({name: ranking.curve for name, ranking in probed.rankings.items()})
    candidates = probed.sensitivity.candidates(probed.candidates)
    budget, before = options.budget, bench.before_ms
    asked = before / budget.ms if budget.ms is not None else 1 / budget.fraction
    if asked <= 1:
        raise PlanError(f"{budget.text}: the original takes {before:.3g} ms and meets the budget: nothing to prune")
    tried: list[_Tried] = []
    wanted = asked
    while len(tried) < _MOST_PLANS:
        work.progress("time plans", len(tried), _MOST_PLANS)
        limit = replace(budget, fraction=1 / wanted)
        try:
            choice = search(
                cost,
                curves,
                candidates,
                limit,
                allocation=options.allocation,
                align=options.alignment,
                droppable=droppable,
            )
        except OutOfReachError:
            if not tried:
                raise
            break
        tried.append(_timed(bench, cost, choice, asked, len(tried) + 1))
        if asked <= tried[-1].reached <= asked * (1 + _TOLERANCE):
            break
        wanted *= asked * (1 + _TOLERANCE / 2) / tried[-1].reached
    work.progress("time plans", _MOST_PLANS, _MOST_PLANS)
    enough = [one for one in tried if one.reached >= asked * (1 - _TOLERANCE)]
    if not enough:
        most = max(tried, key=lambda one: one.reached)
        busy = ", timed beside other programs: try again on an idle machine" if most.stretch > BUSY else ""
        raise OutOfReachError(
            f"{budget.text} is out of reach: the fastest of {len(tried)} plans was {most.reached:.2f}x faster{busy}"
        )
    return replace(min(enough, key=lambda one: one.reached), plans=len(tried))


def _timed(bench: Bench, cost: CostModel, choice: Choice, asked: float, plans: int) -> _Tried:
    """Time a network of the planned sizes, a second time for longer if the first measurement is near the target."""
    predicted = cost.latency({}) / cost.latency(choice.keep, choice.forms)
    for again in (False, True):
        timing = bench.timing(choice.keep, choice.forms, again=again)
        reached = timing.ratio, timing.ratio_low, timing.ratio_high
        tried = _Tried(choice, plans, asked, predicted, *reached, timing.stretch)
        if not tried.near:
            break
    return tried


def _save(checkpoint: Checkpoint, probed: Probed, found: _Tried) -> None:
    keep, forms = found.choice.keep, found.choice.forms
    rows = Forms.of([forms.get(name, DENSE) for name in probed.candidates])
    arrays = {
        "keep": np.array([keep[name] for name in probed.rankings], dtype=np.int64),
        "forms": rows.array(),
        "numbers": np.array([found.plans, *(getattr(found, name) for name in _NUMBERS)]),
    }
    checkpoint.save("plan", arrays)


def _load(checkpoint: Checkpoint, probed: Probed) -> _Tried | None:
    arrays = checkpoint.load("plan")
    if arrays is None or set(arrays) != {"keep", "forms", "numbers"}:
        return None
    keep, rows = arrays["keep"].tolist(), Forms.from_array(arrays["forms"])
    if (
        len(keep) != len(probed.rankings)
        or len(rows) != len(probed.candidates)
        or arrays["numbers"].shape != (1 + len(_NUMBERS),)
    ):
        return None
    forms = {name: rows[place] for place, name in enumerate(probed.candidates) if not rows[place].dense}
    plans, *numbers = arrays["numbers"].tolist()
    return _Tried(Choice(dict(zip(probed.rankings, keep, strict=True)), forms), int(plans), *numbers)
