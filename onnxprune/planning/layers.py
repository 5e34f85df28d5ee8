"""Forms of layers in a plan, and the names of a plan's nodes in another graph.

::

    {"node": "conv1_2", "shape": [64, 64, 3, 3], "spatial": 22, "first": 0, "channel": 22}

``spatial``: rank of V and H. ``first``: kernel axis of the first of them, 0 (vertical, the default) or 1.
``channel``: width in front of P. ``shape``: shape of the layer's weights, outputs first, before anything is pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.errors import PlanError
from onnxprune.graph.channels.forms import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.channels.sites import Site

__all__ = ["LayerPlan", "Order", "names_here", "read_layers", "read_order", "weight_shape"]

Order = tuple[tuple[str, tuple[int, ...]], ...]
"""Convs in topological order: names and shapes of weights."""


@dataclass(frozen=True)
class LayerPlan:
    """Decomposed layer: name of the node, shape of its weights in the original (outputs first), and its form."""

    node: str
    shape: tuple[int, ...]
    form: Form

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the plan file."""
        entry: dict[str, Any] = {"node": self.node, "shape": list(self.shape)}
        if self.form.spatial is not None:
            entry |= {"spatial": self.form.spatial, "first": self.form.first}
        if self.form.channel is not None:
            entry["channel"] = self.form.channel
        return entry

    def check(self, site: Site, shape: tuple[int, ...]) -> None:
        """Check that a layer of a graph can take this form.

        Args:
            site: the layer.
            shape: shape of its weights, outputs first.

        Raises:
            PlanError: the shape differs from the plan's, or the kernel, rank or width does not fit.
        """
        where = f"plan: '{self.node}'"
        if shape != self.shape:
            raise PlanError(f"{where} has weights {_times(shape)} in this model, the plan expects {_times(self.shape)}")
        outputs, inputs, kernel = shape[0] // site.groups, shape[1], shape[2:]
        if self.form.spatial is not None:
            if sum(size > 1 for size in kernel) < 2 or self.form.first >= len(kernel):
                raise PlanError(f"{where} has a kernel of {_times(kernel) or 'no size'}: it cannot be split in two")
            along = kernel[self.form.first]
            most = min(inputs * along, outputs * math.prod(kernel) // along)
            if self.form.spatial > most:
                raise PlanError(f"{where} has a spatial rank of at most {most}, the plan expects {self.form.spatial}")
        if self.form.channel is not None and self.form.channel > outputs:
            raise PlanError(f"{where} has {outputs} outputs, the plan expects a width of {self.form.channel}")


def weight_shape(channels: ChannelMap, site: Site) -> tuple[int, ...]:
    """Return the shape of a site's weights, outputs first."""
    kernel = site.window.kernel if site.window is not None else ()
    return (len(channels.labels[site.output_axis]), len(channels.labels[site.input_axis]), *kernel)


def names_here(order: Order, names: set[str], channels: ChannelMap) -> dict[str, str]:
    """Map the names of a plan's nodes to the names in a graph.

    If the graph has other names, its convs are matched in their order: the first convs must have the shapes of
    `order`, one for one.

    Args:
        order: convs of the plan's graph.
        names: names of the plan's nodes.
        channels: channel map of the graph.

    Raises:
        PlanError: a conv is missing or has another shape.
    """
    if not order or names <= set(channels.sites):
        return {name: name for name in names}
    convs = [site for site in channels.sites.values() if site.op == "Conv"]
    for position, (name, shape) in enumerate(order):
        found = weight_shape(channels, convs[position]) if position < len(convs) else ()
        if found != shape:
            here = f"'{convs[position].name}' with {_times(found)}" if found else "missing"
            raise PlanError(
                f"plan: this model has no layers of the plan's names, and other convs: number {position + 1} is "
                f"{here}, expected '{name}' with {_times(shape)}"
            )
    return {name: convs[position].name for position, (name, _) in enumerate(order)}


def read_layers(entries: object, source: str) -> tuple[LayerPlan, ...]:
    """Read the ``layers`` of a plan file.

    Args:
        entries: value of ``layers``.
        source: name of the file in errors.

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
        raise PlanError(
            f"{where}: 'inputs' is not supported since version 0.8, a conv reads all inputs: make a new plan"
        )
    form = Form(
        _optional(entry, "spatial", where), _whole(entry, "first", where, 0), _optional(entry, "channel", where)
    )
    if form.dense:
        raise PlanError(f"{where}: expected 'spatial' or 'channel'")
    return LayerPlan(entry["node"], _shape(entry.get("shape"), where), form)


def read_order(entries: object, source: str) -> Order:
    """Read the ``order`` of a plan file: pairs of a name and a shape.

    Raises:
        PlanError: an entry is malformed; the message has its place.
    """
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
