"""Output files of the user: regular files are written completely or not at all, devices and links are respected.

A regular file is replaced by a temporary file (``.onnxprune-*.part``) that was written beside it. It is deleted if the
writing fails; if the process is killed meanwhile, the next run that writes to the folder deletes it. A link stays a
link: the file that it leads to is replaced. A device that takes characters (``/dev/null``, a terminal) and whatever an
open descriptor of the process leads to (``/dev/stdout``, ``/dev/fd/3`` of a process substitution) is written through.
Everything else is refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from onnxprune.errors import OutputError
from onnxprune.locks import is_dead, locked_file

__all__ = ["check_writable", "write_bytes", "written"]

_PREFIX, _PART = ".onnxprune-", ".part"
_DESCRIPTORS = ("/proc/", "/dev/fd/")  # where /dev/stdout and its like lead to
_MOST_LINKS = 40
_written: list[Path] = []


def written() -> tuple[Path, ...]:
    """Return the files that this process has written completely, in their order."""
    return tuple(_written)


def check_writable(path: Path) -> None:
    """Find out whether a file could be written now; an existing file is left as it is.

    Raises:
        OutputError: the folder is missing or cannot be written to, or the path is a folder, a pipe, a socket or a disk.
    """
    try:
        place = _place(path)
        if place is not None:
            handle, temporary = _temporary(place)
            os.close(handle)
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, or write through to a device.

    Raises:
        OutputError: the file cannot be written; see `check_writable`.
    """
    try:
        place = _place(path)
        if place is None:
            with path.open("ab" if path.is_file() else "wb") as file:
                file.write(content)
        else:
            _replace(place, content)
    except OSError as error:
        raise _refused(path, error) from error
    _written.append(path)


def _place(path: Path) -> Path | None:
    """Return the regular file, present or not, that a path leads to; None for what is written through."""
    for _ in range(_MOST_LINKS):
        if str(path).startswith(_DESCRIPTORS):
            return None
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    if stat.S_ISCHR(mode):
        return None
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISBLK, "a disk"))
        kind = next((name for test, name in kinds if test(mode)), "no file")
        raise OutputError(f"{path} is {kind}, expected a file to write: give another path")
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: the file is write-protected: give another path, or chmod u+w")
    return path


def _temporary(place: Path) -> tuple[int, Path]:
    """Make a temporary file beside a file; its name is short, so that any name that the file can have will do."""
    with suppress(FileNotFoundError):
        place.lstat()  # raises if the name is too long
    for left in place.parent.glob(f"{_PREFIX}*{_PART}"):
        if is_dead(left):
            with suppress(OSError):
                left.unlink()
    return locked_file(place.parent, _PREFIX, _PART)


def _replace(place: Path, content: bytes) -> None:
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o666 & ~_umask()
    handle, temporary = _temporary(place)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(mode)
            if os.name != "nt":
                temporary.replace(place)  # while it is locked
        if os.name == "nt":  # which renames no open file
            temporary.replace(place)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> OutputError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return OutputError(f"{path}: the folder {path.parent} does not exist: create it")
    return OutputError(f"{path}: cannot be written ({error.strerror or error}): give another path")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
