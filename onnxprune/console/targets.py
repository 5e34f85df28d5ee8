"""Output files of a command: checks before the work, and the content of JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from onnxprune.errors import UsageError
from onnxprune.files import check_writable, write_bytes
from onnxprune.options.data import SYNTHETIC

__all__ = ["check_targets", "json_bytes", "write_json"]


def check_targets(sources: Sequence[Path | str | None], targets: Sequence[Path | None]) -> None:
    """Check before the work that the output files can be written and overwrite no input.

    Args:
        sources: files and folders that the command reads; ``synthetic`` stands for synthetic inputs.
        targets: files that the command writes; None for an output that was not requested.

    Raises:
        OutputError: an output cannot be written, see `check_writable`.
        UsageError: an output is an input of the command, or two outputs are one file.
    """
    read = [Path(source) for source in sources if source is not None and source != SYNTHETIC]
    taken: list[Path] = []
    for path in (target for target in targets if target is not None):
        check_writable(path)
        if any(_same(path, source) for source in read):
            raise UsageError(f"{path} is an input of this command and would be overwritten; choose another output path")
        if any(_same(path, other) or path.resolve() == other.resolve() for other in taken if not _is_device(path)):
            raise UsageError(f"{path}: two outputs name this file; give each its own path")
        taken.append(path)


def _same(path: Path, other: Path) -> bool:
    with suppress(OSError):  # a file that does not exist, or cannot be looked at: it is reported where it is read
        return path.samefile(other)
    return False


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file()


def json_bytes(content: object) -> bytes:
    """Encode the content of a JSON file; NaN and infinity, which JSON cannot express, become null."""
    return (json.dumps(_finite(content), indent=1, default=str, allow_nan=False) + "\n").encode()


def write_json(path: Path | None, content: object) -> None:
    """Write a JSON file, if one was asked for."""
    if path is not None:
        write_bytes(path, json_bytes(content))


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
