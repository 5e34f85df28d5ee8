"""Latency of two models, measured against each other in one process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from onnxprune.engine.clocks import cores, low_mean, others_ns, stretched, thread_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["BUSY", "Clocks", "Latency", "Repeats", "Timing", "interleaved"]

BUSY = 1.15
"""Wall time divided by undisturbed time, from which a machine counts as busy."""

_CERTAIN = 0.05  # width of the ratio's interval, relative, from which more pairs are run, and then a warning is given
_ROUNDS = 3  # so many times the given time, if the interval stays wider
_RESAMPLES = 1000
_BLOCKS = 12  # neighbouring pairs are resampled together, or drifts would not count


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of a model.

    Attributes:
        median_ms: median of the wall time.
        p90_ms: 90th percentile of the wall time.
        runs: number of runs.
        quiet_ms: estimate for an idle machine: mean of the fastest quarter of the runs, by the timing's `clock`.
    """

    median_ms: float
    p90_ms: float
    runs: int
    quiet_ms: float


@dataclass(frozen=True)
class Timing:
    """Latency of two models.

    Attributes:
        before: latency of the first model.
        after: latency of the second model.
        ratio: `quiet_ms` of the first divided by `quiet_ms` of the second; above 1 if the second is faster.
        ratio_low: lower end of the 95 % confidence interval of the ratio, by a bootstrap over blocks of neighbouring
            pairs.
        ratio_high: upper end of the 95 % confidence interval of the ratio.
        provider: provider that both ran on.
        threads: threads within an operator; 0 for onnxruntime's default.
        batch: samples per run.
        warmup: number of runs of each that were not counted.
        clock: clock of `quiet_ms` and the ratio: ``cpu``, the CPU time of the one thread that runs the models, or
            ``wall``.
        stretch: wall time divided by CPU time, or for the ``wall`` clock an estimate from the cores that other programs
            used; 1 on an idle machine.
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
    clock: Literal["cpu", "wall"] = "wall"
    stretch: float = 1.0

    @property
    def steady(self) -> bool:
        """Whether the machine was idle enough, and the interval narrow enough, for a certain ratio: programs on the
        other thread of a core slow down two models unequally, which no interval shows."""
        return self.stretch <= BUSY and self.ratio_high <= self.ratio_low * (1 + _CERTAIN)

    @property
    def slower(self) -> bool:
        """Whether the second model certainly takes longer: the interval is below 1, on a busy machine far below."""
        return self.ratio_high < (1 if self.stretch <= BUSY else 1 / BUSY)

    @property
    def warning(self) -> str:
        """Reason why the numbers are estimates, in one line; empty if they are not."""
        if self.stretch > BUSY:
            others = f"BUSY MACHINE: beside other programs a run takes {self.stretch:.1f} times as long as alone"
            rough = "a rough one" if self.clock == "wall" else "one in CPU time"
            return (
                f"{others}: milliseconds are too high, and the speed-up of {self.ratio:.2f}x is an estimate, {rough}; "
                "measure again when it is idle"
            )
        if not self.steady:
            spread = f"the speed-up lies between {self.ratio_low:.2f}x and {self.ratio_high:.2f}x"
            return f"UNSTEADY MACHINE: {spread}, which is an estimate; measure again when nothing else runs"
        return ""


class Runnable(Protocol):
    """Model that can be timed, such as a `Session`."""

    @property
    def provider(self) -> str:
        """Provider that the model runs on."""

    @property
    def threads(self) -> int:
        """Threads within an operator; 0 for the engine's default."""

    def run(self, feeds: Mapping[str, Array]) -> object:
        """Run the model once."""


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Length of a measurement.

    Attributes:
        seconds: wall time for all pairs of runs, without the warm-up.
        least: smallest number of pairs.
        most: largest number of pairs within `seconds`.
        warmup: number of pairs before the measurement.
    """

    seconds: float = 4.0
    least: int = 5
    most: int = 500
    warmup: int = 3


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Clocks of a measurement, each in nanoseconds.

    Attributes:
        wall: wall time.
        cpu: CPU time of the thread that runs both models; None: see `thread_clock`.
        others: CPU time of other programs.
    """

    wall: Callable[[], int] = time.perf_counter_ns
    cpu: Callable[[], int] | None = None
    others: Callable[[], int] = others_ns


