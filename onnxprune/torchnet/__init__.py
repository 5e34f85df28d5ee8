"""Recovery: training of a compressed network on the original's outputs, without labels. Needs torch, an extra.

This file, `options` and `record` do not import torch, so that the rest of the package works without it.
"""

from importlib.util import find_spec

from onnxprune.errors import UsageError

__all__ = ["has_torch", "require_torch"]

_NEEDED = ("torch", "safetensors")


def has_torch() -> bool:
    """Return True if torch and safetensors are installed."""
    return all(find_spec(name) is not None for name in _NEEDED)


def require_torch() -> None:
    """Check before the work that the packages of a recovery are installed.

    Raises:
        UsageError: torch or safetensors is not installed.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"recovery needs {' and '.join(missing)}: pip install 'onnxprune[recover]'")
