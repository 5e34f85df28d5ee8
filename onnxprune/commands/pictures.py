"""Choice of the picture's size: each size is planned further to the budget, and the error at the outputs decides.

A size that meets the budget by itself costs one pass over the inputs to choose by. Some more are tried beyond the
largest of these: where strides divide a size without a rest, a smaller one may lose less. A larger size, and the
original one, must lose channels too: each is rehearsed, planned by the error curves of the original picture and fitted
on some inputs with the quick linear refit.
Errors are those of the whole network against the original on its own picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import ModelError, OutOfReachError, PlanError, UsageError
from onnxprune.graph.edit.picture import with_small_input
from onnxprune.graph.model.net import Net
from onnxprune.graph.model.save import finished_model
from onnxprune.note import Note
from onnxprune.planning import Assignment
from onnxprune.steps.bench import Bench
from onnxprune.steps.compress import compress
from onnxprune.steps.decide import curves_of, decide
from onnxprune.steps.picture import apart, ladder, resized
from onnxprune.steps.prepare import with_fewer_inputs
from onnxprune.steps.time_layers import scaled_cost, timed_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxprune.steps.curves import Curves
    from onnxprune.steps.prepare import Prepared

Array = np.ndarray[Any, Any]

__all__ = ["Chosen", "best_picture", "fed_smaller", "folding_is_enough", "picture_alone", "small_feeds"]

_MOST_INPUTS = 256  # to rehearse on
_MOST_WORSE = 2  # sizes in a row that are worse, after which no other is rehearsed
_BEYOND = 2  # sizes to try below the largest one that meets the budget
_TOLERANCE = 0.03  # share of the target speed-up that a timed picture may miss
_WORTH_TIMING = 0.8  # ratio of MACs, as a share of the target speed-up, from which a picture is timed


@dataclass(frozen=True, eq=False)
class _Rung:
    """Size of the picture: the run with it, the error of the original on it, and whether it meets the budget alone."""

    run: Prepared
    error: float
    meets: bool


@dataclass(frozen=True, eq=False)
class Chosen:
    """Chosen size of the picture.

    Attributes:
        run: the run on the chosen picture.
        notes: a note on the choice; none if there was none.
        alone: the run with the best picture that meets the budget with all channels; None without one.
        alone_error: error of the original on that picture.
        curves: error curves measured on the original picture; None if they were not needed.
    """

    run: Prepared
    notes: tuple[Note, ...] = ()
    alone: Prepared | None = None
    alone_error: float = math.inf
    curves: Curves | None = None

    def instead_of(self, model: onnx.ModelProto) -> Chosen | None:
        """Return the choice of the picture alone if the finished model has a larger error; else None."""
        if self.alone is None or self.run.whole:
            return None
        error = apart(self.run, model)
        if error <= self.alone_error:
            return None
        told = f"{_text(self.alone)} with all channels after all: {_text(self.run)} as fitted has {error:.3g}"
        return Chosen(self.alone, (*self.notes, Note("picture", told)))


def _text(run: Prepared) -> str:
    """Return the size of a run's picture in words."""
    size = run.network.picture
    return "the original size" if size is None else f"{size[0]}x{size[1]}"


def picture_alone(run: Prepared) -> Prepared | None:
    """Return the run with the original on the best smaller picture that meets the budget alone; None without one."""
    if not _choosable(run):
        return None
    enough = [rung for rung in _rungs(run) if rung.meets]
    return replace(_best(enough).run, whole=True) if enough else None


def best_picture(run: Prepared) -> Chosen:
    """Choose the size of the picture for the budget of a run; where folding is enough, the network stays whole.

    Args:
        run: the prepared run on the original picture.

    Raises:
        PlanError: the original as given is within the budget already.
        UsageError: the options ask for a smaller input, and the picture cannot be resized.
    """
    if run.options.feeds_smaller and run.network.place is None:
        raise UsageError(
            f"--input-size {run.options.input_size}: {run.network.parts.label}: {run.network.fixed_picture}"
        )
    if run.options.side is not None:
        return Chosen(_asked(run, run.options.side))
    if folding_is_enough(run):
        return Chosen(replace(run, whole=True))
    rungs = _rungs(run) if _choosable(run) else []
    if not rungs:
        return Chosen(run)
    best, alone, curves = run, None, curves_of(run)
    try:
        least = _rehearsed(run, curves)
    except OutOfReachError:
        least = math.inf
    told = ["the original size is out of reach" if least == math.inf else f"the original size {least:.3g}"]
    enough = [rung for rung in rungs if rung.meets]
    rungs = [rung for rung in rungs if not rung.meets]
    if enough:
        alone = _best(enough)
        told.append(f"{_text(alone.run)} with all channels {alone.error:.3g}")
        if alone.error < least:
            best, least = replace(alone.run, whole=True), alone.error
    worse = 0
    for rung in rungs if best is run else reversed(rungs):
        if rung.error >= least:  # removing channels only adds to it
            continue
        timed = run.options.budget.unit == "latency"
        here = replace(rung.run, cost=scaled_cost(rung.run)) if timed else rung.run
        try:
            error = _rehearsed(here, curves)
        except PlanError:
            continue
        told.append(f"{_text(here)} {error:.3g}")
        if error < least:
            best, least, worse = rung.run, error, 0
        elif (worse := worse + 1) == _MOST_WORSE:
            break
    if best is not run and not best.whole and run.options.budget.unit == "latency":
        best = replace(best, cost=timed_cost(best))
    note = Note("picture", f"{_text(best)} was chosen by the error at the outputs ({', '.join(told)})")
    if alone is None:
        return Chosen(best, (note,), curves=curves)
    return Chosen(best, (note,), replace(alone.run, whole=True), alone.error, curves)


