"""Progress of a run, as a callback."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Callback (stage, done, total, detail): the stage's name, units done, units in all, and a remark of some
    stages."""

    def __call__(self, stage: str, done: int, total: int, detail: str = ..., /) -> None:
        """Show the progress of a stage."""


def silent(stage: str, done: int, total: int, detail: str = "", /) -> None:
    """Show nothing."""
