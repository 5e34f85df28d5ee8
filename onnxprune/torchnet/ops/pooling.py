"""Pooling, with windows or over everything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from onnxprune.torchnet.ops.layers import padded, window_pads
from onnxprune.torchnet.ops.registry import Call, UnsupportedError, torch_op

_MAX: dict[int, Callable[..., Tensor]] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@torch_op("MaxPool", since=(1, 8, 10, 11, 12, 22))
def max_pool(call: Call, x: Tensor) -> Tensor:
    """Values only, no indices."""
    kernel = [int(size) for size in call.get("kernel_shape", ())]
    if call.outputs > 1 or len(kernel) not in _MAX:
        raise UnsupportedError("MaxPool with indices, or over more than 3 axes")
    strides, dilations = call.get("strides", [1] * len(kernel)), call.get("dilations", [1] * len(kernel))
    front, behind = window_pads(call, x.shape[2:], kernel, strides, dilations)
    if front != behind or any(2 * pad > size for pad, size in zip(front, kernel, strict=True)):
        x, front = padded(x, front, behind, -torch.inf), [0] * len(kernel)
    ceil = bool(call.get("ceil_mode", 0))
    return _MAX[len(kernel)](x, kernel, list(strides), front, list(dilations), ceil)


@torch_op("AveragePool", since=(7, 10, 11, 19, 22))
def average_pool(call: Call, x: Tensor) -> Tensor:
    """The sum over each window, divided by how many of its elements count."""
    kernel = [int(size) for size in call.get("kernel_shape", ())]
    axes = len(kernel)
    strides, dilations = call.get("strides", [1] * axes), call.get("dilations", [1] * axes)
    if axes not in _MEAN or any(step != 1 for step in dilations):
        raise UnsupportedError("AveragePool with dilations, or over more than 3 axes")
    front, behind = window_pads(call, x.shape[2:], kernel, strides, dilations)
    pool, strides, ceil = _MEAN[axes], list(strides), bool(call.get("ceil_mode", 0))
    if not any(front + behind) and not ceil:
        return pool(x, kernel, strides)
    counted = torch.ones_like(x[:1, :1])
    counted = padded(counted, front, behind, float(bool(call.get("count_include_pad", 0))))
    if ceil:  # a last window that begins inside may end outside, where nothing counts
        more = [_overhang(size, *rest) for size, *rest in zip(counted.shape[2:], kernel, strides, strict=True)]
        counted = padded(counted, [0] * axes, more)
        behind = [pad + extra for pad, extra in zip(behind, more, strict=True)]
    sums, counts = (pool(t, kernel, strides) for t in (padded(x, front, behind), counted))
    return sums / counts


def _overhang(size: int, kernel: int, stride: int) -> int:
    """Compute by how much the last window exceeds the end, if one more than fits begins inside."""
    left = (size - kernel) % stride
    start = size - kernel - left + stride
    return stride - left if left and start < size else 0


@torch_op("GlobalAveragePool", since=(1, 22))
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """Mean over all axes behind the channels."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@torch_op("GlobalMaxPool", since=(1, 22))
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """Maximum over all axes behind the channels."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)
