"""Sites: the layers whose weights can be refitted, as one matrix that is applied to input patches.

The output of a site is ``y = W x + b`` at every output position. For a Conv, x is the input patch under that position,
channel-major: p = (channels per group) * (kernel elements), a channel being a contiguous block. For a ConvTranspose, x
are the inputs that reach that position through each kernel element, zero for an element that the stride skips. For Gemm
and MatMul, a position is a row. Several nodes may apply the same weights, such as a detector's head on every level of a
pyramid: they are one site, fitted on the inputs of all of them. For any layout of the operator, `matrix` returns W as
(groups, outputs per group, p) and `with_weights` writes it back.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.channels.rules import Axis
from onnxprune.graph.model.net import dims, is_per_output, is_standard, numpy_dtype, values_of
from onnxprune.graph.model.schedule import unordered

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Site", "Window", "find_sites", "is_depthwise", "matrix"]


Operator = Literal["Conv", "ConvTranspose", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and pads of a conv; one entry per spatial axis in every tuple.

    ``transposed``: over its output instead, the input's elements lying `strides` apart; ``tail`` is then what is added
    at each end (``output_padding``).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]  # all beginnings, then all ends
    auto_pad: str = "NOTSET"
    transposed: bool = False
    tail: tuple[int, ...] = ()

    def along(self, axes: Collection[int]) -> Window:
        """Restrict it to some kernel axes: on the others a kernel of one element that does not skip any."""
        rank = len(self.kernel)

        def only(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
            return tuple(value if place % rank in axes else otherwise for place, value in enumerate(values))

        return replace(
            self,
            kernel=only(self.kernel, 1),
            strides=only(self.strides, 1),
            dilations=only(self.dilations, 1),
            pads=only(self.pads, 0),
            tail=only(self.tail, 0),
        )

    def attributes(self) -> dict[str, Any]:
        """Build the attributes of a Conv or ConvTranspose with this window."""
        found: dict[str, Any] = {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
        }
        found |= {"pads": list(self.pads)} if self.auto_pad == "NOTSET" else {"auto_pad": self.auto_pad}
        return found | ({"output_padding": list(self.tail)} if self.transposed else {})

    def begins(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Padding in front of each spatial axis for an input of these extents."""
        if self.auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            totals = [
                max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
                for size, stride, kernel, dilation in zip(
                    extents, self.strides, self.kernel, self.dilations, strict=True
                )
            ]
            return tuple(total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2 for total in totals)
        if self.auto_pad == "VALID":
            return (0,) * len(self.kernel)
        return self.pads[: len(self.kernel)]

    def outputs(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Size of each spatial axis of the output for an input of these extents."""
        if self.transposed:
            half = len(self.kernel)
            return tuple(
                (size - 1) * self.strides[axis]
                + (self.kernel[axis] - 1) * self.dilations[axis]
                + 1
                + self.tail[axis]
                - self.pads[axis]
                - self.pads[axis + half]
                for axis, size in enumerate(extents)
            )
        if self.auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            return tuple(math.ceil(size / stride) for size, stride in zip(extents, self.strides, strict=True))
        pads = (0,) * len(self.pads) if self.auto_pad == "VALID" else self.pads
        half = len(self.kernel)
        return tuple(
            (size + pads[axis] + pads[axis + half] - (self.kernel[axis] - 1) * self.dilations[axis] - 1)
            // self.strides[axis]
            + 1
            for axis, size in enumerate(extents)
        )


@dataclass(frozen=True)
class Site:
    """Layer with constant weights of its own.

    Attributes:
        name: name of the node.
        op: operator of the node.
        source: input tensor; its channels are on axis 1 for Conv and ConvTranspose, else on the last axis.
        response: output tensor, including the bias.
        weight: tensor of the weights.
        output_axis: axis of `weight` that produces the output channels.
        input_axis: axis of `weight` that consumes the input channels.
        groups: number of groups of a grouped conv; else 1.
        window: window of a Conv or ConvTranspose; else None.
        add: name of the node that adds the bias of a MatMul; else None.
        others: the later nodes with the same weights and bias, each as a site of its own.
        shared: whether other nodes have the same weights.
    """

    name: str
    op: Operator
    source: str
    response: str
    weight: str
    output_axis: Axis
    input_axis: Axis
    groups: int = 1
    window: Window | None = None
    add: str | None = None
    others: tuple[Site, ...] = ()
    shared: bool = False

    @property
    def uses(self) -> tuple[Site, ...]:
        """All nodes with these weights, this one first."""
        return self, *self.others

    @property
    def sources(self) -> tuple[str, ...]:
        """Input tensors of all uses."""
        return tuple(use.source for use in self.uses)

    @property
    def channel_axis(self) -> int:
        """The channel axis of `source` and `response`: 1, or -1 for the last."""
        return 1 if self.window is not None else -1

    @property
    def decomposable(self) -> bool:
        """Whether the layer can be replaced by V, H and P."""
        return self.op != "ConvTranspose" and not self.shared


def find_sites(net: Net) -> tuple[Site, ...]:
    """Find all sites of a graph, in topological order of their first nodes."""
    found = (_READERS[node.op](net, node) for node in net.nodes if node.op in _READERS and is_standard(node))
    alike: dict[str, list[Site]] = defaultdict(list)
    for site in found:
        if site is not None:
            alike[site.weight].append(site)
    tensors = net.tensors()
    shared = {weight: uses for weight, uses in alike.items() if len(tensors[weight].outputs) > 1}
    usable = {weight: [use.name for use in uses] for weight, uses in shared.items() if _is_one_layer(net, uses)}
    apart = dict(zip(usable, unordered(net, usable.values()), strict=True)) if usable else {}
    return tuple(_together(uses) for weight, uses in alike.items() if weight not in shared or apart.get(weight, False))


def _together(uses: Sequence[Site]) -> Site:
    """Make one site of all nodes with the same weights."""
    if len(uses) == 1:
        return uses[0]
    first, *others = (replace(use, shared=True) for use in uses)
    return replace(first, others=tuple(others))


def _is_one_layer(net: Net, uses: Sequence[Site]) -> bool:
    """Tell whether the nodes that read these weights are all sites, with the same bias and the same attributes."""
    nodes = [net.node(use.name) for use in uses]
    readers = net.tensors()[uses[0].weight].outputs
    if len(readers) != len(uses):
        return False
    biases = [None if len(node.inputs) <= 2 or node.inputs[2].is_empty() else node.inputs[2] for node in nodes]
    if any(bias is not biases[0] for bias in biases):
        return False
    layout = {
        (use.op, use.output_axis, use.groups, node.attrs.get("alpha"), node.attrs.get("beta"))
        for use, node in zip(uses, nodes, strict=True)
    }
    return len(layout) == 1


def _own_constant(net: Net, tensor: Any, rank: int | None = None, *, shared: bool = True) -> bool:
    """A floating-point constant that no caller can replace, that is no output, and that one node of the graph reads,
    or with `shared` several nodes, each at the same input."""
    readers = tensor.outputs if isinstance(tensor, gs.Constant) else []
    places = {place for reader in readers for place, read in enumerate(reader.inputs) if read is tensor}
    return (
        isinstance(tensor, gs.Constant)
        and tensor.name not in net.overridable
        and tensor.name not in net.output_names
        and (len(readers) == 1 or (shared and len(places) == 1 and all(net.holds(reader) for reader in readers)))
        and np.issubdtype(numpy_dtype(tensor.dtype), np.floating)
        and (rank is None or len(tensor.shape) == rank)
    )


def _conv(net: Net, node: Any) -> Site | None:
    weight = node.inputs[1]
    if not _own_constant(net, weight) or len(weight.shape) < 3:
        return None
    if not _bias_is_own(net, node, int(weight.shape[0])):
        return None
    return Site(
        name=node.name,
        op="Conv",
        source=node.inputs[0].name,
        response=node.outputs[0].name,
        weight=weight.name,
        output_axis=Axis(weight.name, 0),
        input_axis=Axis(weight.name, 1),
        groups=int(node.attrs.get("group", 1)),
        window=replace(_window(node), auto_pad=str(node.attrs.get("auto_pad", "NOTSET"))),
    )


def _conv_transpose(net: Net, node: Any) -> Site | None:
    """With pads of its own: where an output shape is asked for instead, they depend on the input."""
    weight = node.inputs[1]
    if not _own_constant(net, weight) or len(weight.shape) < 3:
        return None
    if int(node.attrs.get("group", 1)) != 1 or not _bias_is_own(net, node, int(weight.shape[1])):
        return None
    if node.attrs.get("output_shape") or str(node.attrs.get("auto_pad", "NOTSET")) not in {"NOTSET", "VALID"}:
        return None
    window = _window(node)
    rank = len(window.kernel)
    pads = (0,) * 2 * rank if node.attrs.get("auto_pad") == "VALID" else window.pads
    window = replace(window, pads=pads, transposed=True, tail=_integers(node, "output_padding", (0,) * rank))
    return Site(
        name=node.name,
        op="ConvTranspose",
        source=node.inputs[0].name,
        response=node.outputs[0].name,
        weight=weight.name,
        output_axis=Axis(weight.name, 1),
        input_axis=Axis(weight.name, 0),
        window=window,
    )


def _gemm(net: Net, node: Any) -> Site | None:
    weight = node.inputs[1]
    if node.attrs.get("transA", 0) or not _own_constant(net, weight, 2):
        return None
    n, k = (0, 1) if node.attrs.get("transB", 0) else (1, 0)
    if not _bias_is_own(net, node, int(weight.shape[n])):
        return None
    return Site(
        name=node.name,
        op="Gemm",
        source=node.inputs[0].name,
        response=node.outputs[0].name,
        weight=weight.name,
        output_axis=Axis(weight.name, n),
        input_axis=Axis(weight.name, k),
    )


def _matmul(net: Net, node: Any) -> Site | None:
    weight = node.inputs[1]
    if not _own_constant(net, weight, 2, shared=False) or len(dims(node.inputs[0]) or ()) < 2:
        return None
    add = _bias_add(net, node)
    return Site(
        name=node.name,
        op="MatMul",
        source=node.inputs[0].name,
        response=(add or node).outputs[0].name,
        weight=weight.name,
        output_axis=Axis(weight.name, 1),
        input_axis=Axis(weight.name, 0),
        add=add.name if add is not None else None,
    )


_READERS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul}


def _bias_is_own(net: Net, node: Any, outputs: int) -> bool:
    """Tell whether a layer's bias is a constant of one value an output that goes wherever its weights go."""
    if len(node.inputs) <= 2 or node.inputs[2].is_empty():
        return True
    weight, bias = node.inputs[1:3]
    together = _own_constant(net, bias) and len(bias.outputs) == len(weight.outputs)
    return together and is_per_output(bias.shape, outputs)


def _bias_add(net: Net, node: Any) -> Any:
    """The Add of a constant (outputs,) that alone reads a MatMul's result."""
    result = node.outputs[0]
    if len(result.outputs) != 1 or result.outputs[0].op != "Add" or result.name in net.output_names:
        return None
    add = result.outputs[0]
    other = [tensor for tensor in add.inputs if tensor is not result]
    if len(other) != 1 or not _own_constant(net, other[0], 1, shared=False):
        return None
    return add if other[0].shape[0] == node.inputs[1].shape[1] else None


def _window(node: Any) -> Window:
    """Return the kernel, strides, dilations and pads of a conv."""
    kernel = tuple(int(size) for size in node.inputs[1].shape[2:])
    ones = (1,) * len(kernel)
    strides, dilations = (_integers(node, name, ones) for name in ("strides", "dilations"))
    return Window(kernel, strides, dilations, _integers(node, "pads", (0,) * 2 * len(kernel)))


def _integers(node: Any, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(value) for value in node.attrs.get(name) or default)


def matrix(net: Net, site: Site) -> tuple[Array, Array]:
    """Return the weights (groups, outputs per group, p) and bias (outputs,) of a site, float64."""
    node = net.node(site.name)
    weight = values_of(node.inputs[1]).astype(np.float64)
    if site.op == "Conv":
        outputs = weight.shape[0]
        groups = int(node.attrs.get("group", 1))
        return weight.reshape(groups, outputs // groups, -1), values_or_zero(node, 2, outputs)
    if site.op == "ConvTranspose":
        flat = np.moveaxis(weight, 1, 0)
        return flat.reshape(1, len(flat), -1), values_or_zero(node, 2, len(flat))
    if site.op == "Gemm":
        flat = weight if site.output_axis.axis == 0 else weight.T
        bias = float(node.attrs.get("beta", 1.0)) * values_or_zero(node, 2, flat.shape[0])
        return (float(node.attrs.get("alpha", 1.0)) * flat)[np.newaxis], bias
    return weight.T[np.newaxis], _added(net, site, weight.shape[1])


def values_or_zero(node: Any, index: int, size: int) -> Array:
    if len(node.inputs) <= index or node.inputs[index].is_empty():
        return np.zeros(size)
    return np.array(np.broadcast_to(values_of(node.inputs[index]).astype(np.float64).reshape(-1), (size,)))


def _added(net: Net, site: Site, size: int) -> Array:
    if site.add is None:
        return np.zeros(size)
    constant = next(t for t in net.node(site.add).inputs if isinstance(t, gs.Constant))
    return values_of(constant).astype(np.float64)


def is_depthwise(net: Net, site: Site) -> bool:
    """Return True if each group of a conv has one input channel, so that it mixes no channels."""
    return site.groups > 1 and int(net.tensors()[site.weight].shape[1]) == 1
