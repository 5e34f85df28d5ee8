"""Files that tell whether the run that made them still goes on.

The run holds an advisory lock on the file for as long as it lives; the system takes the lock back when the process
ends, however it ends. A file that can be locked is what a dead run has left. (The number of a process in the file would
prove nothing: systems use numbers again.) Where a file system has no locks, age decides.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["is_dead", "locked_file"]

_STALE_SECONDS = 3 * 24 * 3600


def locked_file(folder: Path, prefix: str, suffix: str) -> tuple[int, Path]:
    """Make a new locked file in a folder; return its open descriptor, whose closing ends the lock, and its path.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
        with suppress(OSError):  # there may be no locks
            _lock(handle)
        with suppress(FileNotFoundError):  # another run may have taken it for a dead one's before it was locked
            if Path(name).stat().st_ino == os.fstat(handle).st_ino:
                return handle, Path(name)
        os.close(handle)


def is_dead(path: Path) -> bool:
    """Tell whether a file of `locked_file` is of a run that has ended; False if that cannot be told yet."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # deleted meanwhile, or another user's
        return False
    try:
        _lock(handle)
    except BlockingIOError:
        return False
    except OSError:
        pass
    else:
        return True
    finally:
        os.close(handle)
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    return False


def _lock(handle: int) -> None:
    """Lock an open file; BlockingIOError if another process has, OSError where there are no locks."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no advisory locks")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
