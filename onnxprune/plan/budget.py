"""How much may be kept: one number, in the words of whoever asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.graph.forms import Unit

__all__ = ["WORDS", "Budget", "Counted", "Kind", "budget_from"]

Kind = Literal["macs", "params", "latency", "keep-ratio", "selector"]
Counted = Literal["macs", "params", "latency"]
WORDS: dict[Unit, str] = {"macs": "MACs", "params": "parameters", "latency": "latency"}
"""What is counted, in words."""


@dataclass(frozen=True)
class Budget:
    """What is limited, and to which fraction of what the original has.

    ``macs``, ``params`` and ``latency``: the whole network's. ``keep-ratio``: the channels of every group alike.
    ``selector``: no limit, the selector finds each group's count (LASSO with a fixed penalty). ``ms``: the latency
    itself, whatever the fraction.
    """

    kind: Kind
    fraction: float
    text: str
    ms: float | None = None

    @property
    def unit(self) -> Unit:
        """The cost in force."""
        return "macs" if self.kind == "keep-ratio" or self.kind == "selector" else self.kind


def budget_from(
    *,
    speedup: float | None = None,
    macs: str | float | None = None,
    params: str | float | None = None,
    keep_ratio: float | None = None,
    latency_ms: float | None = None,
    counted: Counted = "macs",
    default: Budget | None = None,
) -> Budget:
    """The budget that was asked for.

    Args:
        speedup: what the original costs over what the result does, above 1.
        macs: MACs left, as a fraction (0.5) or per cent ("50%").
        params: parameters left, the same.
        keep_ratio: channels left in every group, a fraction.
        latency_ms: milliseconds of a run, measured.
        counted: what `speedup` is counted in.
        default: what holds if nothing is given; speedup 2 if that is None, too.

    Raises:
        UsageError: more than one is given, or a value is out of range.
    """
    given = {"--speedup": speedup, "--macs": macs, "--params": params, "--keep-ratio": keep_ratio}
    given["--latency-ms"] = latency_ms
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)} are different budgets: give one of them")
    if counted != "macs" and flags and speedup is None:
        raise UsageError(f"--budget {counted} says what --speedup counts: {flags[0]} does not need it")
    if not flags:
        return default if default is not None and counted == "macs" else _faster(2.0, counted)
    if speedup is not None:
        if not math.isfinite(speedup) or speedup <= 1:
            raise UsageError(f"--speedup must be above 1 (2 leaves half of the MACs), found {speedup:g}")
        return _faster(speedup, counted)
    if latency_ms is not None:
        if not math.isfinite(latency_ms) or latency_ms <= 0:
            raise UsageError(f"--latency-ms must be above 0, found {latency_ms:g}")
        return Budget("latency", 1.0, f"{latency_ms:g} ms", latency_ms)
    if macs is not None:
        fraction = _fraction("--macs", macs)
        return Budget("macs", fraction, f"{fraction:.4g} of the MACs")
    if params is not None:
        fraction = _fraction("--params", params)
        return Budget("params", fraction, f"{fraction:.4g} of the parameters")
    fraction = _fraction("--keep-ratio", keep_ratio if keep_ratio is not None else 1.0)
    return Budget("keep-ratio", fraction, f"{fraction:.4g} of the channels of every group")


def _faster(speedup: float, counted: Counted) -> Budget:
    return Budget(counted, 1 / speedup, f"speedup {speedup:g} in {WORDS[counted]}")


def _fraction(flag: str, value: str | float) -> float:
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise UsageError(
            f"{flag} is what is left, a fraction (0.5) or per cent (50%) between nothing and all, found {text}"
        )
    return number
