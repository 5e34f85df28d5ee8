"""How much may be kept: one number, in the words of whoever asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnxprune.errors import UsageError

__all__ = ["Budget", "Kind", "budget_from"]

Kind = Literal["macs", "params", "keep-ratio", "selector"]


@dataclass(frozen=True)
class Budget:
    """What is limited, and to which fraction of what the original has.

    ``macs`` and ``params``: the whole network's. ``keep-ratio``: the channels of every group alike. ``selector``:
    no limit, the selector finds each group's count (LASSO with a fixed penalty).
    """

    kind: Kind
    fraction: float
    text: str


def budget_from(
    *,
    speedup: float | None = None,
    macs: str | float | None = None,
    params: str | float | None = None,
    keep_ratio: float | None = None,
    default: Budget | None = None,
) -> Budget:
    """The budget that was asked for.

    Args:
        speedup: original MACs over the result's, above 1.
        macs: MACs left, as a fraction (0.5) or per cent ("50%").
        params: parameters left, the same.
        keep_ratio: channels left in every group, a fraction.
        default: what holds if nothing is given; speedup 2 if that is None, too.

    Raises:
        UsageError: more than one is given, or a value is out of range.
    """
    given = {"--speedup": speedup, "--macs": macs, "--params": params, "--keep-ratio": keep_ratio}
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)} are different budgets: give one of them")
    if not flags:
        return default or Budget("macs", 0.5, "speedup 2 in MACs")
    if speedup is not None:
        if not math.isfinite(speedup) or speedup <= 1:
            raise UsageError(f"--speedup must be above 1 (2 leaves half of the MACs), found {speedup:g}")
        return Budget("macs", 1 / speedup, f"speedup {speedup:g} in MACs")
    if macs is not None:
        fraction = _fraction("--macs", macs)
        return Budget("macs", fraction, f"{fraction:.4g} of the MACs")
    if params is not None:
        fraction = _fraction("--params", params)
        return Budget("params", fraction, f"{fraction:.4g} of the parameters")
    fraction = _fraction("--keep-ratio", keep_ratio if keep_ratio is not None else 1.0)
    return Budget("keep-ratio", fraction, f"{fraction:.4g} of the channels of every group")


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
