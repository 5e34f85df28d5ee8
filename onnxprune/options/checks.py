"""Checks of options."""

from __future__ import annotations

from onnxprune.errors import UsageError

__all__ = ["at_least"]


def at_least(flag: str, value: int | None, least: int) -> None:
    """Check the value of an option, None for its default.

    Raises:
        UsageError: it is below `least`.
    """
    if value is not None and value < least:
        raise UsageError(f"{flag} must be {least} or more, found {value}")
