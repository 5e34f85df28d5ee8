"""Recovery: a compressed network trained on the original's answers, without labels. Needs torch, an extra.

Nothing in this file, in `options` or in `record` imports torch, so that everything else works without it.
"""

from importlib.util import find_spec

from onnxprune.errors import UsageError

__all__ = ["missing_torch", "require_torch"]


def missing_torch() -> list[str]:
    """Names of the packages of the extra that are not installed."""
    return [name for name in ("torch", "safetensors") if find_spec(name) is None]


def require_torch(what: str = "recovery") -> None:
    """Say at once that something is missing, not after an hour.

    Raises:
        UsageError: torch or safetensors is not installed.
    """
    missing = missing_torch()
    if missing:
        raise UsageError(f"{what} needs {' and '.join(missing)}: pip install 'onnxprune[recover]'")
