"""Removing channels, and zeroing them: two ways to the same outputs.

`remove` removes slots from every value and weight that has them, then calls the fix-ups for attributes and shape
constants. `zero` keeps every shape and sets the weights that read the channels to zero. Tests and every run check that
both give equal outputs on any input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.channels.rules import NodeView, fixup_for
from onnxprune.graph.model.net import Draft, dims, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.channels.rules import Axis
    from onnxprune.graph.model.net import Net

    IntArray = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["alive_without", "remove", "zero"]


def alive_without(channels: ChannelMap, removed: Mapping[str, Sequence[int] | IntArray]) -> Mask:
    """Return the mask of the units left: (units,) bool.

    Args:
        channels: channel map.
        removed: indices of the channels to remove, per group name.

    Raises:
        ValueError: a group is unknown or pinned, or would lose its last channel.
    """
    groups = {group.name: group for group in channels.prunable}
    alive = channels.all_alive()
    for name, indices in removed.items():
        if name not in groups:
            raise ValueError(f"'{name}' is no group of channels that may go")
        alive[groups[name].units[np.asarray(indices, dtype=np.int64)]] = False
        if not alive[groups[name].units].any():
            raise ValueError(f"'{name}' would lose all of its channels")
    return alive


def remove(net: Net, channels: ChannelMap, before: Mask, after: Mask) -> Net:
    """Remove channels from a network; return the smaller network.

    Args:
        net: network with the units alive in `before`.
        channels: channel map of the original network.
        before: units of `net`, (units,) bool.
        after: units to keep, (units,) bool, a subset of `before`.
    """
    draft = net.draft()
    tensors = draft.tensors()
    slots: dict[Axis, IntArray] = {}
    sizes: dict[Axis, int] = {}
    for name, axes in channels.by_tensor.items():
        kept = {axis: channels.kept_after(axis, before, after) for axis in axes}
        slots.update({axis: index for axis, index in kept.items() if index is not None})
        sizes.update({axis: int(before[channels.labels[axis]].sum()) for axis in axes})
        tensor = tensors.get(name)
        if tensor is not None:
            _narrow(tensor, {axis: index for axis, index in kept.items() if index is not None})
    for node in draft.nodes:
        _fix(draft, node, slots, sizes)
    return draft.done()


def _narrow(tensor: Any, kept: Mapping[Axis, IntArray]) -> None:
    if not kept:
        return
    if isinstance(tensor, gs.Constant):
        values = values_of(tensor)
        for axis, index in kept.items():
            values = np.take(values, index, axis=axis.axis)
        tensor.values = np.ascontiguousarray(values)
        return
    shape = list(tensor.shape)
    for axis, index in kept.items():
        shape[axis.axis] = len(index)
    tensor.shape = tuple(shape)


def _fix(net: Draft, node: Any, slots: Mapping[Axis, IntArray], sizes: Mapping[Axis, int]) -> None:
    fix = fixup_for(node.op) if node.domain in (None, "", "ai.onnx") else None
    if fix is None or dims(node.outputs[0]) is None:
        return
    edit = fix(NodeView(node, net.opset, net.overridable, slots, sizes))
    node.attrs.update(edit.attributes)
    for position, values in edit.constants.items():
        old = node.inputs[position]
        if values_of(old).shape != values.shape or not np.array_equal(values_of(old), values):
            name = old.name if len(old.outputs) == 1 else net.unused_name(f"{old.name}_{node.name}")
            node.inputs[position] = gs.Constant(name, values)


def zero(net: Net, channels: ChannelMap, after: Mask) -> Net:
    """Return the full network with the weights that read the removed units set to zero.

    Only weights of the consumers change, so the rest of the network receives what it would without the channels.
    """
    draft = net.draft()
    for group in channels.prunable:
        for name in group.consumers:
            site = channels.sites[name]
            dead = ~after[channels.labels[site.input_axis]]
            if not dead.any():
                continue
            tensor = draft.node(name).inputs[1]
            values = np.array(values_of(tensor))
            values[(slice(None),) * site.input_axis.axis + (dead,)] = 0
            tensor.values = values
    return draft.done()
