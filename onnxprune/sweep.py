"""Several budgets from one calibration: a dozen points to choose from, or the smallest network within a drop.

The model is loaded, its inputs are sampled and its layers are ranked once; each budget is then planned, fitted,
verified and timed as a run of its own.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import LostTooMuchError, OutOfReachError, UsageError
from onnxprune.idle import check_options
from onnxprune.note import Note
from onnxprune.pipeline import Job, Result, opened, run
from onnxprune.plan import times_less
from onnxprune.report.record import plain

if TYPE_CHECKING:
    import os

    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.graph.forms import Unit
    from onnxprune.options import Options
    from onnxprune.plan import Plan
    from onnxprune.stages.workload import Progress

    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["SPEEDUPS", "Pareto", "Point", "run_any", "run_largest", "run_pareto"]

SCHEMA = 1
SPEEDUPS = (1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
_FIRST, _LEAST, _MOST = 2.0, 1.05, 64.0  # speed-ups to look among
_DROP = 1.0  # points of agreement, or per cent of relative error, unless said otherwise
_HELPS = "allow more by --max-drop, give more inputs, or give a budget and train with --recover"
_CLOSE = 1.08  # ratio of two of them that need not be told apart


@dataclass(frozen=True)
class Point:
    """One budget.

    Attributes:
        asked: the speed-up.
        result: what came out; None if nothing did.
        why: in that case.
    """

    asked: float
    result: Result | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: without the model."""
        report = self.result.report if self.result is not None else None
        found: dict[str, Any] = {"asked": self.asked, "why": self.why}
        for field in ("output", "macs", "params", "file_bytes", "evaluation", "timing"):
            value = getattr(report, field, None)
            found[field] = value if value is None or isinstance(value, str) else asdict(value)
        found["divergence"] = [asdict(output) for output in report.divergence] if report is not None else []
        found["plan"] = self.result.plan.to_dict() if self.result is not None else None
        return found


@dataclass(frozen=True)
class Pareto:
    """All points, by speed-up; ``counted``: in what."""

    model: str
    counted: Unit
    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        points = [point.to_dict() for point in self.points]
        return plain({"schema": SCHEMA, "model": self.model, "counted": self.counted, "points": points})


def run_pareto(
    source: Model,
    data: CalibrationSource | None,
    options: Options,
    progress: Progress,
    speedups: Sequence[float] = SPEEDUPS,
) -> Iterator[Point]:
    """Prune a model to one speed-up after the other, until one is out of reach or loses more than it may.

    Args:
        source: see `pipeline.run`.
        data: likewise.
        options: likewise; of the budget, what it counts.
        progress: likewise.
        speedups: from small to large.

    Raises:
        LostTooMuchError: the first speed-up loses more than it may.
        OutOfReachError: the first speed-up is out of reach.
        OnnxPruneError: see `pipeline.run`; whatever is no matter of the speed-up.
    """
    check_options(options)
    counted = options.budget.unit
    with _sharing(options) as shared, opened(source, data, shared, progress) as job:
        for number, asked in enumerate(speedups):
            try:
                result = _run(job, shared, asked, counted)
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
    """Prune a model to its budget or by a plan; without either, as far as it may lose: see `pipeline.run` and
    `run_largest`."""
    if plan is not None or options.budget.kind != "drop":
        return run(source, data, options, plan=plan, dry_run=dry_run, progress=progress)
    if dry_run:
        raise UsageError("--dry-run plans for a budget: give one, such as --speedup 1.5 or --macs 50%")
    if options.max_drop is None:
        if options.evaluate is not None:
            raise UsageError(
                "--evaluate without a budget needs --max-drop: how far the value may fall, in its own unit"
            )
        options = replace(options, max_drop=_DROP)
    return run_largest(source, data, options, progress)


