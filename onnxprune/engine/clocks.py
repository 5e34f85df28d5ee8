"""Clocks that other programs disturb little, and an estimate of the disturbance.

Wall time includes the work of other programs: preempted runs take longer by whole time slices, and short runs are
preempted seldom, so that even the ratio of two networks is biased. The CPU time of the thread that runs a network
excludes the time slices of others. The remaining disturbances (cold caches, a slower clock) only add time, so the mean
of the fastest quarter of the runs is used.
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
"""Share of the fastest runs whose mean is taken."""

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")  # Linux counts guests as user time, too


class Placed(Protocol):
    """Model on a provider."""

    @property
    def provider(self) -> str:
        """Provider of onnxruntime, without its suffix: ``CPU``."""

    @property
    def threads(self) -> int:
        """Threads within an operator; 0 for onnxruntime's default, one per core."""


def low_mean(times: Array, axis: int = 0) -> Array:
    """Average the fastest quarter along an axis, at least one run."""
    count = -(-times.shape[axis] // round(1 / LOW_SHARE))
    return np.asarray(np.sort(times, axis=axis).take(np.arange(count), axis=axis).mean(axis=axis))


def thread_clock(*sessions: Placed) -> Callable[[], int] | None:
    """Return a clock of this thread's CPU time in nanoseconds if the sessions do all work on this thread; else None.

    onnxruntime's CPU provider with one thread runs on the caller's. Windows counts thread time in steps of 16 ms.
    """
    precise = time.get_clock_info("thread_time").implementation.startswith("clock_gettime")
    alone = all(session.provider == "CPU" and session.threads == 1 for session in sessions)
    return time.thread_time_ns if precise and alone else None


def others_ns() -> int:
    """Return the CPU time of all other processes in nanoseconds, since some fixed moment."""
    counted = psutil.cpu_times()._asdict()
    busy = sum(seconds for name, seconds in counted.items() if name not in _NOT_BUSY)
    return int(busy * 1e9) - time.process_time_ns()


def cores() -> int:
    """Return the number of cores of the machine."""
    return os.cpu_count() or 1


def stretched(others: float, session: Placed, count: int) -> float:
    """Estimate wall time divided by the time on an idle machine, 1 or more, from the use of its cores.

    Args:
        others: average number of cores that other programs used.
        session: session that ran; on a GPU, it needs one core.
        count: number of cores of the machine.
    """
    threads = min(session.threads or count, count) if session.provider == "CPU" else 1
    return 1 + min(max(others - (count - threads), 0.0) / threads, float(count))
