"""Latency of two models, measured against each other in one process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["Latency", "Timing", "interleaved"]

_RESAMPLES = 1000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: the median and the 90th percentile of `runs` runs."""

    median_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True)
class Timing:
    """Two models side by side.

    Attributes:
        before: the first model.
        after: the second.
        ratio: median of the first over median of the second; above 1, the second is faster.
        ratio_low: lower end of the 95 % bootstrap interval of the ratio.
        ratio_high: upper end.
        provider: what both ran on.
        threads: within an operator; 0: onnxruntime's default.
        batch: samples a run.
        warmup: runs of each that were not counted.
    """

    before: Latency
    after: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    provider: str
    threads: int
    batch: int
    warmup: int


class Runnable(Protocol):
    """What can be timed: a `Session`, or what behaves like one."""

    @property
    def provider(self) -> str:
        """What it runs on."""

    @property
    def threads(self) -> int:
        """Within an operator; 0: the engine's default."""

    def run(self, feeds: Mapping[str, Array]) -> object:
        """One run."""


def interleaved(
    before: Runnable,
    after: Runnable,
    feeds: Mapping[str, Array],
    *,
    seconds: float = 4.0,
    least: int = 5,
    most: int = 500,
    warmup: int = 3,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timing:
    """Run both in pairs, in random order within a pair, so that what disturbs one disturbs the other.

    Args:
        before: first model.
        after: second model.
        feeds: inputs of both.
        seconds: time for all pairs, the warm-up not counted.
        least: pairs in any case.
        most: pairs at most.
        warmup: pairs in front that do not count.
        seed: of the order and of the bootstrap.
        clock: nanoseconds.
    """
    generator = np.random.default_rng(seed)
    sessions = (before, after)
    for _ in range(warmup):
        for session in sessions:
            session.run(feeds)
    pairs: list[tuple[float, float]] = []
    end = clock() + int(seconds * 1e9)
    while len(pairs) < least or (len(pairs) < most and clock() < end):
        taken = [0.0, 0.0]
        for which in generator.permutation(2).tolist():
            start = clock()
            sessions[which].run(feeds)
            taken[which] = (clock() - start) / 1e6
        pairs.append((taken[0], taken[1]))
    times = np.array(pairs)
    picks = generator.integers(0, len(times), (_RESAMPLES, len(times)))
    medians = np.median(times[picks], axis=1)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], (2.5, 97.5))
    middle = np.median(times, axis=0)
    ratio = float(middle[0] / middle[1])
    return Timing(
        before=_latency(times[:, 0]),
        after=_latency(times[:, 1]),
        ratio=ratio,
        ratio_low=min(float(low), ratio),
        ratio_high=max(float(high), ratio),
        provider=after.provider,
        threads=after.threads,
        batch=max((len(array) for array in feeds.values() if array.ndim), default=1),
        warmup=warmup,
    )


def _latency(times: Array) -> Latency:
    return Latency(float(np.median(times)), float(np.percentile(times, 90)), len(times))
