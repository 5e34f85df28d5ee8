"""Loss of a network against the original: its amount, its uncertainty, and when it counts as damage.

The loss of an output of classes or pixels is in points of agreement, of values in per cent of relative error, of an
undecided output in both. Its uncertainty is the reach of the 95 % confidence interval above it; if the reach exceeds
``--max-drop``, the result is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.engine.divergence import wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.meaning import Meaning

__all__ = [
    "LEAST_AGREEMENT",
    "MOST_ERROR",
    "Lost",
    "damage",
    "estimate",
    "expected_estimate",
    "inputs_for",
    "losses",
    "reach",
    "settles",
]

LEAST_AGREEMENT, MOST_ERROR = 0.9, 0.2
"""Agreement below which, and relative error of values above which, a result counts as damaged."""
_SURE = 0.95
_MOST_INPUTS = 1 << 40


@dataclass(frozen=True)
class Lost:
    """Loss of one output by one criterion.

    Attributes:
        output: name of the output.
        amount: points of agreement or accuracy, or per cent of relative error.
        words: unit of the amount: ``points of top-1 agreement lost``, ``% relative error`` ...
        reach: upper end of the 95 % confidence interval minus the amount; None if there is no interval.
        samples: number of inputs that it was measured on.
        undecided: True if the meaning of the output is undecided.
    """

    output: str
    amount: float
    words: str
    reach: float | None
    samples: int
    undecided: bool = False


def losses(divergence: Iterable[OutputDivergence]) -> tuple[Lost, ...]:
    """Compute the loss of each output by each criterion of its kind."""
    found = []
    for output in divergence:
        undecided = output.kind == "undecided"
        if output.top1_agreement is not None:
            low = None if output.agreement_bound is None else 100 * (output.top1_agreement - output.agreement_bound[0])
            words = f"points of {_agreement(output)} lost"
            amount = 100 * (1 - output.top1_agreement)
            found.append(Lost(output.name, amount, words, low, output.samples, undecided))
        if output.top1_agreement is None or undecided:
            high = None if output.error_bound is None else 100 * (output.error_bound[1] - output.relative_error)
            amount = 100 * output.relative_error
            found.append(Lost(output.name, amount, "% relative error", high, output.samples, undecided))
    return tuple(found)


def settles(output: str) -> str:
    """Advise how to settle the meaning of an undecided output."""
    return (
        f"'{output}' may hold scores of classes or values, so both criteria apply: --output {output}=classes (or "
        "=values) would settle it"
    )


def estimate(lost: Sequence[Lost], max_drop: float | None) -> str:
    """Warn that a drop within ``--max-drop`` is an estimate, with the number of inputs that would make it certain;
    empty if it is certain, or there is no limit."""
    if max_drop is None:
        return ""
    wide = [one for one in lost if one.reach is not None and one.reach > max_drop]
    if not wide:
        return ""
    worst = max(wide, key=lambda one: one.reach or 0.0)
    needed = f"; {_promise(max_drop)}" if "top-1" in worst.words else ""
    return (
        f"ESTIMATE: on {worst.samples} inputs the {worst.amount:.2f} {worst.words} of output '{worst.output}' may be "
        f"{worst.reach:.2f} more (95 % confidence), --max-drop allows {max_drop:g}{needed}"
    )


def expected_estimate(meanings: Iterable[Meaning], samples: int, max_drop: float | None, where: str) -> str:
    """Warn before the work that a drop will be an estimate; ``where`` names the inputs, such as ``held-out``."""
    if max_drop is None or all(meaning.kind in ("values", "pixels") for meaning in meanings):
        return ""
    needed = inputs_for(max_drop)
    if needed is not None and samples >= needed:
        return ""
    return f"ESTIMATE: {samples} {where} inputs cannot show a drop of {max_drop:g} points; {_promise(max_drop)}"


def inputs_for(max_drop: float) -> int | None:
    """Return the number of inputs at which the reach of a loss of `max_drop` points is at most `max_drop` points; None
    if no number is enough."""
    if max_drop <= 0:
        return None
    if max_drop >= 100:
        return 1
    low, high = 0, 1
    while reach(max_drop / 100, high) > max_drop / 100 and high < _MOST_INPUTS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(max_drop / 100, middle) <= max_drop / 100 else (middle, high)
    return high


def reach(share: float, count: int) -> float:
    """Return the upper end of the Wilson interval of a share of `count` inputs, minus the share."""
    return wilson(share, count)[1] - share


def damage(divergence: Sequence[OutputDivergence], where: str, *, trained: bool = False) -> str:
    """Warn that a result is damaged, with its losses and remedies; empty if it is not.

    Args:
        divergence: differences of the outputs.
        where: name of the inputs, such as ``held-out``.
        trained: True if the result was recovered already.
    """
    found = []
    for output in divergence:
        if output.top1_agreement is not None and output.top1_agreement < LEAST_AGREEMENT:
            found.append(
                f"{_agreement(output)} of output '{output.name}' with the original is {output.top1_agreement:.1%} "
                f"(limit {LEAST_AGREEMENT:.0%})"
            )
        elif output.kind in ("values", "undecided") and not output.relative_error <= MOST_ERROR:
            found.append(
                f"relative error of output '{output.name}' is {output.relative_error:.0%} (limit {MOST_ERROR:.0%}"
                f"{', if it holds values' * (output.kind == 'undecided')})"
            )
    if not found:
        return ""
    samples = max(output.samples for output in divergence)
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    helps = "choose a smaller speed-up, give more inputs, " + ("" if trained else "train with --recover, ")
    return (
        f"DAMAGED: {'; '.join(found[:2])}{more}, on {samples} {where} inputs: {helps}or keep sensitive layers with "
        "--exclude"
    )


def _agreement(output: OutputDivergence) -> str:
    return "agreement of positions" if output.kind == "pixels" else "top-1 agreement"


def _promise(max_drop: float) -> str:
    needed = inputs_for(max_drop)
    return "no number of inputs can" if needed is None else f"{needed} such inputs would make it certain"
