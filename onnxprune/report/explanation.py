"""Explanation of a plan as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from onnxprune.report.terminal import end_of

if TYPE_CHECKING:
    from rich.console import Console

    from onnxprune.options.budget import Unit
    from onnxprune.planning import Explanation, Reason

__all__ = ["show_explanation"]

_NAME_WIDTH = 24
_OF: dict[Unit, tuple[float, str]] = {"macs": (1e-6, "M MACs"), "params": (1e-3, "k params"), "latency": (1.0, "ms")}


def show_explanation(console: Console, found: Explanation, *, verbose: bool = False) -> None:
    """Print a row for each group and each layer with a choice."""
    scale, unit = _OF[found.unit]
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("layer", "gets", "error x weight", "damage", unit, f"next best: damage, {unit}", "worse by")
    for title in titles:
        left = title in ("layer", "gets") or title.startswith("next")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for reason in found.reasons:
        table.add_row(*_cells(reason, scale, verbose))
    console.print(table)
    console.print(
        f"damage: relative error of the layer's output times its sensitivity; the next cheapest step down "
        f"costs {found.price:.3g} of it for each per cent of the original. The next best choice is that at this "
        "price, all others as they are; 'worse by' is in damage, below 0 where it would not fit the budget.",
        highlight=False,
    )


def _cells(reason: Reason, scale: float, verbose: bool) -> tuple[str, ...]:
    other = reason.runner_up
    return (
        escape(end_of(reason.name, None if verbose else _NAME_WIDTH)),
        reason.chosen.what,
        f"{reason.error:.4f} x {reason.weight:.2f}" if reason.error else "0",
        f"{reason.chosen.damage:.4f}",
        f"{scale * reason.before:.3g} -> {scale * reason.chosen.cost:.3g}",
        "" if other is None else f"{other.what}: {other.damage:.4f}, {scale * other.cost:.3g}",
        "" if other is None else f"{reason.margin:+.4f}",
    )
