"""Plan by milliseconds: by the clocks of layers, and again and again by what whole networks take.

Times do not depend on weights, so a network of the planned sizes tells how fast the plan is before a single weight
is fitted.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.graph.decompose import Chain, with_chains
from onnxprune.graph.forms import Form
from onnxprune.graph.surgery import alive_without, remove
from onnxprune.note import Note
from onnxprune.plan import Choice, search
from onnxprune.runtime.timing import interleaved
from onnxprune.stages.batching import group_batches

if TYPE_CHECKING:
    from onnxprune.graph.cost import CostModel
    from onnxprune.graph.net import Net
    from onnxprune.options import Options
    from onnxprune.report.started import Inputs
    from onnxprune.runtime.sessions import Engine
    from onnxprune.stages.checkpoint import Checkpoint
    from onnxprune.stages.probe import Probed
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, Any]

__all__ = ["Bench", "machine", "plan_by_latency"]

_MOST_PLANS = 8
_TOLERANCE = 0.03  # of the asked speed-up
_SECONDS = 1.5  # for one pair of networks


def machine(engine: Engine, options: Options) -> tuple[object, ...]:
    """What times depend on beside the network."""
    return platform.node(), engine.version, engine.providers, options.engine, options.bench_batch


def plan_by_latency(
    work: Workload, cost: CostModel, probed: Probed, options: Options, inputs: Inputs, checkpoint: Checkpoint
) -> tuple[dict[str, int], dict[str, Form], tuple[Note, ...]]:
    """Plan by the clocks, time a network of the planned sizes, and plan anew until the asked speed-up is met.

    Args:
        work: the original and the inputs.
        cost: of it, with clocks.
        probed: errors of what may be done.
        options: the budget and how it is spread.
        inputs: of the network.
        checkpoint: for the plan, so that a run that goes on does not time another one.

    Returns:
        Channels to keep, forms, and what was measured.

    Raises:
        PlanError: the original is fast enough, or no plan is.
    """
    if not (probed.rankings or probed.candidates):
        return {}, {}, ()
    found = _load(checkpoint, probed)
    if found is None:
        found = _raced(work, cost, probed, options, Bench(work, cost, inputs, options))
        _save(checkpoint, probed, found)
    told = f"{found.plans} plans timed: the one taken is {found.reached:.2f}x faster, predicted {found.predicted:.2f}x"
    return found.choice.keep, found.choice.forms, (Note("latency", told),)


@dataclass(frozen=True)
class _Tried:
    """A plan, how much faster it should be and how much faster it is, and how many were timed."""

    choice: Choice
    predicted: float
    reached: float
    plans: int


def _raced(work: Workload, cost: CostModel, probed: Probed, options: Options, bench: Bench) -> _Tried:
    curves = probed.sensitivity.curves({name: ranking.curve for name, ranking in probed.rankings.items()})
    candidates = probed.sensitivity.candidates(probed.candidates)
    budget, before = options.budget, bench.before_ms
    asked = before / budget.ms if budget.ms is not None else 1 / budget.fraction
    if asked <= 1:
        raise PlanError(f"{budget.text}: the original takes {before:.3g} ms, that is fast enough")
    tried: list[_Tried] = []
    wanted = asked
    while len(tried) < _MOST_PLANS:
        work.progress("time plans", len(tried), _MOST_PLANS)
        limit = replace(budget, fraction=1 / wanted)
        try:
            choice = search(cost, curves, candidates, limit, allocation=options.allocation, align=options.align)
        except PlanError:
            if not tried:
                raise
            break
        predicted = cost.latency({}) / cost.latency(choice.keep, choice.forms)
        reached = bench.faster(choice.keep, choice.forms)
        tried.append(_Tried(choice, predicted, reached, len(tried) + 1))
        if asked <= reached <= asked * (1 + _TOLERANCE):
            break
        wanted *= asked * (1 + _TOLERANCE / 2) / reached
    work.progress("time plans", _MOST_PLANS, _MOST_PLANS)
    enough = [one for one in tried if one.reached >= asked * (1 - _TOLERANCE)]
    if not enough:
        most = max(one.reached for one in tried)
        raise PlanError(f"{budget.text} is out of reach: the fastest of {len(tried)} plans was {most:.2f}x faster")
    return replace(min(enough, key=lambda one: one.reached), plans=len(tried))


def _save(checkpoint: Checkpoint, probed: Probed, found: _Tried) -> None:
    keep, forms = found.choice.keep, found.choice.forms
    rows = [forms.get(name, Form()) for name in probed.candidates]
    arrays = {
        "keep": np.array([keep[name] for name in probed.rankings], dtype=np.int64),
        "forms": np.array([(form.spatial or 0, form.first, form.channel or 0) for form in rows], dtype=np.int64),
        "numbers": np.array([found.predicted, found.reached, found.plans]),
    }
    checkpoint.save("plan", arrays)


def _load(checkpoint: Checkpoint, probed: Probed) -> _Tried | None:
    arrays = checkpoint.load("plan")
    if arrays is None or set(arrays) != {"keep", "forms", "numbers"}:
        return None
    keep, rows = arrays["keep"].tolist(), arrays["forms"].reshape(-1, 3).tolist()
    if len(keep) != len(probed.rankings) or len(rows) != len(probed.candidates) or arrays["numbers"].shape != (3,):
        return None
    forms = {
        name: Form(spatial or None, first, channel or None)
        for name, (spatial, first, channel) in zip(probed.candidates, rows, strict=True)
        if spatial or channel
    }
    predicted, reached, plans = arrays["numbers"].tolist()
    return _Tried(Choice(dict(zip(probed.rankings, keep, strict=True)), forms), predicted, reached, int(plans))


class Bench:
    """The original against what a plan would make of it."""

    def __init__(self, work: Workload, cost: CostModel, inputs: Inputs, options: Options) -> None:
        self._work, self._cost, self._seed = work, cost, options.seed
        chosen = np.resize(inputs.held, options.bench_batch)
        batch = group_batches(chosen, inputs.specs, options.bench_batch)[0]
        self._feeds = inputs.calibration.load(batch.samples)
        self._original = work.engine.session(work.net.to_model(), label="the original")

    @property
    def before_ms(self) -> float:
        """Of one run of the original."""
        return interleaved(self._original, self._original, self._feeds, seconds=_SECONDS).before.median_ms

    def faster(self, keep: Mapping[str, int], forms: Mapping[str, Form]) -> float:
        """Latency of the original over that of a network of these sizes."""
        session = self._work.engine.session(self._sized(keep, forms).to_model(), label="a network of the planned sizes")
        return interleaved(self._original, session, self._feeds, seconds=_SECONDS, seed=self._seed).ratio

    def _sized(self, keep: Mapping[str, int], forms: Mapping[str, Form]) -> Net:
        channels = self._work.channels
        gone = {group.name: range(keep.get(group.name, group.size), group.size) for group in channels.prunable}
        net = remove(self._work.net, channels, channels.all_alive(), alive_without(channels, gone))
        chains = {channels.sites[name]: self._chain(name, form, keep) for name, form in forms.items()}
        return with_chains(net, chains) if chains else net

    def _chain(self, name: str, form: Form, keep: Mapping[str, int]) -> Chain:
        """Factors of the right sizes, drawn at random: zeros and denormal numbers may be faster or slower."""
        site, (inputs, outputs) = self._work.channels.sites[name], self._cost.channels(name, keep)
        kernel = site.window.kernel if site.window is not None else ()
        elements, along = math.prod(kernel), kernel[form.first] if kernel else 1
        own = outputs // site.groups
        narrow = form.channel or own
        generator = np.random.default_rng(self._seed)

        def drawn(rows: int, columns: int) -> Array:
            return np.asarray(generator.standard_normal((site.groups, rows, columns)) / np.sqrt(columns))

        first = drawn(form.spatial, inputs * along) if form.spatial else None
        second = drawn(narrow, form.spatial * (elements // along) if form.spatial else inputs * elements)
        return Chain(form, first, second, drawn(own, form.channel) if form.channel else None)
