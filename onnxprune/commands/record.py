"""Record of a run: plain values for the terminal and the JSON file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.note import Note
    from onnxprune.planning import Explanation
    from onnxprune.recovery.record import Recovery

__all__ = ["Change", "LayerRow", "Report", "plain"]

SCHEMA = 2
"""Version of the JSON document; it increases when a field changes its meaning or is removed."""


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
    """Number before and after."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Number before divided by number after."""
        return self.before / max(self.after, 1)


@dataclass(frozen=True)
class LayerRow:
    """Row of the table of layers.

    Attributes:
        name: name of the node.
        op: operator of the node.
        inputs: input channels before and after (of all groups of a grouped conv).
        outputs: output channels before and after.
        macs: multiply-accumulates for one sample.
        params: number of weights.
        error: relative squared error of the output against the original's, over the samples; None if it was not fitted.
        held_error: relative squared error on one half of the samples after a fit to the other; None if not fitted.
        shape: shape of the weights, outputs first, before and after: ``64x64x3x3 -> 48x32x3x3``, or
            ``512x512x3x3 -> V 175, H 175->232, P 232->475``, or ``64x64x3x3 -> gone``.
        reason: reason why no output channel is removed, or a remark on the fit; empty otherwise.
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
    """Record of a run: its inputs, plan and result.

    Attributes:
        version: version of onnxprune.
        model: path of the original, or its kind.
        output: path of the result; None if none was written yet.
        dry_run: True if the run only planned: `layers` then are as planned, and the fields below `layers` are empty.
        budget: budget in words.
        options: options of the run, one record per group.
        data: description of the calibration, with `fit` and `held_back` counts.
        provider: onnxruntime's provider in use.
        threads: threads within an operator; 0 for onnxruntime's default.
        notes: remarks of the steps.
        warnings: texts of the warnings, damage first.
        damaged: True if the outputs are too far from the original's to be useful, see `engine.drop.damage`.
        estimate: True if the 95 % confidence interval reaches further above the drop than ``max_drop``.
        picture: height and width of the smaller picture in pixels; None for the original size.
        fed_smaller: True if the result takes the smaller picture itself, False if a Resize behind its input makes it.
        layers: rows of the table of layers, in topological order.
        macs: multiply-accumulates for one sample.
        params: number of floating-point numbers in all constants of the file.
        file_bytes: size of the model in bytes.
        divergence: difference of the outputs from the original's on held-out inputs.
        evaluation: values of the user's own measure; None without ``--evaluate``.
        timing: latency before and after; None if it was not measured.
        returned: True if the result is the original, because nothing faster was found for a time budget.
        explanation: reasons of the plan; None for a plan file, and for counts that were given.
        recovery: training on the original's outputs; None without one.
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
    picture: tuple[int, int] | None = None
    fed_smaller: bool = False
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
        """Return the report as JSON-able values, with `schema` in front; NaN and infinity become None."""
        return plain({"schema": SCHEMA, **asdict(self)})
