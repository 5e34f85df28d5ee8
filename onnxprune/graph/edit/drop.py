"""Removal of whole residual branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.branches import ending
from onnxprune.graph.model.net import captured_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxprune.graph.channels.branches import Branch
    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["silence", "without_branches"]


def silence(net: Net, channels: ChannelMap, branches: Iterable[Branch]) -> dict[Site, tuple[Array, Array]]:
    """Return zero weights and biases for the ends of these branches, see `with_weights`."""
    tensors = net.tensors()
    zeros = {}
    for site in (channels.sites[name] for branch in branches for name in branch.ends):
        shape = tensors[site.weight].shape
        outputs = int(shape[site.output_axis.axis])
        weight = np.zeros((site.groups, outputs // site.groups, int(np.prod(shape)) // outputs))
        zeros[site] = weight, np.zeros(outputs)
    return zeros


def without_branches(net: Net, channels: ChannelMap, branches: Iterable[Branch]) -> Net:
    """Remove residual branches from a network: each sum is replaced by its other operand.

    A Relu behind the sum is removed, too, if the operand is the output of a Relu, because it has no effect.
    """
    net = net.draft()
    tensors, nodes = net.tensors(), {id(node) for node in net.nodes}
    kept = {*net.output_names, *(name for node in net.nodes for name in captured_names(node))}
    for name in (name for branch in branches for name in branch.ends):
        found = ending(net, tensors[channels.sites[name].response])
        if found is None:  # the sum was removed with another branch
            continue
        summand, add = found
        other = next(tensor for tensor in add.inputs if tensor is not summand)
        readers = list(add.outputs[0].outputs)
        _bypass(add, other, kept)
        if other.inputs and other.inputs[0].op == "Relu":
            for reader in readers:
                if reader.op == "Relu" and id(reader) in nodes:  # and not in the body of an If or Loop
                    _bypass(reader, other, kept)
    return net.done(tidy=True)


def _bypass(node: Any, source: Any, kept: set[str]) -> None:
    """Make all readers of a node's output read `source`; a node whose output is named in `kept` becomes an Identity."""
    result = node.outputs[0]
    for reader in list(result.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is result:
                reader.inputs[position] = source
    if result.name in kept:
        node.op, node.attrs = "Identity", type(node.attrs)()
        node.inputs = [source]
    else:
        node.inputs.clear()
        node.outputs.clear()
