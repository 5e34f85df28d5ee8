"""Comparison of two models: outputs, accuracy if there are labels, cost and latency."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.commands.idle import Rule, check_idle
from onnxprune.commands.record import Change, plain
from onnxprune.commands.sides import Side, open_pair
from onnxprune.data import open_calibration
from onnxprune.data.labels import read_labels
from onnxprune.engine.batching import batch_size, sample_shapes, tensor_bytes
from onnxprune.engine.divergence import DivergenceMeter, OutputDivergence, class_scores
from onnxprune.engine.drop import Lost, damage, estimate, expected_estimate, losses, reach, settles
from onnxprune.engine.evaluation import Evaluation, Evaluator
from onnxprune.engine.inputs import batches, one_at_a_time
from onnxprune.engine.meaning import UNKNOWN, Meaning, meanings, with_labels
from onnxprune.engine.sessions import Engine
from onnxprune.engine.timing import Timing, interleaved
from onnxprune.errors import UsageError
from onnxprune.graph.model.schedule import schedule
from onnxprune.note import warn
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.inputs import BenchOptions
from onnxprune.options.outputs import AskedKind, Evaluate
from onnxprune.options.reading import ReadOptions
from onnxprune.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxprune.data import Calibration, CalibrationSource, InputSpec

    Array = np.ndarray[Any, Any]
    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["CompareOptions", "Comparison", "run_comparison"]

_ROOM = 256 << 20  # bytes of the tensors that one run of a network makes and returns
_NO_CLASS = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True)
class CompareOptions(BenchOptions, ReadOptions):
    """Options of the comparison of two models; see `BenchOptions` and `ReadOptions` for the other fields.

    Attributes:
        samples: largest number of inputs, drawn at random; None for all.
        label_offset: number added to every label; 1 for models whose class 0 is "background" with labels that omit it.
        max_drop: largest drop allowed, in the unit of `Comparison.drop`; None for any.
        evaluate: the user's own measure, a function as in `Options`, whose drop is held to `max_drop`; None: the drop
            is that of the accuracy or the outputs.
        seed: seed of the choice of inputs and of the timing.
        data: preprocessing of images.
        engine: onnxruntime's provider and threads.
        outputs: meanings by output name: ``classes``, ``pixels`` or ``values``, as in `Options`.

    Raises:
        UsageError: a value is out of range.
    """

    samples: int | None = None
    label_offset: int = 0
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    seed: int = 0
    data: DataOptions = field(default_factory=DataOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    outputs: Mapping[str, AskedKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        BenchOptions.__post_init__(self)
        ReadOptions.__post_init__(self)
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples must be 1 or more, found {self.samples}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"--max-drop must be 0 or more, found {self.max_drop}")
        if self.evaluate is not None and not callable(self.evaluate):
            raise UsageError(f"evaluate must be a function, found {type(self.evaluate).__name__} {self.evaluate!r}")

    @property
    def allowed_drop(self) -> float | None:
        """Largest drop allowed of the outputs; None for any, and if the user's own measure decides instead."""
        return self.max_drop if self.evaluate is None else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of the comparison of two models.

    Attributes:
        original: label of the first model.
        candidate: label of the second model.
        samples: number of inputs compared.
        divergence: difference of each output.
        accuracy: top-1 accuracy of the two models in per cent; None without labels.
        evaluation: values of the user's own measure; None without one.
        drop: drop from the first model to the second: of the user's own measure if there is one, else of the output
            that lost most: for classes in points of accuracy (without labels of agreement), for pixels in points of
            agreement, for values the relative error in per cent, for undecided outputs the larger of both.
        drop_kind: unit of `drop`, in words.
        max_drop: largest drop allowed; None for any.
        macs: multiply-accumulates of the two models for one sample; None if they cannot be counted.
        params: number of floating-point numbers in all constants of the two models; None if they cannot be counted.
        file_bytes: size of the two models in bytes.
        timing: latency of the two models; None if it was not measured.
        data: description of the inputs.
        warnings: texts of the warnings, damage first.
        damaged: True if the second model is useless as a substitute for the first, see `engine.drop.damage`.
        estimate: True if the 95 % confidence interval reaches further above the drop than `max_drop`.
        not_counted: reason why MACs and parameters are not counted; empty if they are.
        ends: names of the tensors at which the models are compared; empty if these are the outputs.
        hint: advice that would settle the meaning of the output that lost most; empty if it is settled.
    """

    original: str
    candidate: str
    samples: int
    divergence: tuple[OutputDivergence, ...]
    accuracy: tuple[float, float] | None
    evaluation: Evaluation | None
    drop: float
    drop_kind: str
    max_drop: float | None
    macs: Change | None
    params: Change | None
    file_bytes: Change
    timing: Timing | None
    data: dict[str, object]
    warnings: tuple[str, ...] = ()
    damaged: bool = False
    estimate: bool = False
    not_counted: str = ""
    ends: tuple[str, ...] = ()
    hint: str = ""

    @property
    def within(self) -> bool:
        """Whether the drop is at most `max_drop`."""
        return self.max_drop is None or self.drop <= self.max_drop

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-able values; NaN and infinity become None."""
        return plain({"schema": 1, **asdict(self), "within": self.within})


