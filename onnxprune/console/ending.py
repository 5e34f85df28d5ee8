"""Exit of a command: errors become one line and an exit code, warnings one line, SIGTERM and SIGHUP an orderly end."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from cyclopts import CycloptsError

from onnxprune.console.visible import drop, visible
from onnxprune.errors import EngineError, OnnxPruneError, OutputError, UsageError
from onnxprune.files import written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["EXIT_CODES", "guarded"]

EXIT_CODES = """\
--help-all lists every option, of a command too.

Exit codes: 0 done, 2 an option cannot be used, 3 the model cannot be read or pruned, 4 the data cannot be used,
5 no plan (nothing to prune, or the budget is out of reach), 6 the result failed its verification, 7 onnxruntime
cannot run it or memory ran out, 8 compare: outside --max-drop, 9 a file or the terminal cannot be used, 10 the measure
of --evaluate failed, 11 a time budget was given and nothing faster was found: the original was written,
130 interrupted. Otherwise nothing is written unless the exit code is 0, or the message names the files that were."""

_INTERRUPTED = 130


def guarded(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; users' errors and warnings are lines on stderr."""
    before = len(written())
    _listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _tell
        try:
            command()
            _flush()
        except OutputError as error:
            return _fail(f"{error}{_kept(before)}", error.exit_code)
        except OnnxPruneError as error:
            return _fail(str(error), error.exit_code)
        except CycloptsError as error:
            return _fail(" ".join(str(error).split()), UsageError.exit_code)
        except KeyboardInterrupt:
            return _fail(f"interrupted{_kept(before) or '; nothing was written'}", _INTERRUPTED)
        except MemoryError as error:
            told = f"memory ran out ({error})" if str(error) else "memory ran out"
            return _fail(f"{told}: give smaller inputs, or a smaller --memory{_kept(before)}", EngineError.exit_code)
        except OSError as error:  # such as a network mount that is gone
            if error.filename is None:
                raise
            return _fail(f"{error.filename}: {error.strerror}{_kept(before)}", OutputError.exit_code)
    return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        drop(sys.stdout)
        raise OutputError(f"the result cannot be printed ({error.strerror or error})") from error


def _listen() -> None:
    """End on SIGTERM, and on SIGHUP unless it is ignored (nohup), as after Ctrl-C: held activations are deleted."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):  # only the main thread may set a handler
                signal.signal(number, _terminate)


class _Terminated(SystemExit):
    """Exit on a signal; a type of its own, to tell it from a ``sys.exit`` in the user's measure."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated(128 + number)


def _kept(before: int) -> str:
    """Name the files that this command has written completely."""
    files: tuple[Path, ...] = written()[before:]
    if not files:
        return ""
    names = ", ".join(dict.fromkeys(map(str, files[:2]))) + (f" and {len(files) - 2} more" if len(files) > 2 else "")
    return f"; written: {names}"


def _tell(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning as one line."""
    _say(f"onnxprune: warning: {message}")


def _fail(message: str, code: int) -> int:
    _say(f"onnxprune: error: {message}")
    return code


def _say(line: str) -> None:
    with suppress(OSError):  # a full or closed stderr must not hide the exit code
        print(visible(" ".join(line.split("\n"))), file=sys.stderr, flush=True)