def run_largest(source: Model, data: CalibrationSource | None, options: Options, progress: Progress) -> Result:
    """Find the largest speed-up that stays within ``max_drop``: doubled, then halved in between.

    Each speed-up that is tried is judged by the inputs set apart to choose by; only the one that is chosen is held to
    ``max_drop`` on the inputs to report on, and must be faster when it is measured; where it fails, the next smaller
    one is.

    Args:
        source: see `pipeline.run`.
        data: likewise.
        options: likewise, with ``max_drop``; of the budget, what it counts.
        progress: likewise.

    Raises:
        LostTooMuchError: even the smallest speed-up loses more.
        OutOfReachError: even the smallest speed-up is out of reach.
        UsageError: each that is tried would be trained.
        OnnxPruneError: see `pipeline.run`.
    """
    if options.recover is not None:
        raise UsageError(
            "--recover needs a budget, such as --macs 50%: a search for one would train every network it tries"
        )
    check_options(options)
    counted = options.budget.unit
    with _sharing(options) as shared, opened(source, data, shared, progress, choosing=True) as job:
        quick = replace(shared, bench=False)
        within, beyond, why = 1.0, math.inf, ""
        fitting: list[float] = []
        tried: list[str] = []
        asked = _FIRST
        while (beyond / within > _CLOSE or not fitting) and asked <= _MOST:
            progress(f"try {asked:.3g}x", 0, 1)
            try:
                _run(job, quick, asked, counted, rehearsal=True)
                within = asked
                fitting.append(asked)
                tried.append(f"{asked:.3g}x is within")
            except (LostTooMuchError, OutOfReachError) as error:
                beyond, why = asked, str(error).removesuffix("; nothing was written")
                tried.append(f"{asked:.3g}x is not")
                if within == 1 and beyond <= _LEAST:
                    raise type(error)(f"even {_LEAST:g}x is too much: {why}; {_HELPS}") from error
            progress(f"try {asked:.3g}x", 1, 1)
            between = 2 * within if beyond == math.inf else max((within * beyond) ** 0.5, _LEAST)
            asked = float(f"{between:.3g}")
        result = _reported(job, shared, fitting, counted, tried, why)
        note = Note("--max-drop", f"{options.max_drop:g}: {', '.join(tried)} ({why or 'nothing was beyond it'})")
        notes = (*(known for known in result.report.notes if known.subject != "cache"), note)
        return replace(result, report=replace(result.report, notes=notes))


def _reported(
    job: Job, options: Options, fitting: Sequence[float], counted: Unit, tried: list[str], why: str
) -> Result:
    """The largest speed-up that stays within the drop on the inputs to report on, and is one when it is measured.

    Args:
        job: to run.
        options: of each run.
        fitting: speed-ups that were within the drop on the inputs to choose by.
        counted: in what they count.
        tried: what became of each speed-up so far, in words; more is added.
        why: the smallest one beyond the drop was so, or empty.
    """
    for asked in _falling(fitting):
        try:
            result = _run(job, options, asked, counted)
        except LostTooMuchError as error:
            if asked <= _LEAST:
                raise type(error)(f"even {_LEAST:g}x is too much: {error}; {_HELPS}") from error
            tried.append(f"{asked:.3g}x is not on the inputs to report on")
        else:
            timing = result.report.timing
            if not result.returned and (timing is None or timing.ratio >= _LEAST):
                return result
            tried.append(f"{asked:.3g}x was less than {_LEAST:g}x faster when the result was timed")
    lost = f" ({why})" if why else ""
    raise OutOfReachError(f"nothing within --max-drop is {_LEAST:g}x faster: {', '.join(tried)}{lost}; {_HELPS}")


def _falling(fitting: Sequence[float]) -> Iterator[float]:
    """Some speed-ups, the largest first, then smaller ones down to the least."""
    yield from sorted(fitting, reverse=True)
    asked = min(fitting)
    while asked > _LEAST:
        asked = max(float(f"{asked**0.5:.3g}"), _LEAST)
        yield asked


def _run(job: Job, options: Options, speedup: float, counted: Unit, *, rehearsal: bool = False) -> Result:
    return job.run(replace(options, budget=times_less(speedup, counted)), rehearsal=rehearsal)


@contextmanager
def _sharing(options: Options) -> Iterator[Options]:
    """The options with a cache, a passing one if none is wanted: what runs have in common is computed once."""
    if options.cache_dir is not None:
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        yield replace(options, cache_dir=Path(folder))
