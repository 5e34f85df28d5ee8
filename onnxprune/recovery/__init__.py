"""Recovery: a compressed network trained on the original's answers, without labels. Needs torch, an extra.

Nothing in this file, in `options` or in `record` imports torch, so that everything else works without it.
"""

from importlib.util import find_spec

from onnxprune.errors import UsageError

__all__ = ["has_torch", "require_torch"]

_NEEDED = ("torch", "safetensors")


def has_torch() -> bool:
    """Whether everything that a recovery needs is installed."""
    return all(find_spec(name) is not None for name in _NEEDED)


def require_torch() -> None:
    """Say at once that something is missing, not after an hour.

    Raises:
        UsageError: torch or safetensors is not installed.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"recovery needs {' and '.join(missing)}: pip install 'onnxprune[recover]'")
