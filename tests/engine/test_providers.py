"""Which provider runs the networks, for every machine that there could be."""

from __future__ import annotations

import importlib
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import pytest

from onnxprune.engine import providers
from onnxprune.engine.providers import resolve, unused
from onnxprune.errors import EngineError, UsageError
from onnxprune.options.engine import EngineOptions

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OTHERS = (TENSORRT, CUDA, "AzureExecutionProvider")
SUBSETS = list(chain.from_iterable(combinations(OTHERS, size) for size in range(len(OTHERS) + 1)))
# onnxruntime always has the CPU.
MACHINES = [((*offered, CPU), frozenset(working)) for offered, working in product(SUBSETS, SUBSETS)]
NAMES: dict[Any, str] = {"cuda": CUDA, "tensorrt": TENSORRT}


def works_on(working: frozenset[str]) -> Any:
    def works(provider: str) -> bool:
        assert provider != CPU, "the CPU needs no trial"
        return provider in working

    return works


@pytest.mark.parametrize(("offered", "working"), MACHINES)
def test_auto_takes_cuda_exactly_where_it_is_offered_and_works(
    offered: tuple[str, ...], working: frozenset[str]
) -> None:
    found = resolve(EngineOptions(), offered, works_on(working))
    assert found == ((CUDA, CPU) if CUDA in offered and CUDA in working else (CPU,))


@pytest.mark.parametrize(("offered", "working"), MACHINES)
def test_the_cpu_is_had_everywhere_and_nothing_else_is_tried(offered: tuple[str, ...], working: frozenset[str]) -> None:
    assert resolve(EngineOptions(provider="cpu"), offered, works_on(working)) == (CPU,)


@pytest.mark.parametrize("asked", NAMES)
@pytest.mark.parametrize(("offered", "working"), MACHINES)
def test_a_named_provider_is_taken_or_is_an_error_with_the_way_out(
    asked: Any, offered: tuple[str, ...], working: frozenset[str]
) -> None:
    name = NAMES[asked]
    if name in offered and name in working:
        found = resolve(EngineOptions(provider=asked), offered, works_on(working))
        assert found[0] == name
        assert found[-1] == CPU
        assert set(found) <= set(offered)
        return
    with pytest.raises(EngineError, match=f"--provider {asked}") as caught:
        resolve(EngineOptions(provider=asked), offered, works_on(working))
    message = str(caught.value)
    assert "--provider cpu" in message
    assert name in message
    assert ("onnxprune[gpu]" in message) == (name not in offered)
    assert "\n" not in message


def test_tensorrt_falls_back_to_cuda_before_the_cpu() -> None:
    offered = (CPU, CUDA, TENSORRT)
    assert resolve(EngineOptions(provider="tensorrt"), offered, lambda _: True) == (TENSORRT, CUDA, CPU)


def test_auto_says_that_it_passed_over_a_cuda_that_does_not_start() -> None:
    assert "--provider cuda shows why" in unused(EngineOptions(), (CPU,), (CUDA, CPU))
    assert unused(EngineOptions(), (CUDA, CPU), (CUDA, CPU)) == ""
    assert unused(EngineOptions(), (CPU,), (CPU,)) == ""
    assert unused(EngineOptions(provider="cpu"), (CPU,), (CUDA, CPU)) == ""


def test_auto_does_not_try_cuda_where_it_is_not_offered() -> None:
    def works(provider: str) -> bool:
        raise AssertionError(provider)

    assert resolve(EngineOptions(), (CPU,), works) == (CPU,)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_real_trial_passes_on_the_cpu_and_fails_on_a_provider_that_does_not_exist() -> None:
    assert providers._works(CPU)
    assert not providers._works("NoSuchExecutionProvider")


def test_a_trial_that_ends_up_on_the_cpu_or_counts_wrong_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        ran_on, answer = [CUDA, CPU], 2.0

        SessionOptions = type("SessionOptions", (), {})

        @classmethod
        def InferenceSession(cls, *_: Any, **__: Any) -> Any:  # noqa: N802
            return cls

        @classmethod
        def get_providers(cls) -> list[str]:
            return cls.ran_on

        @classmethod
        def run(cls, *_: Any) -> list[Any]:
            return [np.array([cls.answer])]

    monkeypatch.setattr(providers, "onnxruntime", lambda: Fake)
    assert providers._works(CUDA)
    Fake.ran_on = [CPU]
    assert not providers._works(CUDA)
    Fake.ran_on, Fake.answer = [CUDA, CPU], 3.0
    assert not providers._works(CUDA)


def test_without_onnxruntime_the_error_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    for call in (
        providers.onnxruntime,
        lambda: resolve(EngineOptions()),
        lambda: resolve(EngineOptions(provider="cpu")),
    ):
        with pytest.raises(EngineError) as caught:
            call()
        assert "onnxprune[cpu]" in str(caught.value)
        assert "onnxprune[gpu]" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("provider", ["", "gpu", "CUDA", "CPUExecutionProvider"])
def test_an_unknown_provider_is_a_usage_error(provider: Any) -> None:
    with pytest.raises(UsageError, match="--provider"):
        EngineOptions(provider=provider)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_a_usage_error(threads: int) -> None:
    with pytest.raises(UsageError, match="--threads"):
        EngineOptions(threads=threads)
