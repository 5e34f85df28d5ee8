"""A model that is finished: what every job that makes one hands back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError
from onnxprune.graph.save import write_bytes

if TYPE_CHECKING:
    import onnx

__all__ = ["ModelResult"]


@dataclass(frozen=True)
class ModelResult:
    """A model.

    Attributes:
        model: verified; None where a dry run made none.
    """

    model: onnx.ModelProto | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
            UsageError: a dry run has no model.
        """
        if self.model is None:
            raise UsageError("a dry run makes no model: there is nothing to save")
        write_bytes(Path(path), self.model.SerializeToString())
