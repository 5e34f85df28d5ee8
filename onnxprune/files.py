"""The files that a command writes: checked before the work, and the content of the JSON ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from onnxprune.data.opening import SYNTHETIC
from onnxprune.errors import OutputError, UsageError

__all__ = ["check_targets", "json_bytes"]


def check_targets(sources: Sequence[Path | str | None], targets: Sequence[Path | None]) -> None:
    """Find out before the work, not after it, that a file cannot be written, or is one that is read.

    Args:
        sources: files and folders that the command reads; ``synthetic`` stands for made-up inputs.
        targets: files that it writes; None: not asked for.

    Raises:
        OutputError: a folder is missing, or stands where the file should go.
        UsageError: a file is read, or is named twice.
    """
    read = [Path(source) for source in sources if source is not None and source != SYNTHETIC]
    taken: set[Path] = set()
    for path in (target for target in targets if target is not None):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder, expected a file to write")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: its folder does not exist")
        for source in read:
            if path.exists() and source.exists() and path.samefile(source):
                raise UsageError(f"{path}: is read; give the result another name")
        if path.resolve() in taken:
            raise UsageError(f"{path}: two results would go to one file")
        taken.add(path.resolve())


def json_bytes(content: object) -> bytes:
    """A JSON file's content; numbers that are not finite, which JSON has no word for, become null."""
    return (json.dumps(_finite(content), indent=1, default=str, allow_nan=False) + "\n").encode()


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
