"""Which inputs run together, and what shapes they have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxprune.graph.net import dims, numpy_dtype
from onnxprune.graph.normalize import with_shapes
from onnxprune.runtime.frontier import Batch
from onnxprune.runtime.inputs import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.data import Calibration, InputSpec
    from onnxprune.graph.net import Net

__all__ = ["batch_size", "group_batches", "sample_shapes"]

_LARGEST_TENSOR = 32 << 20  # bytes; larger activations leave the caches of any machine, and gain nothing
_MOST = 100


def sample_shapes(calibration: Calibration, specs: Sequence[InputSpec], batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Shape of each input as the calibration gives it, for a batch (or the model's own, where that is fixed)."""
    first = calibration.load([0])
    return {spec.name: (spec.shape[0] or batch, *first[spec.name].shape[1:]) for spec in specs}


def batch_size(net: Net, shapes: Mapping[str, Sequence[int]], memory: int) -> int:
    """How many samples run together: as many as keep the largest activation small.

    Args:
        net: the network.
        shapes: of its inputs for one sample.
        memory: bytes that a run may take.
    """
    concrete = with_shapes(net, shapes)
    largest = 1
    for tensor in concrete.tensors().values():
        shape = dims(tensor)
        if shape and tensor.inputs and tensor.dtype is not None and all(isinstance(s, int) for s in shape):
            elements = math.prod(s for s in shape if isinstance(s, int))
            largest = max(largest, elements * numpy_dtype(tensor.dtype).itemsize)
    return max(1, min(_MOST, min(_LARGEST_TENSOR, memory // 16) // largest))


def group_batches(indices: Iterable[int], specs: Sequence[InputSpec], size: int) -> tuple[Batch, ...]:
    """Batches of the given samples, see `runtime.inputs.batches`."""
    chosen = [int(index) for index in indices]
    return tuple(Batch(tuple(samples), real) for samples, real in batches(chosen, specs, size))
