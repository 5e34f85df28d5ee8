"""Two models by a clock that only moves while they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.runtime.timing import Timing, interleaved

MS = 1_000_000
FEEDS = {"x": np.zeros((4, 3), np.float32), "scalar": np.zeros((), np.float32)}


@dataclass
class Clock:
    now: int = 0
    log: list[str] = field(default_factory=list)

    def __call__(self) -> int:
        return self.now


class FakeSession:
    provider, threads = "Fake", 7

    def __init__(self, name: str, clock: Clock, milliseconds: float, jitter: float = 0.0, seed: int = 0) -> None:
        self.name, self.clock, self.milliseconds, self.jitter = name, clock, milliseconds, jitter
        self.generator = np.random.default_rng(seed)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        assert feeds is FEEDS
        self.clock.log.append(self.name)
        self.clock.now += round(self.milliseconds * MS * (1 + self.jitter * self.generator.exponential()))
        return {}


def measure(before: float, after: float, *, jitter: float = 0.0, seed: int = 0, **options: Any) -> tuple[Timing, str]:
    clock = Clock()
    sessions: list[Any] = [
        FakeSession(n, clock, ms, jitter, seed + i) for i, (n, ms) in enumerate(zip("ab", (before, after), strict=True))
    ]
    timing = interleaved(*sessions, FEEDS, seed=seed, clock=clock, **options)
    return timing, "".join(clock.log)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_without_noise_the_ratio_is_that_of_the_two_times(before: float, after: float) -> None:
    timing, _ = measure(before, after, most=20)
    assert timing.ratio == pytest.approx(before / after, rel=1e-3)
    assert timing.ratio_low == pytest.approx(timing.ratio)
    assert timing.ratio_high == pytest.approx(timing.ratio)
    assert timing.before.median_ms == pytest.approx(before, rel=1e-3)
    assert timing.after.p90_ms == pytest.approx(after, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.1, 5), st.integers(0, 1000))
def test_the_interval_contains_the_ratio(before: float, after: float, jitter: float, seed: int) -> None:
    timing, _ = measure(before, after, jitter=jitter, seed=seed, seconds=0.2, most=40)
    assert 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high
    assert timing.before.median_ms <= timing.before.p90_ms


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 100), st.floats(0.1, 100), st.integers(0, 4), st.integers(0, 1000))
def test_both_run_equally_often_and_always_in_pairs(before: float, after: float, warmup: int, seed: int) -> None:
    timing, log = measure(before, after, warmup=warmup, seed=seed, seconds=0.5, most=60)
    assert log.count("a") == log.count("b") == timing.before.runs + warmup
    assert timing.before.runs == timing.after.runs
    assert timing.warmup == warmup
    assert {"".join(sorted(log[i : i + 2])) for i in range(0, len(log), 2)} == {"ab"}


def test_the_order_within_pairs_is_mixed() -> None:
    _, log = measure(1, 1, most=100, warmup=0)
    share = sum(log[i] == "a" for i in range(0, len(log), 2)) / (len(log) // 2)
    assert 0.3 < share < 0.7


def test_the_order_follows_from_the_seed() -> None:
    logs = [measure(1, 1, most=50, seed=seed)[1] for seed in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize("least", [1, 5, 8])
def test_slow_models_run_the_least_number_of_pairs(least: int) -> None:
    timing, _ = measure(60_000, 60_000, least=least, seconds=1)
    assert timing.before.runs == least


def test_fast_models_run_the_most_number_of_pairs() -> None:
    assert measure(0.001, 0.001, most=33, seconds=10)[0].before.runs == 33


def test_the_time_is_kept_and_the_warm_up_is_not_counted() -> None:
    timing, _ = measure(10, 10, seconds=1, warmup=40)
    assert timing.before.runs == 50


def test_a_disturbance_of_both_leaves_the_ratio() -> None:
    clock = Clock()

    class Disturbed(FakeSession):
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            slow = 3 if len(self.clock.log) // 2 % 4 == 0 else 1
            self.clock.now += round((slow - 1) * self.milliseconds * MS)
            return super().run(feeds)

    sessions: list[Any] = [Disturbed("a", clock, 4), Disturbed("b", clock, 2)]
    assert interleaved(*sessions, FEEDS, clock=clock, most=40).ratio == pytest.approx(2)


def test_what_was_measured_is_written_down() -> None:
    timing, _ = measure(1, 1, most=5)
    assert (timing.provider, timing.threads, timing.batch) == ("Fake", 7, 4)
