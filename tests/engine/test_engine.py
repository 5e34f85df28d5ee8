"""Providers, sessions, timing and divergence."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxprune.data import InputSpec
from onnxprune.engine.divergence import DivergenceMeter
from onnxprune.engine.inputs import batches
from onnxprune.engine.providers import resolve
from onnxprune.engine.sessions import Engine
from onnxprune.errors import EngineError, UsageError, VerifyError
from onnxprune.options.engine import EngineOptions

from .helpers import timing_of

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def chosen(provider: str, available: list[str], working: set[str]) -> tuple[str, ...]:
    return resolve(EngineOptions(provider=provider), available, lambda name: name in working)


def test_auto_takes_cuda_only_where_it_works():
    assert chosen("auto", [TENSORRT, CUDA, CPU], {CUDA}) == (CUDA, CPU)
    assert chosen("auto", [TENSORRT, CUDA, CPU], set()) == (CPU,)
    assert chosen("auto", [CPU], set()) == (CPU,)


def test_what_is_asked_for_comes_first_and_the_cpu_last():
    assert chosen("tensorrt", [TENSORRT, CUDA, CPU], {TENSORRT}) == (TENSORRT, CUDA, CPU)
    assert chosen("cuda", [CUDA, CPU], {CUDA}) == (CUDA, CPU)
    assert chosen("cpu", [CUDA, CPU], {CUDA}) == (CPU,)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize(("available", "words"), [([CPU], "built without"), ([TENSORRT, CUDA, CPU], "does not start")])
def test_a_provider_that_cannot_be_had_is_an_error_with_the_way_out(provider, available, words):
    with pytest.raises(EngineError, match=words) as caught:
        chosen(provider, available, set())
    assert "--provider cpu" in str(caught.value)


def test_a_missing_onnxruntime_names_the_extras(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"onnxprune\[cpu\]"):
        resolve(EngineOptions())


def test_bad_options_name_their_flag():
    with pytest.raises(UsageError, match="--threads"):
        EngineOptions(threads=0)
    with pytest.raises(UsageError, match="--provider"):
        EngineOptions(provider="npu")


def test_a_model_that_does_not_load_is_one_line_with_its_label():
    with pytest.raises(EngineError, match="the thing") as caught:
        Engine.open(EngineOptions(provider="cpu")).session(b"nonsense", label="the thing")
    assert "\n" not in str(caught.value)


def test_inputs_of_another_shape_are_one_line_with_the_label(vgg):
    session = Engine.open(EngineOptions(provider="cpu")).session(vgg, label="the net")
    with pytest.raises(EngineError, match="the net"):
        session.run({"input": np.zeros((1, 3, 7, 7), np.float32)})


@given(count=st.integers(1, 40), size=st.integers(1, 9), fixed=st.one_of(st.none(), st.integers(1, 7)))
def test_every_sample_counts_once_and_fixed_batches_are_full(count, size, fixed):
    found = list(batches(list(range(count)), [InputSpec("x", (fixed, 3), np.dtype(np.float32))], size))
    assert [index for samples, real in found for index in samples[:real]] == list(range(count))
    if fixed:
        assert {len(samples) for samples, _ in found} == {fixed}
    else:
        assert all(len(samples) == real <= size for samples, real in found)


class FakeSession:
    """Takes a fixed time by a clock of its own."""

    provider, threads = "Fake", 3

    def __init__(self, clock: Clock, name: str, nanoseconds: int) -> None:
        self.clock, self.name, self.nanoseconds = clock, name, nanoseconds

    def run(self, feeds):
        self.clock.now += self.nanoseconds
        self.clock.calls.append(self.name)


class Clock:
    def __init__(self) -> None:
        self.now, self.calls = 0, []

    def __call__(self) -> int:
        return self.now


def timed(first: int, second: int, **options):
    clock = Clock()
    sessions = FakeSession(clock, "a", first), FakeSession(clock, "b", second)
    return timing_of(*sessions, {"x": np.zeros((4, 2))}, clock=clock, **options), clock


@given(first=st.integers(10_000, 10**8), second=st.integers(10_000, 10**8))
@settings(max_examples=20, deadline=None)
def test_the_ratio_is_that_of_the_medians_and_lies_in_its_interval(first, second):
    timing, clock = timed(first, second, seconds=0.5, most=50)
    assert np.isclose(timing.ratio, first / second)
    assert timing.ratio_low <= timing.ratio <= timing.ratio_high
    assert clock.calls.count("a") == clock.calls.count("b") == timing.before.runs + timing.warmup
    assert (timing.provider, timing.threads, timing.batch) == ("Fake", 3, 4)


def test_slow_models_are_still_timed_a_few_times():
    timing, _ = timed(10**11, 10**11, seconds=1, least=5)
    assert timing.before.runs == 5


def test_the_order_within_a_pair_changes():
    _, clock = timed(10**6, 10**6, most=40, warmup=0)
    assert {tuple(clock.calls[i : i + 2]) for i in range(0, 80, 2)} == {("a", "b"), ("b", "a")}


SCORES = arrays(np.float64, (6, 4), elements=st.floats(-5, 5))


def measured(reference, candidate, parts=1):
    meter = DivergenceMeter()
    for left, right in zip(np.array_split(reference, parts), np.array_split(candidate, parts), strict=True):
        meter.add({"y": left}, {"y": right}, len(left))
    return meter.finish()[0]


@given(scores=SCORES)
def test_equal_outputs_do_not_diverge(scores):
    found = measured(scores, scores.copy())
    assert (found.relative_error, found.max_abs, found.top1_agreement) == (0, 0, 1)
    assert found.kl < 1e-12


@given(left=SCORES, right=SCORES, parts=st.integers(1, 3))
def test_batches_do_not_matter_and_kl_is_never_negative(left, right, parts):
    whole, split = measured(left, right), measured(left, right, parts)
    assert whole.kl >= 0
    assert np.isclose(whole.kl, split.kl)
    assert np.isclose(whole.relative_error, split.relative_error)
    assert whole.top1_agreement == split.top1_agreement


@given(left=SCORES, right=SCORES)
def test_probabilities_and_logits_have_the_same_kl(left, right):
    def probabilities(scores):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    assert np.isclose(measured(left, right).kl, measured(probabilities(left), probabilities(right)).kl, atol=1e-6)


def test_images_are_no_classes():
    found = measured(np.random.default_rng(0).standard_normal((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)))
    assert found.kl is None
    assert found.top1_agreement is None


def test_another_shape_or_a_missing_output_is_named():
    with pytest.raises(VerifyError, match=r"'y'.*\(2, 4\)"):
        DivergenceMeter().add({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 4))}, 2)
    with pytest.raises(VerifyError, match="missing"):
        DivergenceMeter().add({"y": np.zeros((2, 3))}, {}, 2)
