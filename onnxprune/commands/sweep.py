"""Several budgets from one calibration: a series of speed-ups, or the fastest network within a drop.

The model is loaded, its inputs are sampled and its layers are ranked once; each budget is then planned, fitted,
verified and timed in a separate run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxprune.commands.idle import check_options
from onnxprune.commands.pictures import picture_alone
from onnxprune.commands.prune import Result, opened, prune_opened, run_prune
from onnxprune.commands.record import plain
from onnxprune.errors import LostTooMuchError, OnnxPruneError, OutOfReachError, UsageError
from onnxprune.note import Note
from onnxprune.options.budget import WITHIN_DROP, times_less
from onnxprune.scratch import scratch_folder
from onnxprune.steps.prepare import Prepared
from onnxprune.torchnet import has_torch

if TYPE_CHECKING:
    import os

    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.options.budget import Unit
    from onnxprune.options.run import Options
    from onnxprune.planning import Plan
    from onnxprune.progress import Progress

    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["SPEEDUPS", "Pareto", "Point", "run_any", "run_largest", "run_pareto"]

SCHEMA = 1
SPEEDUPS = (1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
_FIRST, _LEAST, _MOST = 2.0, 1.05, 64.0  # first, smallest and largest speed-up of the search
_DROP = 1.0  # default drop: points of agreement, or per cent of relative error
_HELPS = "raise --max-drop, give more inputs, or give a budget and train with --recover"
_CLOSE = 1.08  # ratio of two speed-ups at which the search ends


@dataclass(frozen=True)
class Point:
    """Result for one speed-up.

    Attributes:
        asked: target speed-up.
        result: result of the run; None if there is none.
        why: reason why there is no result; else empty.
    """

    asked: float
    result: Result | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON-able values, without the model."""
        report = self.result.report if self.result is not None else None
        found: dict[str, Any] = {"asked": self.asked, "why": self.why}
        for name in ("output", "macs", "params", "file_bytes", "evaluation", "timing"):
            value = getattr(report, name, None)
            found[name] = value if value is None or isinstance(value, str) else asdict(value)
        found["divergence"] = [asdict(output) for output in report.divergence] if report is not None else []
        found["plan"] = self.result.plan.to_dict() if self.result is not None else None
        return found


