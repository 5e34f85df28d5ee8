"""Inspection in the terminal: a table of layers, the reasons below it, and the share of the MACs that can be pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from onnxprune.commands.inspect import Inspection, LayerReport

__all__ = ["show_inspection"]

_NAME_WIDTH = 40


def show_inspection(console: Console, found: Inspection, *, verbose: bool = False) -> None:
    """Print the inspection; names of more than 40 characters are cut at the front unless ``verbose``."""
    given = dict.fromkeys(layer.reason for layer in found.layers if layer.reason)
    reasons = {reason: number for number, reason in enumerate(given, 1)}
    numbers = {group.name: number for number, group in enumerate(found.groups, 1)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for column in ("op", "weights"):
        table.add_column(column, no_wrap=True)
    for column in ("MACs", "%", "params", "groups", "may go"):
        table.add_column(column, no_wrap=True, justify="right" if column != "may go" else "left")
    for layer in found.layers:
        table.add_row(
            escape(layer.name if verbose else _end_of(layer.name)),
            layer.op,
            "x".join(map(str, layer.weight)),
            _count(layer.macs),
            f"{100 * layer.macs / max(found.macs, 1):.1f}",
            _count(layer.params),
            _ranges(sorted(numbers[name] for name in layer.group)),
            _may_go(layer, reasons),
        )
    console.print(table)
    for reason, number in reasons.items():
        console.print(f"[dim]{number:>4}[/dim]  {escape(reason)}", highlight=False)
    for note in found.notes:
        console.print(f"[dim]note[/dim] {escape(note)}", highlight=False)
    for output in found.outputs:
        shape = "unknown shape" if output.shape is None else "x".join(str(size or "?") for size in output.shape)
        line = f"output {output.name} ({shape}): {output.kind}; {output.evidence}"
        console.print(escape(line), highlight=False)
    prunable = sum(not group.pins for group in found.groups)
    whole = f"; {len(found.branches)} residual branches can be removed whole" if found.branches else ""
    lines = [
        f"{_count(found.macs)} MACs, {_count(found.params)} parameters in {len(found.layers)} layers",
        f"{prunable} of {len(found.groups)} groups of channels may lose some; {found.reach:.1%} of the MACs are in "
        f"layers that they touch{whole}",
        f"with half of the channels of each: {found.halved:.2f}x fewer MACs",
    ]
    console.print(Panel("\n".join(lines), title=escape(found.model), title_align="left"))


def _may_go(layer: LayerReport, reasons: Mapping[str, int]) -> str:
    """Describe what can be pruned: inputs, outputs, or the number of the reason why no output can be."""
    sides = [side for side, may in (("in", layer.inputs_prunable), ("out", not layer.reason)) if may]
    why = f"outputs stay: {reasons[layer.reason]}" if layer.reason else ""
    return "; ".join(part for part in (" and ".join(sides), why) if part)


def _ranges(numbers: Sequence[int]) -> str:
    """Format 1, 2, 3, 5 as 1-3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _end_of(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"


def _count(number: float) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.2f}{name}"
    return f"{number:.0f}"
