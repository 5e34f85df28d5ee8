"""Recovery of any pair of networks: the original, and a smaller one made from it by any tool."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.commands.record import plain
from onnxprune.commands.result import ModelResult
from onnxprune.engine.drop import damage
from onnxprune.engine.evaluation import Evaluation, Evaluator
from onnxprune.engine.sessions import Engine
from onnxprune.errors import ModelError
from onnxprune.graph.model.load import read_parts
from onnxprune.graph.model.net import dims
from onnxprune.note import Note
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.run import Options
from onnxprune.progress import silent
from onnxprune.recovery.record import Recovery
from onnxprune.steps.inputs import open_inputs
from onnxprune.steps.prepare import folded, open_cache
from onnxprune.torchnet import require_torch

if TYPE_CHECKING:
    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.graph.model.net import Net
    from onnxprune.progress import Progress

    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["Recovered", "RecoveryReport", "run_recovery"]

SCHEMA = 1


_READING = ("data", "inputs", "engine")


@dataclass(frozen=True, kw_only=True)
class RecoveryReport:
    """Record of a recovery.

    Attributes:
        version: version of onnxprune.
        original: label of the original, the teacher.
        candidate: label of the trained network.
        output: path of the result; None if none was written yet.
        options: options of the training.
        reading: options by which the models and the inputs were read, by group: `data`, `inputs`, `engine`.
        data: description of the calibration, with `fit` and `held_back` counts.
        provider: provider that the original ran on.
        notes: remarks of the steps.
        warnings: texts of the warnings, damage first.
        damaged: True if the outputs are too far from the original's to be useful, see `engine.drop.damage`.
        recovery: record of the training.
        evaluation: values of the user's own measure; None without one.
    """

    version: str
    original: str
    candidate: str
    output: str | None = None
    options: dict[str, object]
    reading: dict[str, object]
    data: dict[str, object]
    provider: str
    notes: tuple[Note, ...] = ()
    warnings: tuple[str, ...] = ()
    damaged: bool = False
    recovery: Recovery
    evaluation: Evaluation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values, with `schema` in front; NaN and infinity become None."""
        return plain({"schema": SCHEMA, **asdict(self)})


@dataclass(frozen=True)
class Recovered(ModelResult):
    """Result of a recovery: the trained model, and ``report``, the record of the training."""

    report: RecoveryReport

    def written_to(self, path: Path) -> Recovered:
        """Return the result with the path of its file in the report."""
        return replace(self, report=replace(self.report, output=str(path)))


def run_recovery(
    original: Model,
    candidate: Model,
    data: CalibrationSource | None,
    options: Options,
    progress: Progress = silent,
) -> Recovered:
    """Train a network on the outputs of another.

    Args:
        original: the teacher: path, bytes or ModelProto.
        candidate: the network to train; its inputs and outputs must match the original's.
        data: inputs without labels, see `open_calibration`.
        options: used are `recover`, `evaluate`, and the options of inputs, preprocessing, engine, memory, cache and
            outputs.
        progress: callback (stage, done, total, detail).

    Raises:
        OnnxPruneError: any of the errors in `errors`; nothing was written.
    """
    require_torch()
    from onnxprune.recovery.distil import recovered  # needs torch, an optional dependency

    training = options.recover or RecoverOptions()
    custom = bool(options.engine.ops_library)
    first = read_parts(original, options, custom=custom)
    second = read_parts(candidate, options, like=first, custom=custom)
    teacher, notes, _ = folded(first.front, first.label, first.given)
    student, _, _ = folded(second.front, second.label, second.given)
    _check_pair(teacher, student, first.label, second.label)
    inputs = open_inputs(original, data, teacher, options, choosing=True)
    digest = hashlib.sha256(second.front.SerializeToString(deterministic=True)).hexdigest()
    engine = Engine.open(options.engine)
    evaluator = None
    if options.evaluate is not None:
        evaluator = Evaluator.open(options.evaluate, first.runnable(), inputs.specs, engine)
    options = replace(options, recover=training)
    with open_cache(first.front, inputs, options) as cache:
        checkpoint = cache.checkpoint("recover", training, digest, engine.options.threads)
        model, recovery = recovered(teacher, student, inputs, engine, options, checkpoint, progress)
    described = inputs.calibration.description
    evaluation = None if evaluator is None else evaluator.of(second.runnable(model), start=second.runnable())
    damaged = damage(recovery.after, "held-out", trained=True)
    warnings = (damaged, described.get("warning"), _worse(evaluation))
    return Recovered(
        second.whole(model),
        RecoveryReport(
            version=__version__,
            original=first.label,
            candidate=second.label,
            options=asdict(training),
            reading={name: asdict(group) for name, group in options.groups().items() if name in _READING},
            data={**described, **inputs.parts.counts},
            provider=engine.provider,
            notes=(*first.notes, *notes, *recovery.notes),
            warnings=tuple(str(warning) for warning in warnings if warning),
            damaged=bool(damaged),
            recovery=recovery,
            evaluation=evaluation,
        ),
    )


def _worse(evaluation: Evaluation | None) -> str:
    """Return a warning if the user's own measure fell during the training; else empty."""
    if evaluation is None or evaluation.start is None or evaluation.after >= evaluation.start:
        return ""
    return (
        f"{evaluation.name} FELL from {evaluation.start:g} to {evaluation.after:g} in the training, although the loss "
        "on held-out inputs did not rise: the candidate before the training may be better"
    )


def _check_pair(teacher: Net, student: Net, first: str, second: str) -> None:
    """Check that two networks have matching inputs and outputs.

    Raises:
        ModelError: names or shapes of inputs or outputs differ.
    """
    for what, names in (("inputs", "input_names"), ("outputs", "output_names")):
        ours, theirs = (set(getattr(net, names)) for net in (teacher, student))
        if ours != theirs:
            raise ModelError(
                f"{second}: its {what} are {', '.join(sorted(theirs))}; {first} has {', '.join(sorted(ours))}: "
                f"recovery needs two networks with equal {what}"
            )
    a, b = teacher.tensors(), student.tensors()
    for name in (*teacher.input_names, *teacher.output_names):
        left, right = dims(a[name]), dims(b[name])
        fixed = [
            (x, y) for x, y in zip(left or (), right or (), strict=False) if isinstance(x, int) and isinstance(y, int)
        ]
        if (left and right and len(left) != len(right)) or any(x != y for x, y in fixed):
            raise ModelError(f"{second}: '{name}' is {right}, in {first} it is {left}: they do not belong together")
