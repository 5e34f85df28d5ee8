"""Options of onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from onnxprune.errors import UsageError

__all__ = ["EngineOptions", "ProviderName"]

ProviderName = Literal["auto", "cuda", "tensorrt", "cpu"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of onnxruntime.

    Raises:
        UsageError: `threads` below 1, or a file of `ops_library` does not exist.
    """

    provider: ProviderName = "auto"
    "Execution provider; auto takes CUDA where it works, and the CPU elsewhere."

    threads: int | None = None
    "Threads within an operator; default onnxruntime's own, one a core."

    ops_library: Annotated[tuple[Path, ...], Parameter(show_default=False)] = ()
    "Shared library with custom operators of the model, loaded into onnxruntime: it runs with your rights. Repeatable."

    def __post_init__(self) -> None:
        if self.provider not in get_args(ProviderName):
            raise UsageError(f"--provider must be auto, cuda, tensorrt or cpu, found {self.provider!r}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads must be 1 or more, found {self.threads}")
        for path in self.ops_library:
            if not path.is_file():
                raise UsageError(f"--ops-library {path}: no such file")
