"""Exit of a command: errors become one line and an exit code, warnings one line, SIGTERM an orderly end."""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from cyclopts import CycloptsError

from onnxprune.errors import OnnxPruneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXIT_CODES", "guarded"]

EXIT_CODES = """\
--help-all lists every option, of a command too.

Exit codes: 0 done, 2 an option cannot be used, 3 the model cannot be read or pruned, 4 the data cannot be used,
5 no plan (nothing to prune, or the budget is out of reach), 6 the result failed its verification, 7 onnxruntime
cannot run it, 8 compare: outside --max-drop, 9 a file cannot be written, 10 the measure of --evaluate failed, 11 a time
budget was given and nothing faster was found: the original was written, 130 interrupted. Otherwise nothing is written
unless the exit code is 0."""


def guarded(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; users' errors and warnings are lines on stderr."""
    with suppress(ValueError):  # only the main thread may set a handler
        signal.signal(signal.SIGTERM, _terminate)
    with warnings.catch_warnings():
        warnings.showwarning = _tell
        try:
            command()
        except OnnxPruneError as error:
            return _fail(str(error), error.exit_code)
        except CycloptsError as error:
            return _fail(" ".join(str(error).split()), UsageError.exit_code)
        except KeyboardInterrupt:
            return _fail("interrupted; nothing was written", 130)
    return 0


class _Terminated(SystemExit):
    """Exit on SIGTERM; a type of its own, to tell it from a ``sys.exit`` in the user's measure."""


def _terminate(number: int, frame: object) -> None:
    """Exit as after Ctrl-C, so that held activations are deleted."""
    raise _Terminated(128 + number)


def _tell(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning as one line."""
    print(f"onnxprune: warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"onnxprune: error: {message}", file=sys.stderr)
    return code
