"""Putting chains of small layers in the place of one: V, H and P nodes.

Strides, dilations and pads of each kernel axis go with the factor that takes the axis; the first factor has no bias, so
zeros around the input stay zeros around what it answers, and the chain equals the dense layer in exact arithmetic,
borders included. The nodes are named ``<conv>_V`` (the factor with the vertical axis), ``<conv>_H`` and
``<conv>_P``; without V and H the conv keeps its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Draft, lengthened, numpy_dtype, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxprune.graph.channels.forms import Form
    from onnxprune.graph.channels.sites import Site, Window
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Chain", "with_chains"]


@dataclass(frozen=True)
class Chain:
    """The factors of one site, see ``solve.lowrank.Factors``; in front of every array the groups of a grouped conv.

    Attributes:
        form: what the factors are.
        first: (groups, r, channels * k_first), or None.
        second: (groups, m, r * other kernel elements), or (groups, m, p).
        last: (groups, outputs per group, m), or None.
    """

    form: Form
    first: Array | None
    second: Array
    last: Array | None

    def outputs(self, kept: Indices) -> Chain:
        """Keep only some of the layer's outputs: (k,) positions, as many of each group."""
        tail = self.second if self.last is None else self.last
        groups = len(tail)
        narrowed = tail.reshape(-1, tail.shape[2])[kept].reshape(groups, -1, tail.shape[2])
        if self.last is None:
            return replace(self, second=narrowed)
        return replace(self, last=narrowed)


def with_chains(net: Net, chains: Mapping[Site, Chain]) -> Net:
    """Replace each of these sites by its chain in a copy of the network; biases are kept."""
    draft = net.draft()
    nodes = {node.name: node for node in draft.nodes}
    for site, chain in chains.items():
        node = nodes[site.name]
        builder = _Builder(draft, node, set(nodes))
        if site.window is not None:
            _conv(builder, site.window, site.groups, chain)
        else:
            _dense(builder, site, chain)
        nodes.update({made.name: made for made in builder.made})
    return draft.done(tidy=True)


class _Builder:
    """Makes the nodes of one chain, one behind the other, and takes the node that they replace away."""

    def __init__(self, net: Draft, node: Any, taken: set[str]) -> None:
        self.net, self.node, self.taken = net, node, taken
        self.kind = numpy_dtype(node.inputs[1].dtype)
        self.source, self.response = node.inputs[0], node.outputs[0]
        self.bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        self.made: list[Any] = []
        self._layers: list[tuple[str, str, Array, dict[str, Any]]] = []

    def _named(self, suffix: str) -> str:
        name = lengthened(f"{self.node.name}{suffix}", self.taken - {self.node.name})
        self.taken.add(name)
        return name

    def add(self, op: str, suffix: str, weight: Array, attrs: dict[str, Any]) -> None:
        """One more layer behind those before it."""
        self._layers.append((op, suffix, weight, attrs))

    def finish(self) -> None:
        """Put the layers into the graph."""
        self.node.outputs.clear()
        tensor = self.source
        for position, (op, suffix, weight, attrs) in enumerate(self._layers):
            last = position == len(self._layers) - 1
            name = self._named(suffix)
            constant = gs.Constant(self.net.unused_name(f"{name}.weight"), weight.astype(self.kind))
            result = self.response
            if not last:
                result = gs.Variable(self.net.unused_name(f"{name}.output"), dtype=self.response.dtype)
            inputs = [tensor, constant, self.bias] if last and self.bias is not None else [tensor, constant]
            made = gs.Node(op, name, attrs, inputs=inputs, outputs=[result])
            self.net.graph.nodes.append(made)
            self.made.append(made)
            tensor = result
        self.node.inputs.clear()
        self.net.graph.nodes.remove(self.node)


def _conv(builder: _Builder, window: Window, groups: int, chain: Chain) -> None:
    rank = len(window.kernel)
    ones = (1,) * rank
    everything = tuple(range(rank))
    if chain.first is None:
        _add_conv(builder, "", chain.second, window, everything, groups)
    else:
        first = chain.form.first
        others = tuple(axis for axis in everything if axis != first)
        names = ("_V", "_H") if first == 0 else ("_H", "_V")
        _add_conv(builder, names[0], chain.first, window, (first,), groups)
        _add_conv(builder, names[1], chain.second, window, others, groups)
    if chain.last is not None:
        weight = chain.last.reshape(-1, chain.last.shape[2], *ones)
        builder.add("Conv", "_P", weight, {"kernel_shape": list(ones), "group": groups})
    builder.finish()


def _add_conv(
    builder: _Builder, suffix: str, factor: Array, window: Window, axes: tuple[int, ...], groups: int
) -> None:
    """A conv that takes the given kernel axes, with what belongs to them."""
    mine = window.along(axes)
    attrs = {**mine.attributes(), "group": groups}
    builder.add("Conv", suffix, factor.reshape(factor.shape[0] * factor.shape[1], -1, *mine.kernel), attrs)


def _dense(builder: _Builder, site: Site, chain: Chain) -> None:
    """Two Gemms, or two MatMuls, for one."""
    if chain.last is None:
        raise ValueError(f"{site.name}: a dense layer has no other factors than a P")
    narrow, wide = chain.second[0], chain.last[0]
    if site.op == "MatMul":
        builder.add("MatMul", "", narrow.T, {})
        builder.add("MatMul", "_P", wide.T, {})
    else:
        if builder.bias is not None and builder.node.attrs.get("beta", 1.0) != 1.0:
            scaled = values_of(builder.bias) * np.asarray(builder.node.attrs["beta"], builder.kind)
            builder.bias = gs.Constant(builder.bias.name, scaled.astype(builder.kind))
        builder.add("Gemm", "", narrow, {"transB": 1})
        builder.add("Gemm", "_P", wide, {"transB": 1})
    builder.finish()