_USUAL, _MACHINE = Repeats(), Clocks()


def interleaved(
    before: Runnable,
    after: Runnable,
    feeds: Mapping[str, Array],
    *,
    feeds_after: Mapping[str, Array] | None = None,
    repeats: Repeats = _USUAL,
    seed: int = 0,
    clocks: Clocks = _MACHINE,
) -> Timing:
    """Time two models in pairs of runs, in random order within a pair, so that a disturbance affects both.

    If the ratio remains uncertain, or other programs run, the measurement takes up to three times as long.

    Args:
        before: first model.
        after: second model.
        feeds: inputs of both.
        feeds_after: inputs of the second model; None for `feeds`.
        repeats: length of the measurement.
        seed: seed of the order and of the bootstrap.
        clocks: clocks to read.
    """
    clock, others = clocks.wall, clocks.others
    generator = np.random.default_rng(seed)
    sessions, given = (before, after), (feeds, feeds if feeds_after is None else feeds_after)
    own = clocks.cpu or thread_clock(before, after)
    for _ in range(repeats.warmup):
        for session, inputs in zip(sessions, given, strict=True):
            session.run(inputs)
    pairs: list[list[tuple[float, float]]] = []
    started, used = clock(), others()
    for turn in range(1, _ROUNDS + 1):
        end = clock() + int(repeats.seconds * 1e9)
        while len(pairs) < repeats.least or (len(pairs) < turn * repeats.most and clock() < end):
            order = generator.permutation(2).tolist()
            pair = {which: _once(sessions[which], given[which], clock, own or clock) for which in order}
            pairs.append([pair[0], pair[1]])
        times = np.array(pairs)  # (pairs, models, clocks)
        wall, quiet = times[:, :, 0], times[:, :, 1]
        ratio, low, high = _ratio(quiet, generator)
        busy = (others() - used) / max(clock() - started, 1)
        timing = Timing(
            before=_latency(wall[:, 0], quiet[:, 0]),
            after=_latency(wall[:, 1], quiet[:, 1]),
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            provider=after.provider,
            threads=after.threads,
            batch=max((len(array) for array in feeds.values() if array.ndim), default=1),
            warmup=repeats.warmup,
            clock="cpu" if own else "wall",
            stretch=max(float(wall.sum() / quiet.sum()), 1.0) if own else stretched(busy, after, cores()),
        )
        if timing.steady:
            break
    return timing


def _once(
    session: Runnable, feeds: Mapping[str, Array], clock: Callable[[], int], own: Callable[[], int]
) -> tuple[float, float]:
    """Time one run by two clocks; return the milliseconds."""
    start, start_own = clock(), own()
    session.run(feeds)
    spent = own() - start_own
    return (clock() - start) / 1e6, spent / 1e6


def _ratio(times: Array, generator: np.random.Generator) -> tuple[float, float, float]:
    """Compute the ratio of the two columns' low means, and its 95 % confidence interval; times: (pairs, 2)."""
    first, second = low_mean(times)
    ratio = float(first / second)
    size = -(-len(times) // _BLOCKS)
    blocks = times[len(times) % size :].reshape(-1, size, 2)
    picks = generator.integers(0, len(blocks), (_RESAMPLES, len(blocks)))
    lows = low_mean(blocks[picks].reshape(_RESAMPLES, -1, 2), axis=1)
    low, high = np.percentile(lows[:, 0] / lows[:, 1], (2.5, 97.5))
    return ratio, min(float(low), ratio), max(float(high), ratio)


def _latency(wall: Array, quiet: Array) -> Latency:
    return Latency(float(np.median(wall)), float(np.percentile(wall, 90)), len(wall), float(low_mean(quiet)))
