"""The boundary to files that nobody has checked yet."""

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
    """Turn whatever a parser raises on a broken or hostile file into one line that names the file.

    Decoders document none of what they raise on damaged bytes (struct.error, SyntaxError, zlib.error,
    MemoryError and more have been seen), hence the wide net; it must enclose nothing but the call to the
    parser.

    Raises:
        DataError: anything was raised inside.
    """
    try:
        yield
    except OnnxPruneError:
        raise
    except Exception as error:  # decoders document none of what they raise
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what}: {reason}") from error
