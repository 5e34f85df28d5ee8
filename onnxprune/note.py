"""What a stage has to say beside its result."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Note"]


@dataclass(frozen=True)
class Note:
    """Something that the user should know: `subject` a node, file or option, `text` what about it."""

    subject: str
    text: str
