"""Checkpoints: finished work of a killed run, found again by the next run.

The folder of a run is named by a hash of everything that its results depend on. Each finished piece of work is one
``.npz`` file of plain arrays, written completely or not at all; an unreadable file counts as missing. The oldest runs
are deleted when all runs together exceed 2 GiB.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import OutputError, UsageError
from onnxprune.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["SCRATCH_PREFIX", "Checkpoint", "default_cache_dir", "make_cache_dir", "open_checkpoint", "own_folder"]

SCRATCH_PREFIX = "onnxprune-"
"""Prefix of the folders of held activations; a run deletes its own at its end, unless it is killed."""
_MOST_BYTES = 2 << 30
_DIGITS = 32
_STALE_SECONDS = 3 * 24 * 3600


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/onnxprune``, or ``~/.cache/onnxprune``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "onnxprune"


class Checkpoint:
    """Arrays of one run by name, in a folder, or nowhere if it is None; `reused` counts the successful loads."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.reused = 0

    def load(self, name: str) -> dict[str, Array] | None:
        """Load the arrays that this run or an equal earlier one saved under a name; None if there are none."""
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
        """Save arrays under a name; a failure to write, such as a full disk, is ignored."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # like np.savez, whose parameters exclude some array names
            for key, array in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        try:
            write_bytes(self.folder / f"{name}.npz", buffer.getvalue())
        except OutputError:
            return


def open_checkpoint(cache_dir: Path, parts: Mapping[str, object]) -> Checkpoint:
    """Open the checkpoint of the run that `parts` (JSON-able) describe completely.

    Raises:
        UsageError: the folder cannot be made.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder = own_folder(cache_dir) / digest[:_DIGITS]
    make_cache_dir(folder)
    with suppress(OSError):
        os.utime(folder)
    _trim(folder.parent, folder)
    return Checkpoint(folder)


def own_folder(cache_dir: Path) -> Path:
    """Return the subfolder that holds only files of this package, because old files in it are deleted."""
    return cache_dir / "onnxprune-cache"


def make_cache_dir(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        UsageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--cache-dir: {folder} cannot be made ({error.strerror}); give another folder, or --no-cache"
        ) from error


def _trim(own: Path, current: Path) -> None:
    """Delete the oldest runs beyond the limit, and stale folders of killed runs; other folders are not touched."""
    runs, leavings = [], []
    for folder in own.iterdir():
        with suppress(OSError):  # another run may be deleting it too
            if folder == current or folder.is_symlink() or not folder.is_dir():
                continue
            changed = folder.stat().st_mtime
            if len(folder.name) == _DIGITS and set(folder.name) <= set("0123456789abcdef"):
                runs.append((changed, sum(file.stat().st_size for file in folder.glob("*.npz")), folder))
            elif folder.name.startswith(SCRATCH_PREFIX) and time.time() - changed > _STALE_SECONDS:
                leavings.append(folder)
    total = 0
    for _, size, folder in sorted(runs, reverse=True):
        total += size
        if total > _MOST_BYTES:
            leavings.append(folder)
    for folder in leavings:
        shutil.rmtree(folder, ignore_errors=True)
