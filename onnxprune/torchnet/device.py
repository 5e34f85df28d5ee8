"""Device of torch: that of onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from onnxprune.engine.sessions import Engine

__all__ = ["device_beside", "tensors_of", "torch_threads"]


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


def tensors_of(arrays: Mapping[str, np.ndarray[Any, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Convert arrays to torch tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
