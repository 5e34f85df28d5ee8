"""Options of reading a model: the tensors at which processing ends, and values of inputs that are no samples."""

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
    "Tensors (or nodes) at which pruning and comparing end; nodes behind them are kept, and not run. Repeatable."

    set_input: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Value of an input that is no sample, such as a sampling rate: NAME=NUMBER, for all its elements. Repeatable."

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
