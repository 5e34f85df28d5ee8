"""Cost of a network under an `Assignment`: multiply-accumulates, parameters and latency.

MACs are those of Conv, ConvTranspose, Gemm and MatMul for one sample, padding included: ``positions * (elements of
the weights)``, positions being the output positions (for ConvTranspose the input's). The length of every axis of a
weight is its original length minus the channels removed from its groups, so MACs and parameters are sums of products
of linear terms. The nodes of a residual branch (see ``branches``) cost nothing once the branch is removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from onnxprune.graph.channels.branches import find_branches
from onnxprune.graph.channels.forms import DENSE, Form, LayerShape, Parts, form_parts, layer_shape
from onnxprune.graph.channels.rules import Axis
from onnxprune.graph.model.net import LAYERS, Dim, dims, is_constant, numpy_dtype
from onnxprune.graph.model.normalize import with_shapes
from onnxprune.note import Note
from onnxprune.options.budget import Unit
from onnxprune.planning.assignment import Assignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.branches import Branch
    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, Any]

__all__ = ["Clock", "CostModel", "cost_model"]

_ORIGINAL = Assignment()


@dataclass(frozen=True)
class _Extent:
    """Length of one axis of a weight: `size`, minus `times` for each channel removed from a group."""

    size: int
    groups: tuple[tuple[str, int], ...]  # (group name, times)


@dataclass(frozen=True)
class _Layer:
    """Layer with weights: ``output`` and ``input`` are axes of the weights; ``shape`` is None for a layer with one form
    only; ``clock`` has its milliseconds, if measured; it is removed with the branch of a group in ``within``. The
    weights of a layer that is not ``owner`` count with an earlier one."""

    positions: float  # for one sample
    extents: tuple[_Extent, ...]
    within: tuple[str, ...] = ()
    output: int = 0
    input: int = 1
    shape: LayerShape | None = None
    clock: Clock | None = None
    owner: bool = True


@dataclass(frozen=True)
class _Weights:
    """Constant; it is removed with the branch of a group in ``within``."""

    extents: tuple[_Extent, ...]
    within: tuple[str, ...]


class Clock(Protocol):
    """Latency of a layer."""

    def ms(self, parts: Parts, inputs: Any, outputs: Any) -> Any:
        """Return the milliseconds of forms, arguments as for `LayerShape.costs`."""


@dataclass(frozen=True)
class _Scaled:
    """Clock of a layer whose milliseconds are multiplied by a factor."""

    clock: Clock
    factor: float

    def ms(self, parts: Parts, inputs: Any, outputs: Any) -> Any:
        return self.factor * self.clock.ms(parts, inputs, outputs)


@dataclass(frozen=True)
class CostModel:
    """Cost model of a network: the cost of every `Assignment`, and of the original without one.

    ``unknown``: names of layers whose sizes do not follow from the input shapes; their MACs count as 0.
    """

    sizes: Mapping[str, int]
    layers: Mapping[str, _Layer]
    constants: tuple[_Weights, ...]
    branches: Mapping[str, Branch]
    rest: float = 0.0
    unknown: frozenset[str] = frozenset()

    @property
    def notes(self) -> tuple[Note, ...]:
        """A note on each layer whose MACs are not counted."""
        why = "its size does not follow from the input shapes: its MACs are not counted"
        return tuple(Note(name, why) for name in sorted(self.unknown))

    def timed(self, clocks: Mapping[str, Clock], rest: float) -> CostModel:
        """Return the cost model with clocks of layers, and `rest` milliseconds for all nodes without a clock."""
        layers = {name: replace(layer, clock=clocks.get(name)) for name, layer in self.layers.items()}
        return replace(self, layers=layers, rest=rest)

    def clocks_for(self, other: CostModel) -> dict[str, Clock]:
        """Return the clocks of the layers for another network of the same layers, scaled to its output positions."""
        return {
            name: _Scaled(layer.clock, other.layers[name].positions / layer.positions)
            for name, layer in self.layers.items()
            if layer.clock is not None and name in other.layers
        }

    def latency(self, assignment: Assignment = _ORIGINAL) -> float:
        """Return the milliseconds of one run, the sum over layers and the rest."""
        return self.rest + sum(self.layer_costs(assignment, "latency").values())

    @cached_property
    def _one_ms(self) -> Callable[[str, Form, int, int], float]:
        """Milliseconds of a layer in one form with one number of inputs and outputs; a search asks again and again."""
        return cache(lambda name, form, i, o: float(self._ms(self.layers[name], form, i, o)[0]))

    def _ms(self, layer: _Layer, form: Form, inputs: Any, outputs: Any) -> Any:
        if layer.clock is None:
            return np.zeros(1)
        return layer.clock.ms(form_parts([form]), inputs, outputs)

    def macs(self, assignment: Assignment = _ORIGINAL) -> int:
        """Return the multiply-accumulates for one sample."""
        return sum(self.layer_macs(assignment).values())

    def total(self, assignment: Assignment, unit: Unit) -> float:
        """Return the cost of the network in a unit."""
        if unit == "latency":
            return self.latency(assignment)
        return self.macs(assignment) if unit == "macs" else self.params(assignment)

    def costs(self, name: str, parts: Parts, inputs: int, outputs: int, unit: Unit) -> Array:
        """Return the cost of a layer in each of some forms, given by their parts: (n,) float64.

        Raises:
            ValueError: the layer has one form only.
        """
        layer = self.layers[name]
        if layer.shape is None:
            raise ValueError(f"'{name}' has one form only")
        if not outputs:  # it is removed with its branch
            return np.zeros(parts.shape[1])
        if unit == "latency":
            ms = layer.clock.ms(parts, inputs, outputs) if layer.clock is not None else 0.0
            return np.asarray(ms + np.zeros(parts.shape[1]), dtype=np.float64)
        found = layer.shape.costs(parts, inputs, outputs, unit)
        return np.asarray(found, dtype=np.float64)

    def simplified(self, assignment: Assignment, unit: Unit) -> Assignment:
        """Return the assignment with the cheapest forms of equal outputs: neighbouring factors are merged if that costs
        less, and layers of removed branches have no form."""
        found = {}
        for name, form in assignment.forms.items():
            layer, (inputs, outputs) = self.layers[name], self.channels(name, assignment)
            if layer.shape is None or _gone(layer, assignment):
                continue

            def price(part: Form, name: str = name, sizes: tuple[int, int] = (inputs, outputs)) -> float:
                return float(self.costs(name, form_parts([part]), *sizes, unit)[0])

            simplest = layer.shape.simplest(form, outputs, price)
            if not simplest.dense:
                found[name] = simplest
        return replace(assignment, forms=found)

    def channels(self, name: str, assignment: Assignment = _ORIGINAL) -> tuple[int, int]:
        """Return the input channels (of one group of a grouped conv) and output channels of a layer."""
        axes, layer = self.layer_axes(name, assignment), self.layers[name]
        return axes[layer.input], axes[layer.output]

    def without_inner(self, assignment: Assignment) -> Assignment:
        """Return the assignment with all channels of the groups inside removed branches, because nothing reads them."""
        inner = {name for group in assignment.removed if group in self.branches for name in self.branches[group].inner}
        channels = {n: self.sizes[n] if n in inner else now for n, now in assignment.channels.items()}
        return replace(assignment, channels=channels)

    def layer_macs(self, assignment: Assignment = _ORIGINAL) -> dict[str, int]:
        """Return the multiply-accumulates of each layer for one sample, by node name."""
        return {name: self._cost(name, assignment, assignment.forms.get(name, DENSE), "macs") for name in self.layers}

    def params(self, assignment: Assignment = _ORIGINAL) -> int:
        """Return the number of floating-point numbers in all constants."""
        dense = round(sum(self._product(constant, assignment) for constant in self.constants))
        changed = sum(
            self._cost(name, assignment, form, "params") - self._cost(name, assignment, DENSE, "params")
            for name, form in assignment.forms.items()
        )
        return dense + changed

    def layer_axes(self, name: str, assignment: Assignment = _ORIGINAL) -> tuple[int, ...]:
        """Return the length of each axis of a layer's weights; 0 if the layer is removed with its branch."""
        layer = self.layers[name]
        if _gone(layer, assignment):
            return (0,) * len(layer.extents)
        return tuple(round(self._length(extent, assignment)) for extent in layer.extents)

    def positions(self, name: str) -> int:
        """Return the output positions of a layer for one sample (for a ConvTranspose the input's)."""
        return round(self.layers[name].positions)

    def layer_params(self, assignment: Assignment = _ORIGINAL) -> dict[str, int]:
        """Return the number of weights of each layer, without biases, by node name; 0 if an earlier layer has them."""
        return {name: self._cost(name, assignment, assignment.forms.get(name, DENSE), "params") for name in self.layers}

    def layer_costs(self, assignment: Assignment, unit: Unit) -> Mapping[str, float]:
        """Return the cost of each layer in a unit, by node name."""
        forms = assignment.forms
        if unit == "latency":
            return {
                name: 0.0
                if _gone(layer, assignment)
                else self._one_ms(name, forms.get(name, DENSE), *self.channels(name, assignment))
                for name, layer in self.layers.items()
            }
        return {name: self._cost(name, assignment, forms.get(name, DENSE), unit) for name in self.layers}

    def layers_of(self, group: str) -> tuple[str, ...]:
        """Return the layers with the channels of a group, and the layers of the residual branch of the group."""
        return self._layers_of.get(group, ())

    @cached_property
    def _layers_of(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name, layer in self.layers.items():
            groups = [group for extent in layer.extents for group, _ in extent.groups]
            for group in dict.fromkeys((*layer.within, *groups)):
                found[group] = (*found.get(group, ()), name)
        return found

    def along(
        self, name: str, group: str, counts: Array, assignment: Assignment, form: Form | None, unit: Unit
    ) -> Array:
        """Return the cost of one layer for each count of one group, all others as assigned: (n,) float64."""
        layer = self.layers[name]
        if any(other != group and other in assignment.removed for other in layer.within):
            return np.zeros(len(counts))
        there = counts > 0 if group in layer.within else np.ones(len(counts))
        lengths = [
            self._length(extent, assignment) + self._change(extent, group, counts, assignment)
            for extent in layer.extents
        ]
        if unit == "latency":
            ms = self._ms(layer, form or DENSE, lengths[layer.input], lengths[layer.output])
            return np.asarray(ms * there, dtype=np.float64)
        if form is None or form.dense or layer.shape is None:
            positions = layer.positions if unit == "macs" else float(layer.owner)
            return np.asarray(positions * math.prod(lengths) * there, dtype=np.float64)
        found = layer.shape.cost(form, lengths[layer.input], lengths[layer.output], unit)
        return np.asarray(found * there, dtype=np.float64)

    def _change(self, extent: _Extent, group: str, counts: Array, assignment: Assignment) -> Array:
        times = sum(n for name, n in extent.groups if name == group)
        return np.asarray(times * (counts - assignment.counts.get(group, self.sizes[group])), dtype=np.float64)

    def _cost(self, name: str, assignment: Assignment, form: Form, unit: Unit) -> int:
        layer = self.layers[name]
        if form.dense or layer.shape is None:
            times = layer.positions if unit == "macs" else float(layer.owner)
            return round(times * self._product(layer, assignment))
        return (
            0
            if _gone(layer, assignment)
            else round(float(layer.shape.cost(form, *self.channels(name, assignment), unit)))
        )

    def _product(self, weights: _Layer | _Weights, assignment: Assignment) -> float:
        if _gone(weights, assignment):
            return 0.0
        return math.prod(self._length(extent, assignment) for extent in weights.extents)

    def _length(self, extent: _Extent, assignment: Assignment) -> float:
        counts = assignment.counts
        gone = sum(times * (self.sizes[name] - counts.get(name, self.sizes[name])) for name, times in extent.groups)
        return float(extent.size - gone)


def _gone(weights: _Layer | _Weights, assignment: Assignment) -> bool:
    """Return True if the weights are removed with the residual branch of a group."""
    return any(group in assignment.removed for group in weights.within)


def cost_model(net: Net, channels: ChannelMap, shapes: Mapping[str, Sequence[int]]) -> CostModel:
    """Costs of a network for inputs of the given shapes, batch first."""
    concrete = with_shapes(net, shapes)
    batch = max((int(shape[0]) for shape in shapes.values() if shape), default=1)
    touches = _touches(channels)
    tensors = net.tensors()
    branches = find_branches(net, channels)
    of_node, of_constant = _inverse(branches, "nodes"), _inverse(branches, "constants")

    def extents(name: str) -> tuple[_Extent, ...]:
        shape = [int(size) for size in tensors[name].shape]
        return tuple(_Extent(size, touches.get(Axis(name, axis), ())) for axis, size in enumerate(shape))

    layers, unknown = {}, set()
    for node in concrete.nodes:
        computed = node.op in LAYERS and not is_constant(node.inputs[1])
        sides = dims(node.inputs[1]) if computed and node.op != "MatMul" else None
        if node.op not in LAYERS or (computed and not _all_known(sides)):
            continue
        site = channels.uses.get(node.name)
        positions = _positions(node)
        if positions is None:
            unknown.add(node.name)
        positions = (positions or 0.0) / batch
        if computed:  # by something that depends on the inputs: its channels stay, see `ChannelMap.fixed`
            lengths = tuple(_Extent(int(side), ()) for side in sides or () if isinstance(side, int))
        else:
            lengths = extents(node.inputs[1].name)
        within = of_node.get(node.name, ())
        layers[node.name] = _Layer(positions, lengths, within)
        if site is not None:
            shape = layer_shape(concrete, site, batch) if site.decomposable else None
            axes = site.output_axis.axis, site.input_axis.axis
            owner = channels.owner[node.name] == node.name
            layers[node.name] = _Layer(positions, lengths, within, *axes, shape, owner=owner)
    constants = tuple(
        _Weights(extents(name), of_constant.get(name, ()))
        for name, tensor in tensors.items()
        if is_constant(tensor) and np.issubdtype(numpy_dtype(tensor.dtype), np.floating)
    )
    sizes = {group.name: group.size for group in channels.prunable}
    return CostModel(sizes, layers, constants, branches, unknown=frozenset(unknown))


def _inverse(branches: Mapping[str, Branch], field: Literal["nodes", "constants"]) -> dict[str, tuple[str, ...]]:
    """Return the groups of the branches by the names of their nodes or constants."""
    found: dict[str, tuple[str, ...]] = {}
    for group, branch in branches.items():
        for name in getattr(branch, field):
            found[name] = (*found.get(name, ()), group)
    return found


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


def _all_known(shape: Sequence[Dim] | None) -> bool:
    return shape is not None and all(isinstance(size, int) for size in shape)


def _positions(node: Any) -> float | None:
    """Return the number of positions at which a layer is applied, the batch included; None if it is not known."""
    tensor = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    shape = dims(tensor)
    if shape is None or not _all_known(shape):
        return None
    sizes = [int(size) for size in shape if isinstance(size, int)]
    # Whatever stands beside the channel axis, the batch included, is a position.
    channel = 1 if node.op in {"Conv", "ConvTranspose"} else len(sizes) - 1
    return float(math.prod(size for axis, size in enumerate(sizes) if axis != channel))
