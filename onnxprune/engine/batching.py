"""Batches of inputs, their shapes, and the bytes of activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from onnxprune.engine.frontier import Batch
from onnxprune.engine.inputs import batches
from onnxprune.graph.model.net import dims, is_constant, numpy_dtype
from onnxprune.graph.model.normalize import with_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.data import Calibration, InputSpec
    from onnxprune.graph.model.net import Net
    from onnxprune.graph.model.schedule import Schedule

__all__ = ["Move", "batch_size", "group_batches", "moves", "peak_bytes", "sample_shapes", "tensor_bytes"]

_LARGEST_TENSOR = 32 << 20  # bytes; larger activations leave the caches of any machine, and gain nothing
_MOST = 100


@dataclass(frozen=True)
class Move:
    """Move of a frontier to a place `cut` in the order of execution, and the tensors that it returns on the way."""

    cut: int
    sources: tuple[str, ...]


def sample_shapes(calibration: Calibration, specs: Sequence[InputSpec], batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input in the calibration, for `batch` samples, or the batch that the model fixes."""
    first = calibration.load([0])
    return {spec.name: (spec.shape[0] or batch, *first[spec.name].shape[1:]) for spec in specs}


def tensor_bytes(net: Net, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the bytes per sample of every input and activation whose size follows from these input shapes."""
    batch = max(int(shape[0]) for shape in shapes.values())
    found = {}
    for name, tensor in with_shapes(net, shapes).tensors().items():
        if is_constant(tensor) or tensor.dtype is None:
            continue
        sizes = [size for size in dims(tensor) or (None,) if isinstance(size, int)]
        if len(sizes) == len(dims(tensor) or (None,)):
            found[name] = -(-math.prod(sizes) * numpy_dtype(tensor.dtype).itemsize // batch)
    return found


def batch_size(order: Schedule, sizes: Mapping[str, int], room: int) -> int:
    """Choose the batch size, 1..100: as many samples as fit in memory, with the largest activation below 32 MiB.

    Args:
        order: order of the network's nodes.
        sizes: bytes of each tensor for one sample, see `tensor_bytes`.
        room: bytes for the tensors of the engine at its peak together with the tensors held at a cut.
    """
    largest = max((sizes.get(name, 0) for name, made in order.made.items() if made >= 0), default=0)
    most = peak_bytes(order, sizes) + max(_waiting(order, sizes))
    return max(1, min(_MOST, _LARGEST_TENSOR // max(largest, 1), room // max(most, 1)))


def _waiting(order: Schedule, sizes: Mapping[str, int]) -> list[int]:
    """Return the bytes of the tensors live at each cut."""
    return _totals(order, sizes, {name: made + 1 for name, made in order.made.items()})


def peak_bytes(order: Schedule, sizes: Mapping[str, int]) -> int:
    """Return the most bytes live while a node runs: its inputs, its outputs, and tensors that later nodes read."""
    return max(_totals(order, sizes, {name: max(made, 0) for name, made in order.made.items()}))


def _totals(order: Schedule, sizes: Mapping[str, int], start: Mapping[str, int]) -> list[int]:
    """Sum the bytes of live tensors at each place in the order; a tensor lives from `start` to its last reader."""
    changes = [0] * (len(order.order) + 2)
    for name, first in start.items():
        last = max(order.last_read.get(name, -1), first)
        changes[first] += sizes.get(name, 0)
        changes[last + 1] -= sizes.get(name, 0)
    return list(accumulate(changes))


def moves(order: Schedule, sizes: Mapping[str, int], sources: Iterable[str], room: int) -> tuple[Move, ...]:
    """Plan the fewest moves of a frontier that together return each source once, within `room` bytes per move.

    A move ends where the fewest bytes are live, behind its last source and before the next one.

    Args:
        order: order of the network's nodes.
        sizes: bytes of each tensor.
        sources: names of the tensors to return.
        room: bytes that one move may return; a single source may be larger.
    """
    waiting = _waiting(order, sizes)
    parts: list[list[str]] = []
    taken = room
    for source in sorted(sources, key=lambda name: (order.made[name], name)):
        taken += sizes.get(source, 0)
        if taken > room:
            parts.append([])
            taken = sizes.get(source, 0)
        parts[-1].append(source)
    found = []
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        first = order.made[part[-1]] + 1
        last = max(order.made[following[0]], first) if following else first
        cut = min(range(first, last + 1), key=lambda place: waiting[place])
        found.append(Move(cut, tuple(part)))
    return tuple(found)


def group_batches(indices: Iterable[int], specs: Sequence[InputSpec], size: int) -> tuple[Batch, ...]:
    """Group samples into batches, see `engine.inputs.batches`."""
    chosen = [int(index) for index in indices]
    return tuple(Batch(tuple(samples), real) for samples, real in batches(chosen, specs, size))
