"""Inputs by a function of the user's: ``--inputs-from FILE.py:FUNCTION``, an alias of ``--data``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.errors import DataError

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

    from onnxprune.engine.usercode import load_function, users_own

    function: Any = load_function(text, "--inputs-from", DataError)
    with users_own(text, DataError):
        found = function()
    if isinstance(found, (np.ndarray, Mapping)) or hasattr(found, "get_next"):
        given: CalibrationSource = found
        return given
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        raise DataError(f"{text}: returned {type(found).__name__}, expected arrays, or dicts of arrays by input name")

    def items() -> Iterator[Any]:
        left, end = iter(found), object()
        while True:
            with users_own(text, DataError):
                item = next(left, end)
            if item is end:
                return
            yield item

    return items()
