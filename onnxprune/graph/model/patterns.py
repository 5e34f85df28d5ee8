"""Names of nodes that a user means: an exact name, or a glob."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["meant", "meant_by"]


def meant_by(pattern: str, names: Iterable[str]) -> set[str]:
    """Select the names that one pattern means: itself where it is a name (names may hold ``[`` and ``*``), else all
    that it matches as a glob."""
    known = set(names)
    return {pattern} if pattern in known else {name for name in known if fnmatchcase(name, pattern)}


def meant(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    """Select the names that any of the patterns means."""
    known = set(names)
    return set().union(*(meant_by(pattern, known) for pattern in patterns))
