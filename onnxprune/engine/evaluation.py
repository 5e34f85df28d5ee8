"""The user's own measure of a network: a function that runs the network and returns one number, higher is better.

The measure brings its own inputs and labels (mAP, IoU, minus the character error rate ...), so its value has its own
unit, and a drop is ``before - after`` in that unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.usercode import users_own
from onnxprune.errors import EvaluateError, LostTooMuchError
from onnxprune.options.outputs import Evaluate

if TYPE_CHECKING:
    import onnx

    from onnxprune.data import InputSpec
    from onnxprune.engine.sessions import Engine, Session

    Array = np.ndarray[Any, Any]

__all__ = ["Evaluation", "Evaluator", "name_of"]


@dataclass(frozen=True)
class Evaluation:
    """Values of the user's measure, in the unit of the measure.

    Attributes:
        name: name of the measure.
        before: value of the original.
        after: value of the result, or of the second of two compared models.
        start: value of the candidate before the training, for `recover` only; else None.
    """

    name: str
    before: float
    after: float
    start: float | None = None

    @property
    def drop(self) -> float:
        """Drop from the original to the result, in the measure's unit; below 0 if the result is better."""
        return self.before - self.after

    def check(self, max_drop: float | None) -> None:
        """Check the drop against the largest one allowed.

        Args:
            max_drop: largest drop allowed, in the measure's unit; None for any.

        Raises:
            LostTooMuchError: the drop is larger.
        """
        if max_drop is not None and self.drop > max_drop:
            raise LostTooMuchError(
                f"{self.name}: {self.before:g} -> {self.after:g}, {self.drop:g} lost, --max-drop allows {max_drop:g}: "
                "choose a milder budget, or give more --samples"
            )


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The user's measure, with its value for the original.

    Attributes:
        measure: the user's function.
        specs: inputs of all networks to measure.
        engine: engine that runs the networks.
        before: value of the original.
    """

    measure: Evaluate
    specs: Sequence[InputSpec]
    engine: Engine
    before: float

    @classmethod
    def open(
        cls, measure: Evaluate, original: onnx.ModelProto, specs: Sequence[InputSpec], engine: Engine
    ) -> Evaluator:
        """Measure the original.

        Raises:
            EvaluateError: the measure failed, or returned no finite number.
        """
        return cls(measure, specs, engine, _value(measure, original, specs, engine, "the original"))

    @property
    def name(self) -> str:
        """Name of the measure."""
        return name_of(self.measure)

    def of(self, model: onnx.ModelProto, *, start: onnx.ModelProto | None = None) -> Evaluation:
        """Measure a network, and return its value with the original's.

        Args:
            model: the network.
            start: the network before its training, to measure as well; None without a training.

        Raises:
            EvaluateError: the measure failed, or returned no finite number.
            EngineError: onnxruntime refuses the model.
        """
        after = _value(self.measure, model, self.specs, self.engine, "the result")
        first = None if start is None else _value(self.measure, start, self.specs, self.engine, "the candidate")
        return Evaluation(self.name, self.before, after, first)

    def unchanged(self) -> Evaluation:
        """Return the evaluation of a result that is the original."""
        return Evaluation(self.name, self.before, self.before)


@dataclass(frozen=True, eq=False)
class _Runner:
    """`Run` of one model. For a model of fixed batch, the inputs are cut into batches, the last one padded with its
    last input and its outputs cut."""

    session: Session
    specs: Sequence[InputSpec]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        feeds = self._checked(inputs)
        sizes = {spec.shape[0] for spec in self.specs if spec.shape[0]}
        if len(sizes) != 1:
            return self.session.run(feeds)
        size, counts = sizes.pop(), {len(array) for array in feeds.values()}
        if len(counts) != 1 or counts == {0}:
            found = ", ".join(f"'{name}' {array.shape}" for name, array in feeds.items())
            raise ValueError(f"expected one number of inputs for all names, at least 1; found {found}")
        count = counts.pop()
        if count == size:
            return self.session.run(feeds)
        pieces = [self._piece(feeds, start, min(start + size, count), size) for start in range(0, count, size)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        names = [spec.name for spec in self.specs]
        if set(inputs) != set(names):
            raise ValueError(f"expected inputs {', '.join(names)}; found {', '.join(map(str, inputs)) or 'nothing'}")
        feeds = {}
        for spec in self.specs:
            array = np.asarray(inputs[spec.name])
            if array.ndim != len(spec.shape) or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise ValueError(f"expected {spec}, found {array.dtype} {array.shape}")
            feeds[spec.name] = np.ascontiguousarray(array, dtype=spec.dtype)
        return feeds

    def _piece(self, feeds: Mapping[str, Array], start: int, stop: int, size: int) -> dict[str, Array]:
        rows = np.minimum(np.arange(start, start + size), stop - 1)
        outputs = self.session.run({name: array[rows] for name, array in feeds.items()})
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                raise ValueError(f"the model runs {size} inputs at a time, but output '{name}' has shape {array.shape}")
        return {name: array[: stop - start] for name, array in outputs.items()}


def name_of(measure: Evaluate) -> str:
    """Return the name of a measure, for reports and messages."""
    return str(getattr(measure, "__name__", type(measure).__name__))


def _value(measure: Evaluate, model: onnx.ModelProto, specs: Sequence[InputSpec], engine: Engine, label: str) -> float:
    run = _Runner(engine.session(model, label=label), specs)
    name = name_of(measure)
    with users_own(name):
        found = measure(run)
    return _number(found, f"{name} of {label}")


def _number(value: object, what: str) -> float:
    """Convert the return value of a measure, a number or an array or tensor without axes, to a finite float."""
    item = getattr(value, "item", None)
    plain = item() if item is not None and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(plain, Real) or isinstance(plain, bool):
        raise EvaluateError(f"{what}: expected one finite number, found {type(value).__name__} {value!r:.80}")
    if not math.isfinite(plain):
        raise EvaluateError(f"{what}: expected one finite number, found {float(plain)}")
    return float(plain)