def run_comparison(
    original: Model,
    candidate: Model,
    data: CalibrationSource | None,
    labels: str | os.PathLike[str] | Sequence[int] | Array | None,
    options: CompareOptions,
    progress: Progress = silent,
) -> Comparison:
    """Compare two models on the same inputs.

    Args:
        original: the first model.
        candidate: the second model; its inputs must have the names, shapes and dtypes of the first one's, its outputs
            their names.
        data: inputs, see `open_calibration`; None: ``<original>.test.npz`` next to the first model, else
            ``<original>.calib.npz``.
        labels: a file or integers, see `read_labels`; None for the labels in `data`, if it has any.
        options: options of the comparison.
        progress: callback (stage, done, total).

    Raises:
        OnnxPruneError: an option, a model, the inputs or the labels cannot be used.
    """
    check_idle(options, CompareOptions(), (Rule(("bench_batch",), options.bench, "with --no-bench"),))
    engine = Engine.open(options.engine)
    first, second = sides = open_pair(original, candidate, options, engine)
    specs = first.specs if any(spec.shape[0] for spec in first.specs) else second.specs
    outputs = _meanings(first, options)
    path = Path(original) if isinstance(original, (str, os.PathLike)) else None
    calibration = open_calibration(
        data if data is not None else _test_file(path), specs, options.data, model_path=path, seed=options.seed
    )
    if first.net is not None:
        specs = one_at_a_time(first.net, specs, sample_shapes(calibration, specs, 2))
    known = calibration.labels if labels is None else read_labels(labels, len(calibration))
    check_idle(options, CompareOptions(), (Rule(("label_offset",), known is not None, "without labels"),))
    chosen = _chosen(len(calibration), options)
    source = str(calibration.description["source"]) if labels is None else "--labels"
    if first.net is not None:
        outputs = with_labels(first.net, outputs, None if known is None else known + options.label_offset, source)
    warn(expected_estimate(outputs.values(), len(chosen), options.allowed_drop, "compared"))
    evaluation = None
    if options.evaluate is not None:
        measured = Evaluator.open(options.evaluate, first.parts.runnable(), specs, engine)
        evaluation = measured.of(second.parts.runnable())
    before, after = first.session, second.session
    meter, hits = DivergenceMeter(outputs), _Hits(outputs)
    shapes = sample_shapes(calibration, specs)
    size = 1 if first.net is None else batch_size(schedule(first.net), tensor_bytes(first.net, shapes), _ROOM)
    for samples, real in batches(chosen, specs, size):
        progress("compare", hits.seen, len(chosen))
        feeds = calibration.load(samples)
        answers = before.run(feeds), after.run(feeds)
        meter.add(*answers, real, len(samples))
        wanted = None if known is None else known[samples[:real]] + options.label_offset
        hits.add(answers, wanted, real)
    progress("compare", len(chosen), len(chosen))
    divergence = meter.finish()
    lost = _lost(divergence, hits)
    worst = max(lost, key=lambda one: one.amount, default=None)
    drop, drop_kind = (0.0, "nothing") if worst is None else (worst.amount, worst.words)
    if evaluation is not None:
        worst, drop, drop_kind = None, evaluation.drop, f"{evaluation.name} lost"
    costs = [side.cost(shapes) for side in sides]
    not_counted = "; ".join(dict.fromkeys(cost for cost in costs if isinstance(cost, str)))
    counted = [cost for cost in costs if not isinstance(cost, str)]
    timing = _timing(sides, engine, calibration, specs, chosen, options) if options.bench else None
    damaged, sure = damage(divergence, "compared"), estimate(lost, options.allowed_drop)
    warnings = (damaged, sure, calibration.description.get("warning"), timing.warning if timing else "")
    return Comparison(
        original=first.label,
        candidate=second.label,
        samples=len(chosen),
        divergence=divergence,
        accuracy=hits.accuracy,
        evaluation=evaluation,
        drop=drop,
        drop_kind=drop_kind,
        max_drop=options.max_drop,
        macs=None if not_counted else Change(counted[0][0], counted[1][0]),
        params=None if not_counted else Change(counted[0][1], counted[1][1]),
        not_counted=not_counted,
        file_bytes=Change(*(side.parts.whole().ByteSize() for side in sides)),
        timing=timing,
        data=calibration.description,
        warnings=tuple(str(text) for text in warnings if text),
        damaged=bool(damaged),
        estimate=bool(sure),
        ends=first.parts.ends,
        hint=settles(worst.output) if worst is not None and worst.undecided else "",
    )


