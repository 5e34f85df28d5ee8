"""Held tensors: in memory up to a limit, beyond that in files.

Ordinary files, not memory maps: what is written there counts as the system's file cache, not as this process's
memory, and a tensor is read back once, whole.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType

    Array = np.ndarray[Any, Any]

__all__ = ["TensorStore"]


class TensorStore:
    """Arrays by key; a context manager that deletes its files at the end."""

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        """Keep up to ``limit`` bytes in memory and the rest in a new folder inside ``folder``."""
        self._limit, self._parent = limit, folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._held: dict[Hashable, Array | Path] = {}
        self._bytes = 0
        self._written = 0

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def spilled(self) -> int:
        """Number of arrays that were written to files so far."""
        return self._written

    def put(self, key: Hashable, array: Array) -> None:
        """Hold an array.

        Raises:
            OutputError: the disk is full.
        """
        self.drop(key)
        if self._bytes + array.nbytes <= self._limit:
            self._held[key] = array
            self._bytes += array.nbytes
            return
        path = Path(self._directory()) / f"{self._written}.npy"
        self._written += 1
        try:
            np.save(path, array, allow_pickle=False)
        except OSError as error:
            raise OutputError(
                f"{path}: held activations cannot be written ({error.strerror or error}): free disk space, or raise "
                "--memory"
            ) from error
        self._held[key] = path

    def get(self, key: Hashable) -> Array:
        """Return the array held under a key."""
        held = self._held[key]
        return np.load(held, allow_pickle=False) if isinstance(held, Path) else held

    def drop(self, key: Hashable) -> None:
        """Forget a key; unknown keys are ignored."""
        held = self._held.pop(key, None)
        if isinstance(held, Path):
            held.unlink(missing_ok=True)
        elif held is not None:
            self._bytes -= held.nbytes

    def _directory(self) -> str:
        if self._folder is None:
            try:
                if self._parent is not None:
                    self._parent.mkdir(parents=True, exist_ok=True)
                self._folder = tempfile.TemporaryDirectory(prefix="held-", dir=self._parent)
            except OSError as error:
                raise OutputError(f"{self._parent}: no folder for held activations ({error.strerror})") from error
        return self._folder.name
