"""The options: a frozen dataclass a group.

A group is the panel of the command line, the argument in Python and the record in the report.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # that of `typing`
if TYPE_CHECKING:
    from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a group when it is first used."""
    if not name.startswith("_"):
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError:
            pass
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
