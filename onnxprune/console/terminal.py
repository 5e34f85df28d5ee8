"""Consoles of a command: progress on stderr, tables on stdout, and the help without rarely used options."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterable

from cyclopts.help import DefaultFormatter, HelpPanel
from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from onnxprune.console.flags import RARE, ShowFlags
from onnxprune.console.visible import drop, visible
from onnxprune.errors import OutputError
from onnxprune.note import RunWarning
from onnxprune.report.progress import StageBars, StageLines

__all__ = ["UsualHelp", "bars", "paper"]


class Screen(Console):
    """Console that shows what a terminal would obey, and reports a closed pipe as any other error of writing."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Render segments, the control characters in their text replaced; control segments are the console's own."""
        shown = (each if each.control else Segment(visible(each.text), each.style) for each in buffer)
        return super()._render_buffer(shown)

    def _check_buffer(self) -> None:
        """Write what is held; a progress that cannot be printed must not end a run, a result that cannot be does."""
        try:
            super()._check_buffer()
        except OSError as error:
            self.quiet = True
            drop(self.file)
            if not self.stderr:
                raise OutputError(f"the result cannot be printed ({error.strerror or error})") from error

    def on_broken_pipe(self) -> None:
        """Let the command end with its own exit code."""
        raise BrokenPipeError(errno.EPIPE, "the pipe is closed")


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
    console = Screen(stderr=True)
    if show.quiet or console.is_terminal:
        return StageBars(console, enabled=not show.quiet)
    return StageLines(console)


def paper() -> Console:
    """Return a console on stdout, wide enough for the tables if stdout is not a terminal."""
    console = Screen()
    return console if console.is_terminal else Screen(width=max(console.width, 120))
