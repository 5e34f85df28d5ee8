"""Operators that take one number of many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxprune.torchnet.ops.registry import Call, torch_op

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]
_OLD, _WITH_INPUT = (1, 11, 13), (18,)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, tuple[Reduction, tuple[int, ...]]] = {
    "ReduceSum": (lambda x, axes, keep: x.sum(axes, keepdim=keep), (1, 11, 13)),
    "ReduceMean": (lambda x, axes, keep: x.mean(axes, keepdim=keep), _OLD + _WITH_INPUT),
    "ReduceMax": (lambda x, axes, keep: x.amax(axes, keepdim=keep), (1, 11, 12, 13, 18, 20)),
    "ReduceMin": (lambda x, axes, keep: x.amin(axes, keepdim=keep), (1, 11, 12, 13, 18, 20)),
    "ReduceProd": (_product, _OLD + _WITH_INPUT),
    "ReduceL1": (lambda x, axes, keep: x.abs().sum(axes, keepdim=keep), _OLD + _WITH_INPUT),
    "ReduceL2": (lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(), _OLD + _WITH_INPUT),
    "ReduceSumSquare": (lambda x, axes, keep: x.square().sum(axes, keepdim=keep), _OLD + _WITH_INPUT),
    "ReduceLogSum": (lambda x, axes, keep: x.sum(axes, keepdim=keep).log(), _OLD + _WITH_INPUT),
    "ReduceLogSumExp": (lambda x, axes, keep: x.logsumexp(axes, keepdim=keep), _OLD + _WITH_INPUT),
}


def _register(name: str, function: Reduction, since: tuple[int, ...]) -> None:
    @torch_op(name, since=since)
    def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = call.integers("axes", axes)
        if not listed and call.get("noop_with_empty_axes", 0):
            return function(x.unsqueeze(0), (0,), False)  # what is done to each element is done all the same
        chosen = tuple(axis % max(x.dim(), 1) for axis in listed) if listed else tuple(range(x.dim()))
        return function(x, chosen, bool(call.get("keepdims", 1)))


for _name, (_function, _since) in _REDUCTIONS.items():
    _register(_name, _function, _since)


@torch_op("ArgMax", "ArgMin", since=(1, 11, 12, 13))
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    """Index of the first, or the last, largest or smallest."""
    axis, keep = call.axis(x.dim(), 0), bool(call.get("keepdims", 1))
    pick = torch.argmax if call.op == "ArgMax" else torch.argmin
    if not call.get("select_last_index", 0):
        return pick(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - pick(x.flip(axis), axis, keepdim=keep)


@torch_op("CumSum", since=(11, 14))
def cumulated(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Forwards or backwards, with or without the element itself."""
    along = int(axis.reshape(-1)[0])
    turned = x.flip(along) if call.get("reverse", 0) else x
    sums = turned.cumsum(along)
    sums = sums - turned if call.get("exclusive", 0) else sums
    return sums.flip(along) if call.get("reverse", 0) else sums


@torch_op("TopK", since=(1, 10, 11, 24))
def top_k(call: Call, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and indices."""
    wanted = int(call.get("k", 0)) if count is None else int(count.reshape(-1)[0])
    found = x.topk(wanted, call.axis(x.dim(), -1), bool(call.get("largest", 1)), bool(call.get("sorted", 1)))
    return found.values, found.indices
