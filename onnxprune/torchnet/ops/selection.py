"""Operators that take part of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxprune.torchnet.ops.registry import Call, beside, torch_op


@torch_op("Slice", since=(1,))
def slice_by_attributes(call: Call, x: Tensor) -> Tensor:
    """Bounds as attributes."""
    starts, ends = call.get("starts", []), call.get("ends", [])
    for axis, start, end in zip(call.get("axes", range(len(starts))), starts, ends, strict=True):
        x = _cut(x, axis, start, end, 1)
    return x


@torch_op("Slice", since=(10, 11, 13))
def slice_by_inputs(
    call: Call, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Bounds as inputs; steps may be negative."""
    first, last = starts.tolist(), ends.tolist()
    along = list(range(len(first))) if axes is None else axes.tolist()
    by = [1] * len(first) if steps is None else steps.tolist()
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        x = _cut(x, axis, start, end, step)
    return x


def _cut(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """One axis, as Python slices it."""
    axis = axis % x.dim()
    picked = range(*slice(start, end, step).indices(x.shape[axis]))
    # An end of -1 or less than minus the size says "beyond the front" where steps are negative.
    if step < 0 and end < -x.shape[axis]:
        picked = range(*slice(start, None, step).indices(x.shape[axis]))
    if step > 0:
        return x[(slice(None),) * axis + (slice(picked.start, picked.stop, step),)]
    return x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))


@torch_op("Gather", since=(1, 11, 13))
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Gather whole slices along ``axis``."""
    axis = call.axis(x.dim(), 0)
    x, indices = beside(x, indices.long())
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@torch_op("GatherElements", since=(11, 13))
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """One by one along ``axis``."""
    axis = call.axis(x.dim(), 0)
    x, indices = beside(x, indices.long())
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))
