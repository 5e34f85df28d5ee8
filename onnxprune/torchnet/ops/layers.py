"""Operators with weights, and normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxprune.torchnet.ops.registry import Call, UnsupportedError, beside, torch_op

_CONVS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def window_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding in front of and behind each axis, whichever way the node says it."""
    axes = len(kernel)
    how = call.expect("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        front, behind = [], []
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            whole = max((math.ceil(size / stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
            less = whole // 2
            front.append(less if how == "SAME_UPPER" else whole - less)
            behind.append(whole - front[-1])
        return front, behind
    pads = [0] * 2 * axes if how == "VALID" else [int(pad) for pad in call.get("pads", [0] * 2 * axes)]
    return pads[:axes], pads[axes:]


def padded(x: Tensor, front: Sequence[int], behind: Sequence[int], value: float = 0.0) -> Tensor:
    """Constant padding of the last axes."""
    pads = [pad for pair in reversed(list(zip(front, behind, strict=True))) for pad in pair]
    return functional.pad(x, pads, value=value) if any(pads) else x


@torch_op("Conv", since=(1, 11, 22))
def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1 to 3 spatial axes, any padding, stride, dilation and groups."""
    axes = weight.dim() - 2
    if axes not in _CONVS:
        raise UnsupportedError(f"Conv over {axes} axes")
    strides, dilations = call.get("strides", [1] * axes), call.get("dilations", [1] * axes)
    front, behind = window_pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if front != behind:
        x, front = padded(x, front, behind), [0] * axes
    return _CONVS[axes](x, weight, bias, list(strides), front, list(dilations), call.get("group", 1))


@torch_op("ConvTranspose", since=(1, 11, 22))
def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without ``output_shape`` and automatic padding."""
    axes = weight.dim() - 2
    call.expect("auto_pad", "NOTSET")
    if axes not in _TRANSPOSED or "output_shape" in call.attributes:
        raise UnsupportedError("ConvTranspose with output_shape, or over more than 3 axes")
    strides, dilations = call.get("strides", [1] * axes), call.get("dilations", [1] * axes)
    more = call.get("output_padding", [0] * axes)
    full = _TRANSPOSED[axes](x, weight, bias, list(strides), 0, list(more), call.get("group", 1), list(dilations))
    pads = [int(pad) for pad in call.get("pads", [0] * 2 * axes)]
    for axis, (front, behind) in enumerate(zip(pads[:axes], pads[axes:], strict=True), 2):
        full = full.narrow(axis, front, full.shape[axis] - front - behind)
    return full


@torch_op("Gemm", since=(7, 9, 11, 13))
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha A B + beta C``, A and B transposed as the node says."""
    a = a.t() if call.get("transA", 0) else a
    b = b.t() if call.get("transB", 0) else b
    product = a @ b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


@torch_op("MatMul", since=(1, 9, 13))
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Multiply by numpy's rules of broadcasting."""
    return torch.matmul(*beside(a, b))


@torch_op("BatchNormalization", since=(7, 9, 14, 15))
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """With the statistics that the model brings, as at inference."""
    call.expect("training_mode", 0)
    if call.outputs > 1 or call.get("spatial", 1) != 1:
        raise UnsupportedError("BatchNormalization that trains")
    return functional.batch_norm(x, mean, var, scale, bias, False, 0.0, call.get("epsilon", 1e-5))


@torch_op("InstanceNormalization", since=(6, 22))
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Over the axes behind the channels."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


@torch_op("LayerNormalization", since=(17,))
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Over ``axis`` and all behind it."""
    if call.outputs > 1:
        raise UnsupportedError("LayerNormalization with its mean as an output")
    axes = tuple(range(call.axis(x.dim(), -1), x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return unit * scale if bias is None else unit * scale + bias


@torch_op("GroupNormalization", since=(18, 21))
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias per group (revision 18) or per channel."""
    groups = int(call.get("num_groups", 1))
    if call.revision == 18:
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


@torch_op("LpNormalization", since=(1, 22))
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """By the norm of order ``p`` along ``axis``."""
    axis = call.axis(x.dim(), -1)
    norm = torch.linalg.vector_norm(x, call.get("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@torch_op("Softmax", "LogSoftmax", since=(1, 11))
def softmax_of_all_behind(call: Call, x: Tensor) -> Tensor:
    """Up to revision 11: over ``axis`` and all behind it together."""
    axis = call.axis(x.dim(), 1)
    flat = x.reshape(x.shape[:axis].numel(), -1)
    return _softmax(call, flat, 1).reshape(x.shape)


@torch_op("Softmax", "LogSoftmax", since=(13,))
def softmax(call: Call, x: Tensor) -> Tensor:
    """Along ``axis``."""
    return _softmax(call, x, call.axis(x.dim(), -1))


def _softmax(call: Call, x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis) if call.op == "Softmax" else torch.log_softmax(x, axis)
