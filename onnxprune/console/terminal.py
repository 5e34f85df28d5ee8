"""Consoles of a command: progress on stderr, tables on stdout, and the help without rarely used options."""

from __future__ import annotations

import warnings

from cyclopts.help import DefaultFormatter, HelpPanel
from rich.console import Console, ConsoleOptions

from onnxprune.console.flags import RARE, ShowFlags
from onnxprune.note import RunWarning
from onnxprune.report.progress import StageBars, StageLines

__all__ = ["UsualHelp", "bars", "paper"]


class UsualHelp(DefaultFormatter):
    """Help without the rarely used options."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel without its rarely used options, if any entry remains."""
        panel.entries = [entry for entry in panel.entries if not RARE.intersection(entry.positive_names)]
        if panel.entries:
            super().__call__(console, options, panel)


def bars(show: ShowFlags) -> StageBars | StageLines:
    """Return the progress of a command on stderr, and set whether its warnings are shown."""
    warnings.simplefilter("ignore" if show.quiet else "always", RunWarning)
    console = Console(stderr=True)
    if show.quiet or console.is_terminal:
        return StageBars(console, enabled=not show.quiet)
    return StageLines(console)


def paper() -> Console:
    """Return a console on stdout, wide enough for the tables if stdout is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))
