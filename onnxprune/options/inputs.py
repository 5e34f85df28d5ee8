"""Options of the sampling of inputs, and of the measurement of latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, Token

from onnxprune.errors import UsageError
from onnxprune.options.checks import at_least
from onnxprune.options.reading import ReadOptions

__all__ = ["LEAST_MEMORY", "BenchOptions", "InputOptions", "parse_bytes"]

LEAST_MEMORY = 64 << 20


_UNITS = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "KB": 1 << 10,
    "M": 1 << 20,
    "MB": 1 << 20,
    "G": 1 << 30,
    "GB": 1 << 30,
}


def parse_bytes(flag: str, text: str) -> int:
    """Convert ``2GB``, ``512M`` or a plain number to bytes; units are powers of 1024.

    Raises:
        UsageError: `text` is not a size.
    """
    number = text.strip().upper().replace("IB", "B").rstrip("BGKM")
    unit = text.strip().upper().replace("IB", "B")[len(number) :]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in _UNITS or not 0 < value < 1e15:
        raise UsageError(f"{flag} takes a size like 2GB or 512MB, found {text!r}")
    return int(value * _UNITS[unit])


def _memory(type_: object, tokens: Sequence[Token]) -> int:
    return parse_bytes("--memory", tokens[0].value)


@dataclass(frozen=True, kw_only=True)
class InputOptions(ReadOptions):
    """Sampling of the inputs."""

    samples: int | None = None
    "Largest number of calibration inputs, drawn at random; a tenth is held out for the verification. Default all."

    points: int | None = None
    "Positions sampled per input and layer; default 10, and more where a layer would see fewer than 30 rows a column."

    seed: int = 0
    "Seed of all sampling."

    memory: Annotated[int | None, Parameter(converter=_memory)] = None
    "Memory limit for activations and moments, such as 2GB; default a quarter of the machine's memory."

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        at_least("--samples", self.samples, 2)
        at_least("--points", self.points, 1)
        at_least("--seed", self.seed, 0)
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise UsageError(
                f"--memory must be at least {LEAST_MEMORY >> 20} MB, found {self.memory / (1 << 20):.1f} MB"
            )


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measurement of latency."""

    bench: bool = True
    "Measurement of latency before and after."

    bench_batch: int = 1
    "Batch size of the latency measurement."

    def __post_init__(self) -> None:
        at_least("--bench-batch", self.bench_batch, 1)
