"""Progress of a run: one bar per stage on a terminal; elsewhere one line per stage and per minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

__all__ = ["StageBars", "StageLines"]

_MINUTE = 60.0  # seconds between two lines of one stage


class StageBars:
    """Progress bars by stage name; a context manager, and called like `progress.Progress`."""

    def __init__(self, console: Console, *, enabled: bool = True) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            disable=not enabled,
            refresh_per_second=4,
        )

    def __enter__(self) -> StageBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None:
        """Show that ``done`` of ``total`` units of a stage are done, with a remark."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, detail=detail)
        self._bars.update(self._tasks[stage], completed=done, total=total, detail=detail)


class StageLines:
    """Lines for logs and pipes, used like `StageBars`: one when a stage first begins, and one per minute.

    Each line has the minutes and seconds since the start and the stage; the lines per minute also have its progress.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._start = self._last = clock()
        self._begun: set[str] = set()

    def __enter__(self) -> StageLines:
        self._start = self._last = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, stage: str, done: int, total: int, detail: str = "", /) -> None:
        """Record that ``done`` of ``total`` units of a stage are done, and print a line if one is due."""
        now = self._clock()
        if stage in self._begun and now - self._last < _MINUTE:
            return
        share = f"  {100 * done / max(total, 1):.0f} %" if stage in self._begun else ""
        self._begun.add(stage)
        self._last = now
        minutes, seconds = divmod(int(now - self._start), 60)
        text = f"[{minutes:02d}:{seconds:02d}] {stage}{share}{f'  {detail}' if detail else ''}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
