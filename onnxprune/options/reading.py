"""Options of reading a model: where it ends, and the inputs that are no samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from onnxprune.errors import UsageError

__all__ = ["ReadOptions"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Reading of a model.

    Raises:
        UsageError: a value of an input is no number, or an input is given twice.
    """

    until: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Last tensors (or nodes) to look at: what lies behind them is not run, and put back as it is. Repeatable."

    set_input: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Input that is no sample, and its value: NAME=NUMBER, such as sr=16000; all its elements get it. Repeatable."

    def __post_init__(self) -> None:
        if len(self.values) < len(self.set_input):
            raise UsageError("--set-input gives an input twice: give each once")

    @property
    def values(self) -> dict[str, float]:
        """Values of the inputs in `set_input`, by name."""
        found = {}
        for text in self.set_input:
            name, _, number = text.rpartition("=")
            try:
                found[name] = float({"true": "1", "false": "0"}.get(number.lower(), number))
            except ValueError:
                name = ""
            if not name:
                raise UsageError(f"--set-input takes NAME=NUMBER, found {text!r}")
        return found
