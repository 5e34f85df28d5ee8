"""Tensors between the layers that both networks have: where the small one is led, and where it is cut into blocks.

On a smaller picture the maps of the two networks differ in size, but the means of their channels can still be compared.
The tensor in front of the last layer is the lead: a small network that has the original's features there has its
outputs, whatever the classes, and on a few thousand inputs that do not look like those of the original's training
the squared error of features is a better guide than the KL divergence of a thousand classes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from onnxprune.graph.model.net import Net, dims, numpy_dtype
from onnxprune.graph.model.outputs import last_layer
from onnxprune.recovery.ends import dependent
from onnxprune.torchnet.program import needed_nodes

__all__ = ["common_tensors", "leading_tensor", "pooled"]

_MOST = 8
_MOVING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Clip", "Dropout"})


def common_tensors(original: Net, smaller: Net, weights: Collection[str], ends: Collection[str]) -> tuple[str, ...]:
    """Names of tensors with the same name, shape and operator in both networks, in order of execution.

    At most eight, evenly spread over the layers; the first with weights in front of it, none an end. Where several lie
    between the same layers, that with the most activations behind it: the last.

    Args:
        original: the teacher.
        smaller: the network to train.
        weights: initializers that are trained.
        ends: where the loss is taken.
    """
    live = dependent(smaller, weights)
    theirs = original.tensors()
    made = {tensor.name: node.op for node in original.nodes for tensor in node.outputs}
    by_depth: dict[int, str] = {}
    depth = 0
    for node in needed_nodes(smaller, ends):
        depth += any(tensor.name in weights for tensor in node.inputs)
        for tensor in node.outputs:
            other = theirs.get(tensor.name)
            if (
                other is not None
                and made.get(tensor.name) == node.op
                and tensor.name in live
                and tensor.name not in ends
                and _comparable(tensor, other)
            ):
                by_depth[depth] = tensor.name
    depths = sorted(by_depth)
    if len(depths) > _MOST:
        wanted = np.linspace(depths[0], depths[-1], _MOST)
        depths = sorted({depths[int(np.abs(np.array(depths) - place).argmin())] for place in wanted})
    return tuple(by_depth[d] for d in depths)


def leading_tensor(original: Net, smaller: Net, weights: Collection[str], ends: Collection[str]) -> str | None:
    """Find the tensor in front of the last layer, if both networks have it and all ends depend on that layer alone.

    Its maps may differ in size between the networks, see `pooled`.

    Args:
        original: the teacher.
        smaller: the network to train.
        weights: initializers that are trained.
        ends: where the outputs are compared.
    """
    live, theirs = dependent(smaller, weights), original.tensors()
    last = last_layer(smaller)
    if last is None or last.inputs[1].name not in weights or last.inputs[0].name not in live:
        return None
    tensor = last.inputs[0]
    while tensor.name not in theirs or not _pooled_alike(tensor, theirs[tensor.name]):
        made = tensor.inputs[0] if tensor.inputs else None
        if made is None or made.op not in _MOVING or tensor.name not in live:
            return None
        tensor = made.inputs[0]
    return str(tensor.name) if tensor.name in live else None


def pooled(tensor: Any) -> Any:
    """Return the means of a tensor's channels over all positions, (N, C) of (N, C, ...)."""
    return tensor.flatten(2).mean(2) if tensor.dim() > 2 else tensor


def _pooled_alike(tensor: Any, other: Any) -> bool:
    """Tell whether two tensors have equal channels, on axis 1."""
    shape, wanted = dims(tensor), dims(other)
    if shape is None or wanted is None or len(shape) != len(wanted) or len(shape) < 2:
        return False
    return isinstance(shape[1], int) and shape[1] == wanted[1] and _is_float(tensor)


def _is_float(tensor: Any) -> bool:
    return tensor.dtype is not None and bool(np.issubdtype(numpy_dtype(tensor.dtype), np.floating))


def _comparable(tensor: Any, other: Any) -> bool:
    shape, wanted = dims(tensor), dims(other)
    if shape is None or wanted is None or len(shape) < 3 or len(shape) != len(wanted):
        return False
    sized = all(not isinstance(b, int) or a == b for a, b in zip(shape, wanted, strict=True))
    return sized and _is_float(tensor)
