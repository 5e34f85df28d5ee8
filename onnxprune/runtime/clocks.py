"""Clocks that other programs disturb little, and a number for how much they disturb.

A run's wall time is what a user waits for, and counts all that other programs do meanwhile: preempted runs take longer
by whole time slices, and a short run is preempted seldom, so even the ratio of two networks is wrong. The CPU time of
the thread that runs a network does not count time slices of others. What is left (cold caches, a slower clock) only
ever adds, so the fastest quarter of the runs says most.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]

__all__ = ["LOW_SHARE", "Placed", "cores", "low_mean", "others_ns", "stretched", "thread_clock"]

LOW_SHARE = 0.25
"""Share of the runs, the fastest, whose mean is taken."""

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")  # Linux counts guests as user time, too


class Placed(Protocol):
    """A model that runs somewhere."""

    @property
    def provider(self) -> str:
        """onnxruntime's provider, without its suffix: ``CPU``."""

    @property
    def threads(self) -> int:
        """Threads within an operator; 0: onnxruntime's default, one a core."""


def low_mean(times: Array, axis: int = 0) -> Array:
    """Mean of the fastest quarter along an axis, one run at least."""
    count = -(-times.shape[axis] // round(1 / LOW_SHARE))
    return np.asarray(np.sort(times, axis=axis).take(np.arange(count), axis=axis).mean(axis=axis))


def thread_clock(*sessions: Placed) -> Callable[[], int] | None:
    """CPU time of this thread in nanoseconds, if all of the work of the sessions is done on it; else None.

    onnxruntime's CPU provider with one thread runs on the caller's. Windows counts thread time in steps of 16 ms.
    """
    precise = time.get_clock_info("thread_time").implementation.startswith("clock_gettime")
    alone = all(session.provider == "CPU" and session.threads == 1 for session in sessions)
    return time.thread_time_ns if precise and alone else None


def others_ns() -> int:
    """CPU time that all cores have spent on anything but this process, in nanoseconds since some fixed moment."""
    counted = psutil.cpu_times()._asdict()
    busy = sum(seconds for name, seconds in counted.items() if name not in _NOT_BUSY)
    return int(busy * 1e9) - time.process_time_ns()


def cores() -> int:
    """Cores of the machine."""
    return os.cpu_count() or 1


def stretched(others: float, session: Placed, count: int) -> float:
    """Wall time over the time on an idle machine, 1 or more, as far as the use of its cores tells.

    Args:
        others: cores that other programs used meanwhile, on average.
        session: what ran; with a GPU, one thread of it needs a core.
        count: cores of the machine.
    """
    threads = min(session.threads or count, count) if session.provider == "CPU" else 1
    return 1 + min(max(others - (count - threads), 0.0) / threads, float(count))