@dataclass(frozen=True)
class Pareto:
    """Points of one model, by speed-up; ``counted`` is the cost that the speed-ups limit."""

    model: str
    counted: Unit
    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the points as JSON-able values."""
        points = [point.to_dict() for point in self.points]
        return plain({"schema": SCHEMA, "model": self.model, "counted": self.counted, "points": points})


def run_pareto(
    source: Model,
    data: CalibrationSource | None,
    options: Options,
    progress: Progress,
    speedups: Sequence[float] = SPEEDUPS,
) -> Iterator[Point]:
    """Prune a model to several speed-ups, and yield a point for each, until one is out of reach or loses too much.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: all options; of the budget, only the cost that it limits is used.
        progress: callback (stage, done, total, detail).
        speedups: target speed-ups in increasing order.

    Raises:
        LostTooMuchError: the first speed-up loses more than ``options.max_drop``.
        OutOfReachError: the first speed-up is out of reach.
        OnnxPruneError: any other error of `run_prune`.
    """
    check_options(options)
    options = options.at_effort(torch=has_torch())
    counted = options.budget.unit
    with _sharing(options) as shared, opened(source, data, shared, progress) as run:
        for number, asked in enumerate(speedups):
            try:
                result = _run(run, shared, asked, counted)
            except (LostTooMuchError, OutOfReachError) as error:
                if not number:
                    raise
                yield Point(asked, None, str(error))
                break
            why = next((text for text in result.report.warnings if text.startswith("RETURNED")), "")
            yield Point(asked, None, why) if result.returned else Point(asked, result)


def run_any(
    source: Model,
    data: CalibrationSource | None,
    options: Options,
    *,
    plan: Plan | None = None,
    dry_run: bool = False,
    progress: Progress,
) -> Result:
    """Prune a model to its budget or by a plan with `run_prune`; without either, within its drop with `run_largest`.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: budget and all other options.
        plan: plan to carry out instead of a budget.
        dry_run: return the plan without a model; needs a budget or a plan.
        progress: callback (stage, done, total, detail).

    Raises:
        OnnxPruneError: any of the errors in `errors`; nothing was written.
    """
    if plan is not None or options.budget.kind != "drop":
        return run_prune(source, data, options, plan=plan, dry_run=dry_run, progress=progress)
    if dry_run:
        raise UsageError("--dry-run needs a budget: give one, such as --speedup 1.5 or --macs 50%")
    if options.max_drop is None:
        if options.evaluate is not None:
            raise UsageError(
                "--evaluate without a budget needs --max-drop: the largest drop allowed, in the unit of the measure"
            )
        options = replace(options, max_drop=_DROP)
    return run_largest(source, data, options, progress)


def run_largest(source: Model, data: CalibrationSource | None, options: Options, progress: Progress) -> Result:
    """Prune to the largest speed-up within ``max_drop``, searched by doubling and then by bisection.

    Each trial is judged on the inputs set apart to choose by, after a linear refit, which is quick; the smallest
    speed-up that fails is tried again with the refit of `options`. Only the chosen speed-up is checked against
    ``max_drop`` on the held-out inputs, and must be faster when measured; if it fails, the next smaller one is chosen.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: all options, with ``max_drop``; of the budget, only the cost that it limits is used.
        progress: callback (stage, done, total, detail).

    Raises:
        LostTooMuchError: even the smallest speed-up loses more than ``max_drop``.
        OutOfReachError: even the smallest speed-up is out of reach.
        UsageError: ``options.recover`` is given, which would train the network of every trial.
        OnnxPruneError: any other error of `run_prune`.
    """
    if options.recover is not None:
        raise UsageError(
            "--recover needs a budget, such as --macs 50%: a search for one would train every network it tries"
        )
    check_options(options)
    options = options.at_effort(torch=has_torch())
    counted = options.budget.unit
    with _sharing(options) as shared, opened(source, data, shared, progress, choosing=True) as run:
        search = _Search(run, replace(shared, bench=False), counted, progress)
        quick = search.options.quick
        fast = search if quick == search.options else replace(search, options=quick, how=" (quick fit)")
        asked, within, beyond = _FIRST, 1.0, math.inf
        while ((within == 1 and beyond > _LEAST) or beyond / within > _CLOSE) and asked <= _MOST:
            if fast.fits(asked):
                within = asked
            else:
                beyond = asked
            between = 2 * within if beyond == math.inf else max((within * beyond) ** 0.5, _LEAST)
            asked = float(f"{between:.3g}")
        if fast is not search and beyond < math.inf and search.fits(beyond):  # the quick fit loses more
            search.errors.pop()
        if not search.fitting:
            raise search.refusal()
        result = _reported(search, bench=shared.bench)
        note = Note("--max-drop", f"{options.max_drop:g}: {', '.join(search.tried)} ({search.why})")
        notes = (*(known for known in result.report.notes if known.subject != "cache"), note)
        found = f"{WITHIN_DROP.text} ({options.max_drop:g}): {result.report.budget}"
        return replace(result, report=replace(result.report, notes=notes, budget=found))


@dataclass(frozen=True)
class _Search:
    """Trials of speed-ups, each checked against the largest drop on the inputs to choose by.

    Attributes:
        run: the prepared run.
        options: options of each run.
        counted: cost that the speed-ups limit.
        progress: callback (stage, done, total, detail).
        how: words between the speed-up and the outcome of each trial.
        fitting: speed-ups within the drop.
        tried: outcome of each trial, in words.
        errors: errors of the speed-ups beyond the drop, in order of the trials.
    """

    run: Prepared
    options: Options
    counted: Unit
    progress: Progress
    how: str = ""
    fitting: list[float] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    errors: list[OnnxPruneError] = field(default_factory=list)

    def fits(self, asked: float) -> bool:
        """Try a speed-up; return True if it is within the drop."""
        stage = f"try {asked:.3g}x"
        self.progress(stage, 0, 1)
        try:
            _run(self.run, self.options, asked, self.counted, rehearsal=True)
            self.fitting.append(asked)
            self.tried.append(f"{asked:.3g}x{self.how} loses little enough")
        except (LostTooMuchError, OutOfReachError) as error:
            self.errors.append(error)
            found = "loses too much" if isinstance(error, LostTooMuchError) else "is out of reach"
            self.tried.append(f"{asked:.3g}x{self.how} {found}")
        self.progress(stage, 1, 1)
        self.progress(self.tried[-1], 1, 1)
        return self.fitting[-1:] == [asked]

    @property
    def why(self) -> str:
        """Loss of the last speed-up beyond the drop, in words."""
        return str(self.errors[-1]).removesuffix("; nothing was written") if self.errors else "nothing was beyond it"

    def refusal(self) -> OnnxPruneError:
        """Make the error for a search in which even the smallest speed-up is beyond the drop."""
        return type(self.errors[-1])(f"even {_LEAST:g}x is too much: {self.why}; {_HELPS}")


def _reported(search: _Search, *, bench: bool) -> Result:
    """Prune to the largest speed-up that is within the drop on the held-out inputs, and faster when measured.

    Args:
        search: finished search, with the speed-ups that are within the drop on the inputs to choose by.
        bench: measure the latency of the result.
    """
    for asked in _falling(search.fitting):
        try:
            result = _run(search.run, replace(search.options, bench=bench), asked, search.counted)
        except LostTooMuchError as error:
            search.errors.append(error)
            search.tried.append(f"{asked:.3g}x loses too much on the held-out inputs")
            if asked <= _LEAST:
                raise search.refusal() from error
        else:
            timing = result.report.timing
            if not result.returned and (timing is None or timing.ratio >= _LEAST):
                return result
            search.tried.append(f"{asked:.3g}x was less than {_LEAST:g}x faster when the result was timed")
    lost = f" ({search.why})" if search.errors else ""
    tried = ", ".join(search.tried)
    raise OutOfReachError(f"nothing within --max-drop is {_LEAST:g}x faster: {tried}{lost}; {_HELPS}")


def _falling(fitting: Sequence[float]) -> Iterator[float]:
    """Yield the given speed-ups, the largest first, then smaller ones down to the smallest of the search."""
    yield from sorted(fitting, reverse=True)
    asked = min(fitting)
    while asked > _LEAST:
        asked = max(float(f"{asked**0.5:.3g}"), _LEAST)
        yield asked


def _run(run: Prepared, options: Options, speedup: float, counted: Unit, *, rehearsal: bool = False) -> Result:
    here = replace(run, options=replace(options, budget=times_less(speedup, counted)))
    if not rehearsal:
        return prune_opened(here)
    try:
        return prune_opened(here, rehearsal=True)
    except (LostTooMuchError, OutOfReachError):
        alone = picture_alone(here)
        if alone is None:
            raise
    return prune_opened(alone, rehearsal=True)


@contextmanager
def _sharing(options: Options) -> Iterator[Options]:
    """Yield the options with a cache, a temporary one if they have none, so that the runs share their results."""
    if options.cache_dir is not None:
        yield options
        return
    with scratch_folder() as folder:
        yield replace(options, cache_dir=folder)
