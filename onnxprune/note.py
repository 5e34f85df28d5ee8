"""What a stage has to say: notes beside its result, and warnings before the work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

__all__ = ["Note", "RunWarning", "warn"]


@dataclass(frozen=True)
class Note:
    """Something that the user should know: `subject` a node, file or option, `text` what about it."""

    subject: str
    text: str


class RunWarning(UserWarning):
    """Something about a run that the user should know before its work starts."""


def warn(text: str) -> None:
    """Give a `RunWarning`; nothing for an empty text."""
    if text:
        warnings.warn(text, RunWarning, stacklevel=3)
