"""Temporary folders of a run, such as for held activations; a killed run's are deleted when the next one begins.

Beside each folder is a locked file of the same name with ``.lock`` (see ``locks``), which says whose it is: a folder
whose lock is free is what a killed run has left. Nothing else in the system's temporary folder is touched.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import OutputError
from onnxprune.locks import is_dead, locked_file

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["scratch_folder"]

_PREFIX, _LOCK = "onnxprune-", ".lock"
_MARK = b"temporary folder of onnxprune, process "
_STALE_SECONDS = 3 * 24 * 3600


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder, deleted at the end, and delete the temporary folders of killed runs beside it.

    Args:
        parent: folder to make it in; None, or a folder that cannot be written to: the system's temporary folder.

    Raises:
        OutputError: no folder can be made.
    """
    handle, lock = _locked(parent)
    folder = lock.with_suffix("")
    try:
        os.write(handle, _MARK + str(os.getpid()).encode())
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise OutputError(
                f"{folder}: no folder for held activations ({error.strerror}); see --cache-dir"
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(parent: Path | None) -> tuple[int, Path]:
    error: OSError | None = None
    for place in (parent, Path(tempfile.gettempdir())):
        if place is not None:
            _clean(place)
            if place == parent:
                _clean_unlocked(place)
            try:
                return locked_file(place, _PREFIX, _LOCK)
            except OSError as failed:
                error = failed
    raise OutputError(f"{tempfile.gettempdir()}: no folder for held activations ({error}); see --cache-dir")


def _clean(place: Path) -> None:
    """Delete the folders of dead runs."""
    with suppress(OSError):
        for lock in sorted(place.glob(f"{_PREFIX}*{_LOCK}")):
            if _is_ours(lock) and is_dead(lock):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                with suppress(OSError):
                    lock.unlink()


def _is_ours(lock: Path) -> bool:
    """Tell whether a file is one that `scratch_folder` has made, and not a user's of a similar name."""
    with suppress(OSError):
        if lock.is_file() and not lock.is_symlink():
            with lock.open("rb") as file:
                return file.read(len(_MARK)) == _MARK
    return False


def _clean_unlocked(own: Path) -> None:
    """Delete, in the cache's own folder, the folders of versions before 0.15, which had no locks, after three days."""
    with suppress(OSError):
        for folder in sorted(own.glob(f"{_PREFIX}*")):
            ours = folder.is_dir() and not folder.is_symlink()
            locked = folder.with_name(folder.name + _LOCK).exists()
            if ours and not locked and time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
