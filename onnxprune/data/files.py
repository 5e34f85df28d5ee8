"""Errors of parsers on unchecked files."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnxprune.errors import DataError, OnnxPruneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["reading"]


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a parser on a broken or hostile file into a one-line error that names the file.

    The block must enclose nothing but the call to the parser, because every `Exception` is caught: decoders do not
    document what they raise on damaged bytes (seen: struct.error, SyntaxError, zlib.error, MemoryError).

    Args:
        path: the file.
        what: expected kind of file, such as "an image".

    Raises:
        DataError: the block raised another exception.
    """
    try:
        yield
    except OnnxPruneError:
        raise
    except Exception as error:  # decoders do not document what they raise
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what}: {reason}") from error
