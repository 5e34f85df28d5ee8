"""Inputs by a function of the user's: ``--inputs-from FILE.py:FUNCTION``, an alias of ``--data``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.errors import DataError, OnnxPruneError

if TYPE_CHECKING:
    from onnxprune.data import CalibrationSource

__all__ = ["source_of"]

_FUNCTION = re.compile(r".+\.py:[^:/\\]+")


def source_of(text: str | None) -> CalibrationSource:
    """Return the source of inputs that ``--data`` names: a path, or what the user's function returns.

    Args:
        text: a folder or file, or ``FILE.py:FUNCTION``. The function takes nothing, and returns or yields model-ready
            inputs: arrays (n, ...), or dicts of arrays by input name.

    Raises:
        UsageError: there is no such function.
        DataError: the function failed, or returned nothing that holds inputs.
    """
    if text is None or not _FUNCTION.fullmatch(text):
        return text
    import numpy as np

    from onnxprune.engine.evaluation import load_function

    function: Any = load_function(text, "--inputs-from")
    try:
        found = function()
    except OnnxPruneError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise DataError(f"{text}: {_said(error)}") from error
    if isinstance(found, (np.ndarray, Mapping)) or hasattr(found, "get_next"):
        given: CalibrationSource = found
        return given
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        raise DataError(f"{text}: returned {type(found).__name__}, expected arrays, or dicts of arrays by input name")
    return _each(found, text)


def _each(items: Iterable[Any], text: str) -> Iterator[Any]:
    """Yield the items of a function; whatever it raises becomes one line."""
    left = iter(items)
    while True:
        try:
            item = next(left)
        except StopIteration:
            return
        except Exception as error:  # a user's function may raise anything
            raise DataError(f"{text}: {_said(error)}") from error
        yield item


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
