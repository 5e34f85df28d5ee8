"""Channel shuffles: Reshape to (N, g, k, ...), Transpose of g and k, Reshape back (Zhang et al., CVPR 2018).

As three nodes they tie channels in blocks of k, and after the exchange in blocks of g, so that none could go. What they
do is one Gather along the channels, of which any may go; it gives the same values, bit by bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Draft, dims

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnxprune.graph.model.net import Dim

__all__ = ["shuffles_as_gathers"]


def shuffles_as_gathers(net: Draft, protected: Collection[str]) -> bool:
    """Replace every shuffle whose tensors nobody else reads; whether there was one."""
    found = False
    for node in net.nodes:
        order = _order(node, protected)
        if order is None:
            continue
        middle = node.outputs[0].outputs[0]
        last = middle.outputs[0].outputs[0]
        source, result = node.inputs[0], last.outputs[0]
        index = gs.Constant(net.unused_name(f"{node.name}_order"), order)
        place = next(i for i, other in enumerate(net.graph.nodes) if other is last)
        gone = (node, middle, last)
        for other in gone:
            other.inputs.clear()
            other.outputs.clear()
        net.graph.nodes[place] = gs.Node("Gather", node.name, {"axis": 1}, inputs=[source, index], outputs=[result])
        net.graph.nodes[:] = [other for other in net.graph.nodes if not any(other is one for one in gone)]
        found = True
    return found


def _order(first: Any, protected: Collection[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """For each channel behind a shuffle that begins with this node, the channel that it was."""
    if first.op != "Reshape" or not first.inputs or not first.outputs:
        return None
    chain = [first]
    for op in ("Transpose", "Reshape"):
        result = chain[-1].outputs[0]
        if result.name in protected or len(result.outputs) != 1 or result.outputs[0].op != op:
            return None
        if result.outputs[0].inputs[0] is not result:
            return None
        chain.append(result.outputs[0])
    source, split, whole = dims(first.inputs[0]), dims(first.outputs[0]), dims(chain[2].outputs[0])
    if source is None or split is None or whole is None or len(source) < 3 or len(split) != len(source) + 1:
        return None
    perm = list(chain[1].attrs.get("perm", ()))
    channels, groups, width = source[1], split[1], split[2]
    exchanged = perm == [0, 2, 1, *range(3, len(split))]
    if not exchanged or not isinstance(channels, int) or not isinstance(groups, int) or not isinstance(width, int):
        return None
    spaces = _same(source[1:], whole[1:]) and _same(source[2:], split[3:])
    # Where all else is known to multiply to the same, an open batch is the same, too.
    batches = _same(source[:1] * 2, (split[0], whole[0])) or all(isinstance(size, int) for size in source[1:])
    if not spaces or not batches or groups * width != channels:
        return None
    return np.arange(channels, dtype=np.int64).reshape(groups, width).T.reshape(-1)


def _same(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> bool:
    """Sizes that are known to be equal."""
    return len(left) == len(right) and all(a == b and a is not None for a, b in zip(left, right, strict=True))
