"""Finished models: the common part of the results of all jobs that make one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError
from onnxprune.files import write_bytes

if TYPE_CHECKING:
    import onnx

__all__ = ["ModelResult"]


@dataclass(frozen=True)
class ModelResult:
    """Finished model.

    Attributes:
        model: the verified model; None after a dry run.
    """

    model: onnx.ModelProto | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, completely or not at all.

        Args:
            path: file to write; it is replaced if it exists.

        Raises:
            OutputError: the file cannot be written.
            UsageError: there is no model, after a dry run.
        """
        if self.model is None:
            raise UsageError("a dry run makes no model: there is nothing to save")
        write_bytes(Path(path), self.model.SerializeToString())
