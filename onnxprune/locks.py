"""Files that tell whether the run that made them still goes on.

The run holds an advisory lock on the file for as long as it lives; the system takes the lock back when the process
ends, however it ends. A file that can be locked is what a dead run has left. The file holds the number of the process,
for people to read: a number alone proves nothing, since systems use it again.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # such as on Windows: then age decides
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_dead", "locked_file"]

_STALE_SECONDS = 3 * 24 * 3600


def locked_file(folder: Path, prefix: str, suffix: str) -> tuple[int, Path]:
    """Make a new locked file in a folder; return its open descriptor, whose closing ends the lock, and its path.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
        if fcntl is None:
            return handle, Path(name)
        with suppress(OSError):  # some network mounts have no locks: `is_dead` goes by age there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        os.close(handle)
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    return False
