"""Bounds on the memory that code outside this package takes for a model from anywhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

try:
    import resource
except ImportError:  # such as on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bounded_memory"]


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """Let the process take up to `most` bytes more, where the system can limit that.

    Raises:
        MemoryError: the block wanted more.
    """
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [psutil.Process().memory_info().vms + most]
    limits += [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