def folding_is_enough(run: Prepared) -> bool:
    """Tell whether the network meets a latency budget once its normalisations and constants are folded."""
    return run.options.budget.kind == "latency" and run.folding > 1 and _meets(run)


def fed_smaller(run: Prepared, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the Resize of its picture: it takes the smaller picture itself.

    Raises:
        VerifyError: the model is not valid.
        EngineError: onnxruntime cannot run it.
    """
    place, size = run.network.place, run.network.picture
    assert place is not None
    assert size is not None
    found = finished_model(with_small_input(Net.from_model(model, source=run.network.parts.label), place, size))
    run.engine.session(found, label="the result").run(small_feeds(run, 1))
    return found


def small_feeds(run: Prepared, batch: int) -> Mapping[str, Array]:
    """Return held-out inputs with every so many pixels of their pictures, to time a model of `fed_smaller`."""
    place, size = run.network.place, run.network.picture
    assert place is not None
    assert size is not None
    feeds = dict(run.inputs.repeated(batch))
    for axis, before, after in zip(place.input_axes, place.size, size, strict=True):
        feeds[place.input] = np.take(feeds[place.input], np.arange(after) * before // after, axis=axis)
    return feeds


def _asked(run: Prepared, height: int) -> Prepared:
    """Return the run on a picture of the height that the options give.

    Raises:
        UsageError: the picture cannot be resized to this height.
    """
    place = run.network.place
    assert place is not None
    if height >= place.size[0]:
        raise UsageError(f"--input-size {height}: the picture is {place.size[0]}x{place.size[1]} pixels: give less")
    size = height, max(round(place.size[1] * height / place.size[0]), 1)
    try:
        here = resized(run, size)
    except ModelError as error:
        raise UsageError(f"--input-size {height}: {error}") from error
    if _meets(here):
        return replace(here, whole=True)
    return replace(here, cost=timed_cost(here)) if run.options.budget.unit == "latency" else here


def _best(rungs: Sequence[_Rung]) -> _Rung:
    return min(rungs, key=lambda rung: rung.error)


def _choosable(run: Prepared) -> bool:
    options = run.options
    return run.network.place is not None and options.resizes and options.side is None and len(run.inputs.choose) > 0


def _rungs(run: Prepared) -> list[_Rung]:
    """Return the smaller pictures, the largest first, down to some that meet the budget alone."""
    assert run.network.place is not None
    found: list[_Rung] = []
    sizes = ladder(run.network.place)
    for number, size in enumerate(sizes):
        run.progress("try smaller pictures", number, len(sizes))
        try:
            there = resized(run, size)
        except ModelError:
            break
        enough = sum(rung.meets for rung in found)
        found.append(_Rung(there, apart(there, finished_model(there.net)), enough > 0 or _meets(there)))
        if enough == _BEYOND:
            break
    run.progress("try smaller pictures", len(sizes), len(sizes))
    return found


def _meets(run: Prepared) -> bool:
    """Tell whether the original on this picture is within the budget."""
    budget = run.options.budget
    if budget.kind != "latency":
        return run.limit.fraction >= 1
    bench = Bench(run)
    asked = bench.before_ms / budget.ms if budget.ms is not None else 1 / budget.fraction
    if asked <= 1 or run.folding * run.before.macs() / run.cost.macs() < asked * _WORTH_TIMING:
        return False  # the original as given is within the budget, or the picture far from it
    reached = bench.timing(Assignment()).ratio
    if abs(reached / asked - 1) < 2 * _TOLERANCE:
        reached = bench.timing(Assignment(), again=True).ratio
    return reached >= asked * (1 - _TOLERANCE)


def _rehearsed(run: Prepared, curves: Curves) -> float:
    """Plan and fit the network quickly, on some of the inputs; return its error at the outputs.

    Raises:
        PlanError: no plan meets the budget, or the network is within it already.
    """
    here = with_fewer_inputs(replace(run, options=run.options.quick), _MOST_INPUTS)
    decided = decide(here, curves=curves, roughly=True)
    return apart(here, finished_model(compress(here, decided.assignment).net))
