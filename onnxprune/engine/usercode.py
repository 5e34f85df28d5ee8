"""Functions of the user's, ``FILE.py:FUNCTION``: loading them, and turning what they raise into one line."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxprune.errors import EvaluateError, OnnxPruneError, UsageError

__all__ = ["load_function", "users_own"]

_PACKAGE = Path(__file__).resolve().parents[1]


def load_function(
    text: str | None, flag: str = "--evaluate", failure: type[OnnxPruneError] = EvaluateError
) -> Callable[..., Any] | None:
    """Load the function that an option names, ``FILE.py:FUNCTION``; None for None.

    While the file is loaded, it can import from its own folder.

    Args:
        text: file and name of the function.
        flag: the option, for errors.
        failure: error to raise if the file fails when it is loaded.

    Raises:
        UsageError: there is no such file or function, or it cannot be called.
    """
    if text is None:
        return None
    place, _, name = text.rpartition(":")
    path = Path(place)
    if not place or not name.isidentifier() or path.suffix != ".py":
        raise UsageError(f"{flag} takes FILE.py:FUNCTION, found {text!r}")
    if not path.is_file():
        raise UsageError(f"{flag}: {path}: no such file")
    private = f"_onnxprune_{flag.strip('-').replace('-', '_')}_{path.stem}"
    spec = importlib.util.spec_from_file_location(private, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{flag}: {path}: cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # dataclasses and pickle look there
    with users_own(str(path), failure), _importable(path.resolve().parent):
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        what = "is not callable" if hasattr(module, name) else "does not exist"
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == private]
        raise UsageError(f"{flag}: {path}: {name} {what}; functions here: {', '.join(own) or 'none'}")
    function: Callable[..., Any] = found
    return function


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def users_own(name: str, failure: type[OnnxPruneError] = EvaluateError) -> Iterator[None]:
    """Turn any exception of the user's code into a one-line error with file and line.

    Args:
        name: name of the code in the error.
        failure: error to raise.
    """
    try:
        yield
    except SystemExit as error:
        if type(error) is not SystemExit:  # the command line's own, on SIGTERM
            raise
        raise failure(f"{name}: {_place(error)}SystemExit: {_line(error)}") from error
    except Exception as error:  # a user's function may raise anything
        raise failure(f"{name}: {_place(error)}{type(error).__name__}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _place(error: BaseException) -> str:
    """Format the innermost frame in the folder of the user's file as ``FILE:LINE: ``; empty if there is no such
    frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    users = [
        frame
        for frame in frames
        if not Path(frame.filename).is_relative_to(_PACKAGE) and not frame.filename.startswith("<frozen importlib")
    ]
    if not users:
        return ""
    folder = Path(users[0].filename).parent
    last = next(frame for frame in reversed(users) if Path(frame.filename).parent == folder)
    return f"{last.filename}:{last.lineno}: "
