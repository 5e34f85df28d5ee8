"""Budgets: the cost to limit, and the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnxprune.errors import UsageError

__all__ = ["WITHIN_DROP", "WORDS", "Budget", "BudgetOptions", "Kind", "Unit", "times_less"]

Unit = Literal["macs", "params", "latency"]
"""Costs that can be counted."""
Kind = Literal["macs", "params", "latency", "keep-ratio", "selector", "drop"]
WORDS: dict[Unit, str] = {"macs": "MACs", "params": "parameters", "latency": "latency"}
"""Costs in words."""


@dataclass(frozen=True)
class Budget:
    """Limit on the cost of the result.

    Attributes:
        kind: cost to limit. ``macs``, ``params`` and ``latency``: of the whole network. ``keep-ratio``: the channels of
            each group. ``selector``: none, the selector finds the count of each group (LASSO with a fixed penalty).
            ``drop``: none, the least latency within ``Options.max_drop`` is searched.
        fraction: limit as a share of the original's cost, in (0, 1].
        text: the budget in words.
        ms: limit of the latency in milliseconds, instead of `fraction`; None without one.
    """

    kind: Kind
    fraction: float
    text: str
    ms: float | None = None

    @property
    def unit(self) -> Unit:
        """Cost that the budget limits; latency for ``drop``, MACs for ``keep-ratio`` and ``selector``."""
        if self.kind == "drop":
            return "latency"
        return "macs" if self.kind == "keep-ratio" or self.kind == "selector" else self.kind


WITHIN_DROP = Budget("drop", 1.0, "as fast as --max-drop allows")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """Limit on the result, at most one; without any, the largest measured speed-up within --max-drop is searched."""

    speedup: float | None = None
    "Time of the original divided by time of the result, measured with --provider, --threads and --bench-batch."

    latency_ms: float | None = None
    "Milliseconds of one run, measured with --provider, --threads and --bench-batch."

    macs: str | float | None = None
    "Share of the multiply-accumulates to keep: 50%, 0.5, or 2x for half of them."

    params: str | float | None = None
    "Share of the parameters to keep: 50%, 0.5, or 2x for half of them."

    keep_ratio: str | float | None = None
    "Share of the channels to keep in every group, whatever that saves: 50%, 0.5, or 2x for half of them."

    def budget(self, default: Budget = WITHIN_DROP) -> Budget:
        """Return the budget of the field that is given.

        Args:
            default: budget if no field is given.

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
    """Make the budget of a cost divided by `times`, such as 2 for half of the MACs."""
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
            f"{flag} takes the share to keep, above 0 and below 1: a fraction (0.5), per cent (50%) or a factor (2x); "
            f"found {text}"
        )
    return number
