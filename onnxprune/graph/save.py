"""Writing a network: checked as it will be read, and never half a file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import shape_inference

from onnxprune.errors import OutputError, VerifyError
from onnxprune.graph.net import first_line

if TYPE_CHECKING:
    from onnxprune.graph.net import Net

__all__ = ["finished_model", "write_bytes"]

_STRICT_LIMIT = 2**31 - 1  # bytes; protobuf's limit for one message


def finished_model(net: Net) -> onnx.ModelProto:
    """The model as it will be saved: shapes inferred anew, fully checked.

    Raises:
        VerifyError: the checker or strict shape inference rejects it.
    """
    model = net.to_model()
    # Shapes that were kept along the way may hide a mistake: only what follows from the inputs counts.
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=model.ByteSize() < _STRICT_LIMIT)
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=_is_standard(model))
    except (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise VerifyError(f"the result is not a valid model: {first_line(error)}") from error


def _is_standard(model: onnx.ModelProto) -> bool:
    """Strict inference knows only the standard operators."""
    return all(node.domain in ("", "ai.onnx") for node in model.graph.node)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, then renamed.

    Raises:
        OutputError: the folder is missing or the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}): give a folder that exists") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
