"""A check of the installation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from onnxprune.commands.doctor import Checkup

__all__ = ["show_doctor"]


def show_doctor(console: Console, found: Checkup) -> None:
    """Print the result of the check."""
    names = [name.removesuffix("ExecutionProvider") for name in found.providers]
    auto = [name.removesuffix("ExecutionProvider") for name in found.auto]
    rows = [
        *found.versions.items(),
        *((name, f"not installed; for {use}") for name, use in found.missing.items()),
        ("providers", ", ".join(names) or "none"),
        ("--provider auto", f"takes {auto[0]}" if auto else "has none to take"),
        ("cores", f"{found.cores[0]} ({found.cores[1]} logical)"),
        ("memory", f"{found.memory / (1 << 30):.1f} GiB"),
        ("cache", str(found.cache or "nowhere")),
        *(("problem", text) for text in found.problems),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)
