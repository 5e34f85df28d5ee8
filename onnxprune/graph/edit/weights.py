"""Writing the weights and biases of sites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.channels.sites import Site, find_sites, values_or_zero
from onnxprune.graph.model.net import Draft, lengthened, numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["ensure_biases", "with_weights"]


def ensure_biases(net: Net) -> Net:
    """Give every site a bias of its own, one value per output, zero if it is new.

    A fitted site needs a bias, and the channel map must know it: it is pruned with the outputs.
    """
    bare = [site for site in find_sites(net) if not _has_bias(net, site)]
    if not bare:
        return net
    draft = net.draft()
    nodes = {node.name: node for node in draft.nodes}
    for site in bare:
        node = nodes[site.name]
        weight = node.inputs[1]
        outputs = int(weight.shape[site.output_axis.axis])
        known = np.zeros(outputs) if site.op == "MatMul" else values_or_zero(node, 2, outputs)
        bias = gs.Constant(draft.unused_name(f"{site.name}_bias"), known.astype(numpy_dtype(weight.dtype)))
        for use in site.others:
            _set_bias(nodes[use.name], bias)
        if site.op == "MatMul":
            result = node.outputs[0]
            inner = gs.Variable(draft.unused_name(f"{result.name}_before_bias"), dtype=result.dtype, shape=result.shape)
            node.outputs = [inner]
            add = lengthened(f"{site.name}_add_bias", nodes)
            draft.graph.nodes.append(gs.Node("Add", add, inputs=[inner, bias], outputs=[result]))
        else:
            _set_bias(node, bias)
    draft.graph.toposort()
    return draft.done()


def _has_bias(net: Net, site: Site) -> bool:
    if site.op == "MatMul":
        return site.add is not None
    node = net.node(site.name)
    if len(node.inputs) <= 2 or node.inputs[2].is_empty():
        return False
    outputs = net.tensors()[site.weight].shape[site.output_axis.axis]
    return int(np.prod(node.inputs[2].shape)) == int(outputs)


def with_weights(net: Net, fitted: Mapping[Site, tuple[Array, Array]]) -> Net:
    """Replace the weights (groups, outputs per group, p) and biases (outputs,) of some sites; return the new network.

    Values are stored in the dtype of the weights that they replace.

    Raises:
        ValueError: a MatMul without an Add for its bias (see `ensure_biases`), or values of another size.
    """
    draft = net.draft()
    for site, (weight, bias) in fitted.items():
        node = draft.node(site.name)
        old = node.inputs[1]
        flat = weight.reshape(-1, weight.shape[-1])
        outputs = int(old.shape[site.output_axis.axis])
        if flat.size != int(np.prod(old.shape)) or len(flat) != outputs or bias.shape != (outputs,):
            raise ValueError(f"{site.name}: {weight.shape} and {bias.shape} for weights {tuple(old.shape)}")
        shaped = _in_layout(site, flat, tuple(old.shape))
        kind = numpy_dtype(old.dtype)
        nodes = [draft.node(use.name) for use in site.uses]
        written = gs.Constant(old.name, np.ascontiguousarray(shaped.astype(kind)))
        for each in nodes:
            each.inputs[1] = written
        if site.op == "MatMul":
            _write_added(draft, site, bias.astype(kind))
            continue
        _write_bias(draft, nodes, bias.astype(kind))
        for each in nodes if site.op == "Gemm" else ():
            each.attrs.update(alpha=1.0, beta=1.0)
    return draft.done()


def _in_layout(site: Site, flat: Array, shape: tuple[int, ...]) -> Array:
    """Weights (outputs, p) as the operator has them."""
    if site.op == "ConvTranspose":
        return np.moveaxis(flat.reshape(shape[1], shape[0], *shape[2:]), 0, 1)
    return flat.reshape(shape) if site.op == "Conv" or site.output_axis.axis == 0 else flat.T


def _write_bias(net: Draft, nodes: Sequence[Any], bias: np.ndarray[Any, Any]) -> None:
    first = nodes[0]
    there = len(first.inputs) > 2 and not first.inputs[2].is_empty()
    constant = gs.Constant(first.inputs[2].name if there else net.unused_name(f"{first.name}_bias"), bias)
    for node in nodes:
        _set_bias(node, constant)


def _set_bias(node: Any, bias: Any) -> None:
    if len(node.inputs) > 2:
        node.inputs[2] = bias
    else:
        node.inputs.append(bias)


def _write_added(net: Draft, site: Site, bias: np.ndarray[Any, Any]) -> None:
    if site.add is None:
        raise ValueError(f"{site.name}: a MatMul without an Add has no bias to write")
    add = net.node(site.add)
    index = next(i for i, tensor in enumerate(add.inputs) if isinstance(tensor, gs.Constant))
    add.inputs[index] = gs.Constant(add.inputs[index].name, bias)