def _meanings(side: Side, options: CompareOptions) -> dict[str, Meaning]:
    """Return the meaning of each output; for a model that cannot be pruned, only the user's options tell."""
    if side.net is not None:
        return meanings(side.net, options.outputs)
    found = dict.fromkeys(side.session.output_names, UNKNOWN)
    for name, kind in options.outputs.items():
        if name not in found:
            raise UsageError(f"--output {name}={kind}: no output has this name; expected one of {', '.join(found)}")
        found[name] = Meaning(kind, 1 if kind != "values" else None, "asked for")
    return found


def _test_file(path: Path | None) -> Path | None:
    beside = path.with_suffix(".test.npz") if path is not None else None
    return beside if beside is not None and beside.is_file() else None


def _chosen(count: int, options: CompareOptions) -> list[int]:
    if options.samples is None or options.samples >= count:
        return list(range(count))
    picked = np.random.default_rng(options.seed).permutation(count)[: options.samples]
    return [int(index) for index in np.sort(picked)]


class _Hits:
    """Counter of the correct classes of two models, by the output of classes."""

    def __init__(self, outputs: Mapping[str, Meaning]) -> None:
        self.seen, self.labelled, self.changed, self._right = 0, 0, 0, [0, 0]
        self._names = [name for name, meaning in outputs.items() if meaning.kind == "classes"]
        self._outputs = outputs

    def add(self, outputs: tuple[dict[str, Array], dict[str, Array]], wanted: Array | None, rows: int) -> None:
        self.seen += rows
        if wanted is None:
            return
        right = []
        for which, found in enumerate(outputs):
            right.append(self._answers(found, rows) == wanted)
            self._right[which] += int(right[which].sum())
        self.changed += int((right[0] != right[1]).sum())
        self.labelled += rows

    def _answers(self, found: dict[str, Array], rows: int) -> Array:
        """Return the predicted classes, (rows,); `_NO_CLASS` for a row with a NaN score."""
        for name in self._names:
            array, meaning = found[name], self._outputs[name]
            if array.dtype.kind in "iu" and array.size == len(array):
                return array.reshape(-1)[:rows]
            scores = class_scores(array, meaning.axis)
            if scores is not None:
                return np.where(np.isnan(scores[:rows]).any(axis=1), _NO_CLASS, scores[:rows].argmax(axis=1))
        undecided = [name for name, meaning in self._outputs.items() if meaning.kind == "undecided"]
        if undecided:
            raise UsageError(
                f"the data has labels, but they may belong to {' or '.join(undecided)}: add --output "
                f"{undecided[0]}=classes, or leave --labels out"
            )
        raise UsageError("the data has labels, but no output holds class scores (N, C): leave --labels out")

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """Top-1 accuracy of the two models in per cent; None without labels."""
        if not self.labelled:
            return None
        before, after = (100 * right / self.labelled for right in self._right)
        return before, after


def _lost(divergence: Sequence[OutputDivergence], hits: _Hits) -> tuple[Lost, ...]:
    """Compute the loss of each output by its kind; with labels, the accuracy replaces the agreement of classes."""
    lost = losses(divergence)
    if hits.accuracy is None:
        return lost
    before, after = hits.accuracy
    unsure = 100 * reach(hits.changed / hits.labelled, hits.labelled)
    kinds = {output.name: output.kind for output in divergence}
    name = next((name for name, kind in kinds.items() if kind == "classes"), "")
    accuracy = Lost(name, before - after, "points of top-1 accuracy lost", unsure, hits.labelled)
    return (accuracy, *(one for one in lost if kinds[one.output] != "classes"))


def _timing(
    sides: Sequence[Side],
    engine: Engine,
    calibration: Calibration,
    specs: Sequence[InputSpec],
    chosen: Sequence[int],
    options: CompareOptions,
) -> Timing:
    samples = [int(index) for index in np.resize(np.array(chosen), options.bench_batch)]
    feeds = calibration.load(next(batches(samples, specs, options.bench_batch))[0])
    runs = all(side.parts.tail is not None and side.parts.tail.runs for side in sides)
    before, after = (
        engine.session(side.parts.runnable(), label=side.label) if runs else side.session for side in sides
    )
    return interleaved(before, after, feeds, seed=options.seed)
