"""The record of a run: plain values, everything that the terminal and the JSON file show."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.evaluation import Evaluation
    from onnxprune.note import Note
    from onnxprune.plan import Explanation
    from onnxprune.recovery.record import Recovery
    from onnxprune.runtime.divergence import OutputDivergence
    from onnxprune.runtime.timing import Timing

__all__ = ["Change", "LayerRow", "Report", "plain"]

SCHEMA = 2
"""Version of the JSON document; it grows when a field changes its meaning or goes."""


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON does not have (infinities, NaN) by None, at any depth."""
    return {key: _finite(value) for key, value in content.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Change:
    """A number before and after."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Before over after."""
        return self.before / max(self.after, 1)


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: node name.
        op: operator.
        inputs: input channels (of the whole layer, not of one group of a grouped conv).
        outputs: output channels.
        macs: multiply-accumulates for one sample.
        params: elements of the weights.
        error: relative squared error of its answer against the original's, over the samples; None if it was not fitted.
        held_error: the same on the half that it was not fitted on.
        shape: of its weights, outputs first, and what stands for it now: ``64x64x3x3 -> 48x32x3x3``, or
            ``512x512x3x3 -> V 175, H 175->232, P 232->475``, or ``64x64x3x3 -> gone``.
        reason: why its output channels all stay, or what is to be known of its fit; empty otherwise.
    """

    name: str
    op: str
    inputs: Change
    outputs: Change
    macs: Change
    params: Change
    error: float | None = None
    held_error: float | None = None
    shape: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What went in, what was done, what came out.

    Attributes:
        version: of onnxprune.
        model: the original's path, or how it was given.
        output: path of the result; None if none was written yet.
        dry_run: only planned: `layers` then hold what is planned, and the fields below `layers` are empty.
        budget: in words.
        options: selector, refit, allocation, align, points, seed ... by flag name.
        data: the calibration's description, with `fit` and `held_back` counts.
        provider: onnxruntime's provider in use.
        threads: its threads; 0: its own default.
        notes: what was changed or left alone on the way in, and the like.
        warnings: what must not be overlooked; the damage first.
        damaged: whether the outputs are too far from the original's to be useful, see `runtime.drop.damage`.
        estimate: whether what is lost is known less surely than ``max_drop``, on so few inputs.
        layers: in topological order.
        macs: for one sample.
        params: floating-point numbers in all constants of the file.
        file_bytes: size of the model as stored.
        divergence: outputs against the original's on held-back inputs.
        evaluation: values of the user's own measure; None without ``--evaluate``.
        timing: latency before and after; None if it was not measured.
        returned: the result is the original, since nothing faster was found within a time budget.
        explanation: why the plan is what it is; None for a plan file, and for counts that were given.
        recovery: the training on the original's answers; None if there was none.
        seconds: wall time per stage.
    """

    version: str
    model: str
    output: str | None = None
    dry_run: bool = False
    budget: str
    options: dict[str, Any]
    data: dict[str, object]
    provider: str
    threads: int
    notes: tuple[Note, ...] = ()
    warnings: tuple[str, ...] = ()
    damaged: bool = False
    estimate: bool = False
    layers: tuple[LayerRow, ...]
    macs: Change
    params: Change
    file_bytes: Change | None = None
    divergence: tuple[OutputDivergence, ...] = ()
    evaluation: Evaluation | None = None
    timing: Timing | None = None
    returned: bool = False
    explanation: Explanation | None = None
    recovery: Recovery | None = None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; field names as above, `schema` in front; what is not finite is None."""
        return plain({"schema": SCHEMA, **asdict(self)})
