"""The part of a plan that says in which form a layer is carried out, and the names that a plan goes by elsewhere.

::

    {"node": "conv1_2", "shape": [64, 64, 3, 3], "spatial": 22, "first": 0, "channel": 22}

``spatial``: rank of V and H. ``first``: the kernel axis that the first of them takes, 0 (vertical) unless given.
``channel``: width in front of P. ``shape``: of the layer's weights, outputs first, before anything is
pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.errors import PlanError
from onnxprune.graph.forms import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxprune.graph.channels import ChannelMap
    from onnxprune.graph.sites import Site

__all__ = ["LayerPlan", "Order", "names_here", "read_layers", "read_order", "weight_shape"]

Order = tuple[tuple[str, tuple[int, ...]], ...]
"""Convs in topological order: names and shapes of weights."""


@dataclass(frozen=True)
class LayerPlan:
    """One layer that is not carried out as it was; see the module."""

    node: str
    shape: tuple[int, ...]
    form: Form

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        entry: dict[str, Any] = {"node": self.node, "shape": list(self.shape)}
        if self.form.spatial is not None:
            entry |= {"spatial": self.form.spatial, "first": self.form.first}
        if self.form.channel is not None:
            entry["channel"] = self.form.channel
        return entry

    def check(self, site: Site, shape: tuple[int, ...]) -> None:
        """Whether a layer of a graph can be carried out so.

        Raises:
            PlanError: it cannot.
        """
        where = f"plan: '{self.node}'"
        if shape != self.shape:
            raise PlanError(f"{where} has weights {_times(shape)} here, the plan is for {_times(self.shape)}")
        outputs, inputs, kernel = shape[0] // site.groups, shape[1], shape[2:]
        if self.form.spatial is not None:
            if sum(size > 1 for size in kernel) < 2 or self.form.first >= len(kernel):
                raise PlanError(f"{where} has a kernel of {_times(kernel) or 'no size'}: it cannot be split in two")
            along = kernel[self.form.first]
            most = min(inputs * along, outputs * math.prod(kernel) // along)
            if self.form.spatial > most:
                raise PlanError(f"{where} has a spatial rank of {most} at most, the plan says {self.form.spatial}")
        if self.form.channel is not None and self.form.channel > outputs:
            raise PlanError(f"{where} is {outputs} wide, the plan says {self.form.channel}")


def weight_shape(channels: ChannelMap, site: Site) -> tuple[int, ...]:
    """Shape of a site's weights, outputs first."""
    kernel = site.window.kernel if site.window is not None else ()
    return (len(channels.labels[site.output_axis]), len(channels.labels[site.input_axis]), *kernel)


def names_here(order: Order, names: set[str], channels: ChannelMap) -> dict[str, str]:
    """What the nodes of a plan are called in a graph.

    Where the graph has other names, its convs are taken in their order: the first ones must have the shapes of
    `order`, one for one.

    Raises:
        PlanError: they do not.
    """
    if not order or names <= set(channels.sites):
        return {name: name for name in names}
    convs = [site for site in channels.sites.values() if site.op == "Conv"]
    for position, (name, shape) in enumerate(order):
        found = weight_shape(channels, convs[position]) if position < len(convs) else ()
        if found != shape:
            here = f"'{convs[position].name}' with {_times(found)}" if found else "missing"
            raise PlanError(
                f"plan: no layers of its names in this model, and its convs are not those of the plan: number "
                f"{position + 1} is {here}, expected '{name}' with {_times(shape)}"
            )
    return {name: convs[position].name for position, (name, _) in enumerate(order)}


def read_layers(entries: object, source: str) -> tuple[LayerPlan, ...]:
    """The ``layers`` of a plan file.

    Raises:
        PlanError: an entry is malformed; the message has its place.
    """
    if not isinstance(entries, list):
        raise PlanError(f"{source}: 'layers' must be a list")
    layers = tuple(_layer(entry, f"{source}: layers[{index}]") for index, entry in enumerate(entries))
    names = [layer.node for layer in layers]
    if len(set(names)) < len(names):
        raise PlanError(f"{source}: node '{next(n for n in names if names.count(n) > 1)}' is listed twice")
    return layers


def _layer(entry: object, where: str) -> LayerPlan:
    if not isinstance(entry, dict) or not isinstance(entry.get("node"), str) or not entry["node"]:
        raise PlanError(f"{where}: expected an object with a 'node'")
    if "inputs" in entry:
        raise PlanError(f"{where}: a conv reads all of its inputs since version 0.8: 'inputs' is no more, plan anew")
    form = Form(
        _optional(entry, "spatial", where), _whole(entry, "first", where, 0), _optional(entry, "channel", where)
    )
    if form.dense:
        raise PlanError(f"{where}: expected 'spatial' or 'channel'")
    return LayerPlan(entry["node"], _shape(entry.get("shape"), where), form)


def read_order(entries: object, source: str) -> Order:
    """The ``order`` of a plan file: pairs of a name and a shape."""
    if not isinstance(entries, list):
        raise PlanError(f"{source}: 'order' must be a list")
    found = []
    for index, entry in enumerate(entries):
        where = f"{source}: order[{index}]"
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise PlanError(f"{where}: expected a pair of a name and a shape")
        found.append((entry[0], _shape(entry[1], where)))
    return tuple(found)


def _shape(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) < 2 or not all(type(size) is int and size > 0 for size in value):
        raise PlanError(f"{where}: a shape is a list of two or more positive whole numbers")
    return tuple(value)


def _optional(entry: Mapping[str, object], field: str, where: str) -> int | None:
    return None if entry.get(field) is None else _whole(entry, field, where, 1)


def _whole(entry: Mapping[str, object], field: str, where: str, least: int) -> int:
    value = entry.get(field, least)
    if type(value) is not int or value < least:
        raise PlanError(f"{where}: '{field}' must be a whole number from {least} up")
    return value


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)
