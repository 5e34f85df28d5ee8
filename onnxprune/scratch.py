"""Temporary folders of a run, such as for held activations; a killed run's are deleted when the next one begins.

Beside each folder is a locked file of the same name with ``.lock`` (see ``locks``): a folder whose lock is free is what
a killed run has left.
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
_STALE_SECONDS = 3 * 24 * 3600


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that is deleted at the end, and delete those that killed runs have left in the same place.

    Args:
        parent: folder to make it in; None, or a folder that cannot be written to: the system's temporary folder.

    Raises:
        OutputError: no folder can be made.
    """
    handle, lock = _locked(parent)
    folder = lock.with_suffix("")
    try:
        os.write(handle, str(os.getpid()).encode())
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
            try:
                return locked_file(place, _PREFIX, _LOCK)
            except OSError as failed:
                error = failed
    raise OutputError(f"{tempfile.gettempdir()}: no folder for held activations ({error}); see --cache-dir")


def _clean(place: Path) -> None:
    """Delete the folders of dead runs, and of versions before 0.15, which had no locks, after three days."""
    with suppress(OSError):
        for path in sorted(place.glob(f"{_PREFIX}*")):
            if path.suffix == _LOCK and not path.is_symlink() and is_dead(path):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                with suppress(OSError):
                    path.unlink()
            elif _is_stale(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_stale(path: Path) -> bool:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink() and not path.with_name(path.name + _LOCK).exists():
            return path.stat().st_uid == os.geteuid() and time.time() - path.stat().st_mtime > _STALE_SECONDS
    return False
