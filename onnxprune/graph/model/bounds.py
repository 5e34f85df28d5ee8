"""Bounds on the memory that code outside this package takes for a model from anywhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bounded_memory"]


@contextmanager
def bounded_memory(most: int, copies: int) -> Iterator[None]:
    """Let the process take a bounded number of bytes more, where the system can limit that.

    Args:
        most: bytes, whatever the process holds.
        copies: times what the process holds now, the model for instance, on top of them.

    Raises:
        MemoryError: the block wanted more.
    """
    if sys.platform == "win32":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = psutil.Process().memory_info()
    limits = [held.vms + most + copies * held.rss]
    limits += [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
