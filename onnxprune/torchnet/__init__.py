"""The ONNX graph as a torch module: operators, program, initializers to train, and BatchNorm for training.

Needs torch, an extra. This file does not import it, so that the rest of the package works without it.
"""

from importlib.util import find_spec

from onnxprune.errors import UsageError

__all__ = ["has_torch", "require_torch"]


def has_torch() -> bool:
    """Return True if torch is installed."""
    return find_spec("torch") is not None


def require_torch() -> None:
    """Check before the work that torch is installed.

    Raises:
        UsageError: torch is not installed.
    """
    if not has_torch():
        raise UsageError("recovery needs torch: pip install 'onnxprune[recover]'")
