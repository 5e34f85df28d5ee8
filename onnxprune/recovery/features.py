"""Tensors between the layers that both networks have: where the small one is led, and where it is cut into blocks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from onnxprune.graph.model.net import Net, dims, numpy_dtype
from onnxprune.recovery.ends import dependent
from onnxprune.torchnet.program import needed_nodes

__all__ = ["common_tensors"]

_MOST = 8


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


def _comparable(tensor: Any, other: Any) -> bool:
    shape, wanted = dims(tensor), dims(other)
    if shape is None or wanted is None or len(shape) < 3 or len(shape) != len(wanted):
        return False
    sized = all(not isinstance(b, int) or a == b for a, b in zip(shape, wanted, strict=True))
    return sized and tensor.dtype is not None and bool(np.issubdtype(numpy_dtype(tensor.dtype), np.floating))
