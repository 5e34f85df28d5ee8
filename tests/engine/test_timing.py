"""Two models by a clock that only moves while they run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.engine.clocks import cores, stretched, thread_clock
from onnxprune.engine.timing import Latency, Timing

from .helpers import timing_of

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
    timing = timing_of(*sessions, FEEDS, seed=seed, clock=clock, **options)
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
    assert timing_of(*sessions, FEEDS, clock=clock, most=40).ratio == pytest.approx(2)


SLICE = 4 * MS  # what the scheduler gives another program at a time


class Preempted(FakeSession):
    """Runs on one thread beside programs that take time slices of wall time, the more the longer it runs.

    Its own time varies a little, and in `slow` phases the processor's clock is slower for all.
    """

    provider, threads = "CPU", 1

    def __init__(self, name, clock, cpu, milliseconds, *, chance=0.0, slow=None, seed=0) -> None:
        super().__init__(name, clock, milliseconds, 0.02, seed)
        self.cpu, self.chance, self.slow = cpu, chance, slow

    def run(self, feeds):
        started = self.clock.now
        super().run(feeds)
        factor = self.slow(started) if self.slow else 1.0
        spent = round((self.clock.now - started) * factor)
        slices = self.generator.binomial(max(round(self.milliseconds / 2), 1), self.chance)
        self.cpu.now += spent
        self.clock.now = started + spent + int(slices) * SLICE
        return {}


def disturbed(before, after, *, chances=(0.0, 0.0), slow=None, cpu=True, others=0.0, **options):
    """Ratio 2 unless something is wrong, measured beside other programs that use `others` cores."""
    clock, own = Clock(), Clock()
    sessions: list[Any] = [
        Preempted(name, clock, own, ms, chance=chance, slow=slow, seed=seed)
        for seed, (name, ms, chance) in enumerate(zip("ab", (before, after), chances, strict=True))
    ]
    if not cpu:
        for session in sessions:
            session.provider, session.threads = "CPU", cores()
    return timing_of(
        *sessions,
        FEEDS,
        clock=clock,
        cpu_clock=own if cpu else None,
        others=lambda: round(others * clock.now),
        **options,
    )


@pytest.mark.parametrize("chances", [(0.3, 0.3), (0.6, 0.1), (0.9, 0.9)])
@pytest.mark.parametrize("seed", range(4))
def test_time_slices_of_others_do_not_count_on_one_thread(chances, seed):
    timing = disturbed(20, 10, chances=chances, seed=seed)
    wall = timing.before.median_ms / timing.after.median_ms
    assert timing.clock == "cpu"
    assert timing.ratio == pytest.approx(2, rel=0.02)
    assert timing.before.quiet_ms == pytest.approx(20, rel=0.02)
    assert timing.stretch > 1.5
    assert "BUSY MACHINE" in timing.warning
    assert "CPU time" in timing.warning
    assert abs(wall / 2 - 1) > 0.02 or chances[0] == chances[1]


@pytest.mark.parametrize("seed", range(4))
def test_bursts_that_hit_half_of_the_runs_of_one_model_leave_the_ratio_of_wall_times(seed):
    timing = disturbed(4, 2, chances=(0.3, 0.0), cpu=False, others=0.05, seed=seed)
    assert timing.clock == "wall"
    assert timing.ratio == pytest.approx(2, rel=0.03)
    assert timing.ratio_low <= 2.06


PHASES = {
    "a slow drift": lambda now: 1 + 0.5 * now / (4000 * MS),
    "a clock of two speeds": lambda now: 1.6 if now // (300 * MS) % 2 else 1.0,
    "a clock of two speeds, mostly the slow one": lambda now: 1.0 if now // (200 * MS) % 3 == 0 else 1.7,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_changes_leaves_the_ratio_and_the_interval_holds_it(phase, seed):
    timing = disturbed(20, 10, slow=PHASES[phase], seed=seed)
    assert timing.ratio == pytest.approx(2, rel=0.03)
    assert timing.ratio_low * 0.99 <= 2 <= timing.ratio_high * 1.01
    assert timing.before.quiet_ms == pytest.approx(20, rel=0.12)


@pytest.mark.parametrize("others", [0.0, 0.05])
def test_an_idle_machine_needs_no_warning(others):
    for cpu in (True, False):
        timing = disturbed(20, 10, others=others, cpu=cpu)
        assert timing.warning == ""
        assert timing.stretch < 1.1


def test_a_busy_machine_is_said_where_several_threads_run():
    timing = disturbed(20, 10, others=0.8 * cores(), cpu=False)
    assert timing.stretch == pytest.approx(1.8, rel=0.01)
    assert "BUSY MACHINE: beside other programs a run takes 1.8 times as long as alone" in timing.warning
    assert "\n" not in timing.warning


def test_an_uncertain_ratio_takes_up_to_three_times_the_time_and_is_said():
    clock = Clock()
    sessions: list[Any] = [FakeSession("a", clock, 20, 4.0, 0), FakeSession("b", clock, 10, 4.0, 1)]
    timing = timing_of(*sessions, FEEDS, clock=clock, seconds=1.0)
    sure = disturbed(20, 10, seconds=1.0)
    assert 2.9e9 < clock.now < 4.5e9
    assert "UNSTEADY MACHINE" in timing.warning
    assert sure.before.runs * 30 * 1.05 < 1200


def test_beside_other_programs_a_small_loss_does_not_make_a_model_certainly_slower():
    one = Latency(1.0, 1.0, 9, 1.0)
    idle, busy = (Timing(one, one, 0.92, 0.9, 0.94, "CPU", 1, 1, 3, "cpu", stretch) for stretch in (1.0, 2.0))
    assert idle.slower
    assert not busy.slower
    assert replace(busy, ratio_high=0.8).slower
    assert not replace(idle, ratio_high=1.01).slower


def test_cores_that_are_free_are_not_missed():
    free, full = FakeSession("a", Clock(), 1), FakeSession("b", Clock(), 1)
    free.provider, free.threads = "CPU", 2
    full.provider, full.threads = "CPU", 0
    assert stretched(5.0, free, 8) == 1
    assert stretched(7.0, free, 8) == 1.5
    assert stretched(4.0, full, 8) == 1.5
    assert stretched(-1.0, full, 8) == 1


def test_thread_time_is_taken_only_where_one_thread_of_the_cpu_does_all():
    one, two, gpu = (FakeSession(name, Clock(), 1) for name in "abc")
    one.provider, one.threads = "CPU", 1
    two.provider, two.threads = "CPU", 2
    gpu.provider, gpu.threads = "CUDA", 1
    assert thread_clock(one, two) is None
    assert thread_clock(one, gpu) is None
    assert thread_clock(one, one) in (time.thread_time_ns, None)


def test_what_was_measured_is_written_down() -> None:
    timing, _ = measure(1, 1, most=5)
    assert (timing.provider, timing.threads, timing.batch) == ("Fake", 7, 4)
