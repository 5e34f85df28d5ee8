"""What a network costs: multiply-accumulates and parameters, as a function of how many channels each group keeps.

MACs are those of Conv, ConvTranspose, Gemm and MatMul for one sample, padding included: ``positions * (elements of
the weights)``, positions being the output positions (for ConvTranspose the input's). Every axis of a weight is as
long as it was, less what its groups have lost; so both costs are sums of products of linear terms.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError
from onnxprune.graph.net import dims, numpy_dtype
from onnxprune.graph.normalize import with_shapes
from onnxprune.graph.rules import Axis
from onnxprune.graph.sites import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnxprune.graph.channels import ChannelMap
    from onnxprune.graph.net import Net

__all__ = ["CostModel", "cost_model"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Extent:
    """Length of one axis of a weight: `size`, less `times` for each channel that a group has lost."""

    size: int
    groups: tuple[tuple[str, int], ...]  # (group name, times)


@dataclass(frozen=True)
class _Layer:
    positions: float  # for one sample
    extents: tuple[_Extent, ...]


@dataclass(frozen=True)
class CostModel:
    """Costs of a network by the number of channels that its groups keep.

    Every method takes ``keep``: channels kept, per group name; groups that are not in it keep all.
    """

    sizes: Mapping[str, int]
    layers: Mapping[str, _Layer]
    constants: tuple[tuple[_Extent, ...], ...]

    def macs(self, keep: Mapping[str, int]) -> int:
        """Multiply-accumulates for one sample."""
        return round(sum(self._layer(layer, keep) for layer in self.layers.values()))

    def saving(self, keep: Mapping[str, int], group: str, to: int, *, unit: Literal["macs", "params"]) -> float:
        """What is saved when one group goes from `keep` to `to` channels."""
        after = {**keep, group: to}
        if unit == "macs":
            return sum(self._layer(layer, keep) - self._layer(layer, after) for layer in self._layers_of[group])
        return sum(self._product(c, keep) - self._product(c, after) for c in self._constants_of[group])

    @cached_property
    def _layers_of(self) -> Mapping[str, list[_Layer]]:
        return _by_group((layer, layer.extents) for layer in self.layers.values())

    @cached_property
    def _constants_of(self) -> Mapping[str, list[tuple[_Extent, ...]]]:
        return _by_group((extents, extents) for extents in self.constants)

    def layer_macs(self, keep: Mapping[str, int]) -> dict[str, int]:
        """Multiply-accumulates of each layer for one sample, by node name."""
        return {name: round(self._layer(layer, keep)) for name, layer in self.layers.items()}

    def params(self, keep: Mapping[str, int]) -> int:
        """Floating-point numbers in all constants."""
        return round(sum(self._product(extents, keep) for extents in self.constants))

    def layer_axes(self, name: str, keep: Mapping[str, int]) -> tuple[int, ...]:
        """Length of each axis of a layer's weights."""
        return tuple(round(self._length(extent, keep)) for extent in self.layers[name].extents)

    def layer_params(self, keep: Mapping[str, int]) -> dict[str, int]:
        """Elements of each layer's weights, bias apart, by node name."""
        return {name: round(self._product(layer.extents, keep)) for name, layer in self.layers.items()}

    def _layer(self, layer: _Layer, keep: Mapping[str, int]) -> float:
        return layer.positions * self._product(layer.extents, keep)

    def _product(self, extents: tuple[_Extent, ...], keep: Mapping[str, int]) -> float:
        return math.prod(self._length(extent, keep) for extent in extents)

    def _length(self, extent: _Extent, keep: Mapping[str, int]) -> float:
        gone = sum(times * (self.sizes[name] - keep.get(name, self.sizes[name])) for name, times in extent.groups)
        return float(extent.size - gone)


def _by_group(owners: Iterable[tuple[T, tuple[_Extent, ...]]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for owner, extents in owners:
        for group in dict.fromkeys(name for extent in extents for name, _ in extent.groups):
            found[group].append(owner)
    return found


def cost_model(net: Net, channels: ChannelMap, shapes: Mapping[str, Sequence[int]]) -> CostModel:
    """Costs of a network for inputs of the given shapes, batch first.

    Raises:
        ModelError: the size of a layer's output does not follow from the input shapes.
    """
    concrete = with_shapes(net, shapes)
    batch = max((int(shape[0]) for shape in shapes.values() if shape), default=1)
    touches = _touches(channels)
    tensors = net.tensors()

    def extents(name: str) -> tuple[_Extent, ...]:
        shape = [int(size) for size in tensors[name].shape]
        return tuple(_Extent(size, touches.get(Axis(name, axis), ())) for axis, size in enumerate(shape))

    layers = {
        node.name: _Layer(_positions(node) / batch, extents(node.inputs[1].name))
        for node in concrete.nodes
        if node.op in LAYERS and isinstance(node.inputs[1], gs.Constant)
    }
    constants = tuple(
        extents(name)
        for name, tensor in tensors.items()
        if isinstance(tensor, gs.Constant) and np.issubdtype(numpy_dtype(tensor.dtype), np.floating)
    )
    return CostModel({group.name: group.size for group in channels.prunable}, layers, constants)


def _touches(channels: ChannelMap) -> dict[Axis, tuple[tuple[str, int], ...]]:
    """Per axis, the prunable groups on it and how many slots each of their channels has there."""
    owner = np.full(channels.count, -1, dtype=np.int64)
    prunable = channels.prunable
    for index, group in enumerate(prunable):
        owner[group.units] = index
    found = {}
    for axis, labels in channels.labels.items():
        owners = owner[labels]
        present, slots = np.unique(owners[owners >= 0], return_counts=True)
        if len(present):
            found[axis] = tuple(
                (prunable[int(i)].name, int(n) // prunable[int(i)].size) for i, n in zip(present, slots, strict=True)
            )
    return found


def _positions(node: Any) -> float:
    tensor = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    shape = dims(tensor)
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise ModelError(f"{node.op} '{node.name}': its size does not follow from the input shapes: {tensor.shape}")
    sizes = [int(size) for size in shape if isinstance(size, int)]
    # Whatever stands beside the channel axis, the batch included, is a position.
    channel = 1 if node.op in {"Conv", "ConvTranspose"} else len(sizes) - 1
    return float(math.prod(size for axis, size in enumerate(sizes) if axis != channel))
