"""Device of torch: that of onnxruntime."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from onnxprune.engine.sessions import Engine

__all__ = ["device_beside", "memory_kept", "tensors_of", "torch_threads"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # options of glibc's mallopt


def device_beside(engine: Engine) -> torch.device:
    """CUDA where torch has it and onnxruntime runs there too, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and engine.provider != "CPU" else "cpu")


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """So many threads of torch for a while, and how many; None: as many as it has."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count or usual)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(usual)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory in the process for a while, in place of returning it to the system after each operator.

    Activations are megabytes each, and a page that is new to the process costs as much time as an operator: a step of
    a MobileNetV2 takes a third less. Only glibc can be told; elsewhere this does nothing.
    """
    try:
        told = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        yield
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 256 << 20)):
        told(option, value)
    try:
        yield
    finally:
        for option, value in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 128 << 10), (_TOP_PAD, 128 << 10)):
            told(option, value)


def tensors_of(arrays: Mapping[str, np.ndarray[Any, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Convert arrays to torch tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
