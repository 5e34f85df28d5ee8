"""Output files of a command: checks before the work, and the content of JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from onnxprune.errors import OutputError, UsageError
from onnxprune.files import write_bytes
from onnxprune.options.data import SYNTHETIC

__all__ = ["check_targets", "json_bytes", "write_json"]


def check_targets(sources: Sequence[Path | str | None], targets: Sequence[Path | None]) -> None:
    """Check before the work that the output files can be written and overwrite no input.

    Args:
        sources: files and folders that the command reads; ``synthetic`` stands for synthetic inputs.
        targets: files that the command writes; None for an output that was not requested.

    Raises:
        OutputError: the folder of an output does not exist, or the output is a folder.
        UsageError: an output is an input of the command, or two outputs are one file.
    """
    read = [Path(source) for source in sources if source is not None and source != SYNTHETIC]
    taken: set[Path] = set()
    for path in (target for target in targets if target is not None):
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected a file to write: add a file name")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist: create it")
        for source in read:
            if path.exists() and source.exists() and path.samefile(source):
                raise UsageError(
                    f"{path} is an input of this command and would be overwritten; choose another output path"
                )
        if path.resolve() in taken:
            raise UsageError(f"{path}: two outputs name this file; give each its own path")
        taken.add(path.resolve())


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
