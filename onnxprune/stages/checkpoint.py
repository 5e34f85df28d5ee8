"""What a killed run leaves behind, and how the next one finds it.

A run's folder is named by a hash of everything that its results depend on. Each finished piece of work is one
``.npz`` file of plain arrays, written whole or not at all; a file that cannot be read counts as missing. The oldest
runs go when all together take too much room.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import OutputError, UsageError
from onnxprune.graph.save import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["Checkpoint", "default_cache_dir", "make_cache_dir", "open_checkpoint"]

_MOST_BYTES = 2 << 30


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/onnxprune``, or ``~/.cache/onnxprune``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "onnxprune"


class Checkpoint:
    """Arrays of one run by name, in a folder; or nowhere, if that is None."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.reused = 0

    def load(self, name: str) -> dict[str, Array] | None:
        """What was saved under a name by this run or an earlier one like it; None if there is nothing usable."""
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        self.reused += 1
        return arrays

    def save(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Save arrays under a name; a full disk is no reason to stop."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            write_bytes(self.folder / f"{name}.npz", buffer.getvalue())
        except OutputError:
            return

    def discard(self, prefix: str) -> None:
        """Forget everything whose name starts so."""
        if self.folder is not None:
            for path in self.folder.glob(f"{prefix}*.npz"):
                path.unlink(missing_ok=True)


def open_checkpoint(cache_dir: Path, parts: Mapping[str, object]) -> Checkpoint:
    """The checkpoint of the run that ``parts`` (JSON-able) describe completely.

    Raises:
        UsageError: the folder cannot be made.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder = cache_dir / digest[:32]
    make_cache_dir(folder)
    os.utime(folder)
    _trim(cache_dir, folder)
    return Checkpoint(folder)


def make_cache_dir(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--cache-dir: {folder} cannot be made ({error.strerror})") from error


def _trim(cache_dir: Path, current: Path) -> None:
    """Delete the oldest runs beyond the limit. Only folders with a name of ours and files of ours are touched."""
    runs = []
    for folder in cache_dir.iterdir():
        ours = len(folder.name) == 32 and set(folder.name) <= set("0123456789abcdef")
        if ours and folder.is_dir() and not folder.is_symlink() and folder != current:
            size = sum(file.stat().st_size for file in folder.glob("*.npz"))
            runs.append((folder.stat().st_mtime, size, folder))
    total = 0
    for _, size, folder in sorted(runs, reverse=True):
        total += size
        if total > _MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
