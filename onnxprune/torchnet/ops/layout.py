"""Operators that arrange values otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxprune.torchnet.ops.elementwise import working_type
from onnxprune.torchnet.ops.registry import Call, UnsupportedError, beside, torch_op


@torch_op("Constant", since=(1, 9, 11, 12, 13, 19, 21, 23, 24, 25))
def constant(call: Call) -> Tensor:
    """A tensor, a number or a list of numbers."""
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        for listed in (name, name + "s"):
            if listed in call.attributes:
                return torch.tensor(np.asarray(call.attributes[listed], kind))
    value = call.get("value", None)
    if not isinstance(value, np.ndarray):
        raise UnsupportedError("Constant that is no tensor of numbers")
    return tensor_of(value)


def tensor_of(values: np.ndarray[Any, Any]) -> Tensor:
    """A copy of an array, in the type that is computed with."""
    kind = working_type(values.dtype)
    wide = values.astype(np.float32) if kind == torch.float32 else values
    return torch.from_numpy(np.array(wide, order="C"))


@torch_op("ConstantOfShape", since=(9, 20, 21, 23, 24, 25))
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """One value everywhere."""
    value = tensor_of(np.asarray(call.get("value", np.zeros(1, np.float32))))
    return value.reshape(()).expand(shape.tolist()).clone()


@torch_op("Shape", since=(1, 13, 15, 19, 21, 23, 24, 25))
def shape_of(call: Call, x: Tensor) -> Tensor:
    """Sizes of the axes from ``start`` to ``end``."""
    return torch.tensor(list(x.shape)[call.get("start", 0) : call.get("end", None)], dtype=torch.int64)


@torch_op("Size", since=(1, 13, 19, 21, 23, 24, 25))
def size_of(call: Call, x: Tensor) -> Tensor:
    """Number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@torch_op("Range", since=(11,))
def number_range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers at equal distances."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@torch_op("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25))
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """0 copies a size, -1 is what is left."""
    wanted = [int(size) for size in shape.tolist()]
    if not call.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@torch_op("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25))
def flatten(call: Call, x: Tensor) -> Tensor:
    """Two axes."""
    axis = int(call.get("axis", 1))
    return x.reshape(x.shape[: axis + x.dim() if axis < 0 else axis].numel(), -1)


@torch_op("Transpose", since=(1, 13, 21, 23, 24, 25))
def transpose(call: Call, x: Tensor) -> Tensor:
    """The axes in another order."""
    return x.permute(list(call.get("perm", range(x.dim() - 1, -1, -1))))


@torch_op("Squeeze", since=(1, 11, 13, 21, 23, 24, 25))
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of size one."""
    listed = call.integers("axes", axes)
    return x.squeeze() if listed is None else x.squeeze(tuple(listed))


@torch_op("Unsqueeze", since=(1, 11, 13, 21, 23, 24, 25))
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With new axes of size one."""
    listed = call.integers("axes", axes) or []
    for axis in sorted(axis % (x.dim() + len(listed)) for axis in listed):
        x = x.unsqueeze(axis)
    return x


@torch_op("Concat", since=(4, 11, 13))
def concat(call: Call, *tensors: Tensor) -> Tensor:
    """Along ``axis``."""
    return torch.cat(beside(*tensors), int(call.get("axis", 0)))


@torch_op("Split", since=(2, 11, 13, 18))
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Into parts of given or equal sizes."""
    axis = call.axis(x.dim(), 0)
    listed = call.integers("split", sizes)
    if listed is None:
        whole = -(-x.shape[axis] // call.outputs)
        listed = [whole] * (x.shape[axis] // whole)
        listed += [x.shape[axis] - sum(listed)] if sum(listed) < x.shape[axis] else []
    return torch.split_with_sizes(x, listed, axis)


@torch_op("Expand", since=(8, 13))
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape, and to its own where that is larger."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist())))


@torch_op("Tile", since=(6, 13))
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Copies side by side."""
    return x.repeat(repeats.tolist())


@torch_op("DepthToSpace", since=(1, 11, 13))
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of channels become blocks of pixels."""
    n, c, h, w = x.shape
    b = int(call.get("blocksize", 1))
    if call.expect("mode", "DCR", "CRD") == "CRD":
        return functional.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@torch_op("SpaceToDepth", since=(1, 13))
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels become blocks of channels."""
    n, c, h, w = x.shape
    b = int(call.get("blocksize", 1))
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


@torch_op("Pad", since=(2, 11, 13, 18, 19, 21, 23, 24, 25))
def pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """With a constant, with the edge, or mirrored at it; what is negative is cut off."""
    listed = call.integers("pads", pads) or []
    along = call.integers("axes", axes) or list(range(x.dim()))
    fill = float(call.get("value", 0.0)) if value is None else value.reshape(-1)[0].item()
    mode = call.expect("mode", "constant", "edge", "reflect")
    count = len(along)
    for axis, front, behind in zip(along, listed[:count], listed[count:], strict=True):
        x = _padded(x, axis % x.dim(), front, behind, mode, fill)
    return x


def _padded(x: Tensor, axis: int, front: int, behind: int, mode: str, fill: float) -> Tensor:
    """One axis."""
    start, stop = max(-front, 0), x.shape[axis] - max(-behind, 0)
    x = x if (start, stop) == (0, x.shape[axis]) else x.narrow(axis, start, stop - start)
    front, behind = max(front, 0), max(behind, 0)
    if not (front or behind):
        return x
    if mode == "constant":
        pads = [0, 0] * (x.dim() - 1 - axis) + [front, behind]
        return functional.pad(x, pads, value=fill)
    where = torch.arange(-front, x.shape[axis] + behind, device=x.device)
    last = x.shape[axis] - 1
    if mode == "edge":
        where = where.clamp(0, last)
    else:  # a mirror that shows the outermost element once
        where = where.abs()
        where = torch.where(where > last, 2 * last - where, where)
    return x.index_select(axis, where)
