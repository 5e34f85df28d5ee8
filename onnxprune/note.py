"""Messages of the steps to the user: notes returned with a result, and warnings before the work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

__all__ = ["Note", "RunWarning", "warn"]


@dataclass(frozen=True)
class Note:
    """Remark for the user: `subject` is a node, file or option, `text` the remark about it."""

    subject: str
    text: str


class RunWarning(UserWarning):
    """Warning about a run, given before its work starts."""


def warn(text: str) -> None:
    """Issue a `RunWarning`; do nothing for an empty text."""
    if text:
        warnings.warn(text, RunWarning, stacklevel=3)
