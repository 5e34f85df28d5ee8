"""How much may be kept: one number, in the words of whoever asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.graph.forms import Unit

__all__ = ["WITHIN_DROP", "WORDS", "Budget", "BudgetOptions", "Kind", "times_less"]

Kind = Literal["macs", "params", "latency", "keep-ratio", "selector", "drop"]
WORDS: dict[Unit, str] = {"macs": "MACs", "params": "parameters", "latency": "latency"}
"""What is counted, in words."""


@dataclass(frozen=True)
class Budget:
    """What is limited, and to which fraction of what the original has.

    ``macs``, ``params`` and ``latency``: the whole network's. ``keep-ratio``: the channels of every group alike.
    ``selector``: no limit, the selector finds each group's count (LASSO with a fixed penalty). ``drop``: no limit, the
    least latency that loses no more than ``Options.max_drop`` is looked for. ``ms``: the latency itself, whatever the
    fraction.
    """

    kind: Kind
    fraction: float
    text: str
    ms: float | None = None

    @property
    def unit(self) -> Unit:
        """The cost in force."""
        if self.kind == "drop":
            return "latency"
        return "macs" if self.kind == "keep-ratio" or self.kind == "selector" else self.kind


WITHIN_DROP = Budget("drop", 1.0, "as fast as --max-drop allows")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """How much is left; at most one field is given. Without any: the largest measured speed-up within --max-drop."""

    speedup: float | None = None
    "Time of the original divided by time of the result, measured with --provider, --threads and --bench-batch."

    latency_ms: float | None = None
    "Milliseconds of one run, measured with --provider, --threads and --bench-batch."

    macs: str | float | None = None
    "Multiply-accumulates left: 50%, 0.5, or 2x for half of them."

    params: str | float | None = None
    "Parameters left: 50%, 0.5, or 2x for half of them."

    keep_ratio: str | float | None = None
    "Channels left in every group, whatever that saves: 50%, 0.5, or 2x for half of them."

    def budget(self, default: Budget = WITHIN_DROP) -> Budget:
        """The budget that is given.

        Args:
            default: the budget where none is given.

        Raises:
            UsageError: more than one is given, or a value is out of range.
        """
        flags = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]
        if len(flags) > 1:
            raise UsageError(f"{' and '.join(flags)} are different budgets: give one of them")
        if self.speedup is not None:
            if not math.isfinite(self.speedup) or self.speedup <= 1:
                raise UsageError(f"--speedup must be above 1 (2 takes half of the time), found {self.speedup:g}")
            return times_less(self.speedup, "latency")
        if self.latency_ms is not None:
            if not math.isfinite(self.latency_ms) or self.latency_ms <= 0:
                raise UsageError(f"--latency-ms must be above 0, found {self.latency_ms:g}")
            return Budget("latency", 1.0, f"{self.latency_ms:g} ms", self.latency_ms)
        if self.macs is not None:
            fraction = _fraction("--macs", self.macs)
            return Budget("macs", fraction, f"{fraction:.4g} of the MACs")
        if self.params is not None:
            fraction = _fraction("--params", self.params)
            return Budget("params", fraction, f"{fraction:.4g} of the parameters")
        if self.keep_ratio is not None:
            fraction = _fraction("--keep-ratio", self.keep_ratio)
            return Budget("keep-ratio", fraction, f"{fraction:.4g} of the channels of every group")
        return default


def times_less(times: float, unit: Unit) -> Budget:
    """So many times less of what is counted."""
    words = f"speedup {times:g}" if unit == "latency" else f"{times:g}x fewer {WORDS[unit]}"
    return Budget(unit, 1 / times, words)


def _fraction(flag: str, value: str | float) -> float:
    text = str(value).strip()
    try:
        if text[-1:] in ("x", "X"):
            number = 1 / float(text[:-1])
        else:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not 0 < number < 1:
        raise UsageError(
            f"{flag} is what is left, a fraction (0.5), per cent (50%) or times fewer (2x), between nothing and all, "
            f"found {text}"
        )
    return number
