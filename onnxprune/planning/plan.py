"""The plan file, in JSON: channels that each group keeps and forms of layers, by names of nodes.

::

    {"format": "onnxprune-plan", "version": 2, "model": "net.onnx", "budget": "0.5 of the MACs",
     "groups": [{"producer": "conv1", "consumers": ["conv2"], "channels": 64, "keep": 32, "kept": [0, 3, ...]}],
     "layers": [{"node": "conv2", "shape": [64, 64, 3, 3], "spatial": 24, "first": 0, "channel": 32}]}

``kept`` may be missing: then the selector chooses. ``keep`` 0 removes the whole residual branch. ``layers`` are
described in ``planning.layers``; the version is 3 if a branch is removed, which readers of version 2 refuse, and 4 with
``picture``, the height and width in pixels to which a Resize behind the input brings the picture. A plan
made from one graph replays on any other graph in which nodes of these names produce as many removable channels: a
detector on the backbone, or the network with another head. With an ``order`` (names and weight shapes of all convs) it
also replays on a graph whose convs have other names, but these shapes in this order. ``nominal`` is the speed-up
claimed for a published plan, to compare with the counted one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.planning.assignment import REMOVED, Assignment, Channels
from onnxprune.planning.layers import LayerPlan, Order, names_here, read_layers, read_order, weight_shape

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from onnxprune.graph.channels.forms import Form
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap

    IntArray = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["GroupPlan", "Plan"]

_FORMAT = "onnxprune-plan"
_READABLE = (1, 2, 3, 4)
_LARGEST_FILE = 64 << 20


@dataclass(frozen=True)
class GroupPlan:
    """Channels that one group keeps.

    Attributes:
        producer: name of the first node that produces the channels.
        consumers: names of the nodes that consume the channels; informative only.
        channels: number of channels.
        keep: number of channels to keep; 0 removes their whole residual branch.
        kept: channels to keep, sorted; None to let the selector choose.
    """

    producer: str
    consumers: tuple[str, ...]
    channels: int
    keep: int
    kept: tuple[int, ...] | None = None

    @property
    def assigned(self) -> Channels:
        """The channels as in an `Assignment`."""
        if not self.keep:
            return REMOVED
        return self.keep if self.kept is None else self.kept


@dataclass(frozen=True)
class Plan:
    """Channels to keep and forms of layers, by names of nodes.

    Attributes:
        groups: groups of channels.
        model: name of the model that the plan was made for.
        budget: budget that the plan was made for, in words.
        layers: decomposed layers.
        order: names and weight shapes of all convs; empty for a plan that fits its own names only.
        nominal: speed-up claimed for a published plan; None if there is none.
        picture: height and width of the smaller picture in pixels; None for the original size.
    """

    groups: tuple[GroupPlan, ...]
    model: str = ""
    budget: str = ""
    layers: tuple[LayerPlan, ...] = ()
    order: Order = ()
    nominal: float | None = None
    picture: tuple[int, int] | None = None

    @classmethod
    def of(cls, channels: ChannelMap, assignment: Assignment, *, model: str = "", budget: str = "") -> Plan:
        """Make the plan of an assignment.

        Args:
            channels: channel map of the network.
            assignment: channels and forms by name.
            model: name of the model.
            budget: budget in words.
        """
        counts, selected, forms = assignment.counts, assignment.selected, assignment.forms
        groups = tuple(
            GroupPlan(
                producer=group.name,
                consumers=group.consumers,
                channels=group.size,
                keep=counts[group.name],
                kept=tuple(int(i) for i in selected[group.name]) if group.name in selected else None,
            )
            for group in channels.prunable
            if group.name in counts
        )
        layers = tuple(
            LayerPlan(name, weight_shape(channels, site), forms[name])
            for name, site in channels.sites.items()
            if name in forms
        )
        return cls(groups, model, budget, layers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: the file cannot be read or is no plan; the message names the file and the field.
        """
        file = Path(path)
        try:
            if file.stat().st_size > _LARGEST_FILE:
                raise PlanError(
                    f"{file}: {file.stat().st_size} bytes are too many for a plan, expected at most {_LARGEST_FILE}"
                )
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{file}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{file}: not JSON: {error}") from error
        return cls.from_dict(content, str(file))

    @classmethod
    def from_dict(cls, content: object, source: str = "plan") -> Plan:
        """Read a plan from the return value of `to_dict`.

        Args:
            content: the value.
            source: name of the plan in errors.

        Raises:
            PlanError: the content is no plan; the message names the field.
        """
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f'{source}: not a plan (expected "format": "{_FORMAT}")')
        version = content.get("version")
        if type(version) is not int or version not in _READABLE:
            raise PlanError(f"{source}: plan version {version!r:.40}, expected {_READABLE[-1]}")
        entries = content.get("groups")
        if not isinstance(entries, list):
            raise PlanError(f"{source}: 'groups' must be a list")
        groups = tuple(_group(entry, f"{source}: groups[{index}]") for index, entry in enumerate(entries))
        names = [group.producer for group in groups]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise PlanError(f"{source}: producer '{twice}' is listed twice")
        return cls(
            groups,
            _text(content, "model", source),
            _text(content, "budget", source),
            read_layers(content.get("layers", []), source),
            read_order(content.get("order", []), source),
            _nominal(content.get("nominal"), source),
            _picture(content.get("picture"), source),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        groups = []
        for group in self.groups:
            entry: dict[str, Any] = {
                "producer": group.producer,
                "consumers": list(group.consumers),
                "channels": group.channels,
                "keep": group.keep,
            }
            if group.kept is not None:
                entry["kept"] = list(group.kept)
            groups.append(entry)
        found: dict[str, Any] = {
            "format": _FORMAT,
            "version": self._version,
            "model": self.model,
            "budget": self.budget,
            "groups": groups,
            "layers": [layer.to_dict() for layer in self.layers],
        }
        if self.order:
            found["order"] = [[name, list(shape)] for name, shape in self.order]
        if self.nominal is not None:
            found["nominal"] = self.nominal
        if self.picture is not None:
            found["picture"] = list(self.picture)
        return found

    @property
    def _version(self) -> int:
        if self.picture is not None:
            return 4
        return 3 if any(group.keep == 0 for group in self.groups) else 2

    def to_json(self) -> str:
        """Return the text of the plan file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def renamed(self, channels: ChannelMap) -> Plan:
        """Return the plan with the names that its layers have in a graph, see `layers.names_here`.

        Raises:
            PlanError: neither the names nor the shapes of the plan fit the graph.
        """
        names = {group.producer for group in self.groups} | {layer.node for layer in self.layers}
        here = names_here(self.order, names, channels)
        groups = tuple(replace(group, producer=here.get(group.producer, group.producer)) for group in self.groups)
        layers = tuple(replace(layer, node=here.get(layer.node, layer.node)) for layer in self.layers)
        return replace(self, groups=groups, layers=layers)

    def assignment(self, channels: ChannelMap) -> Assignment:
        """Return the assignment of a graph in which nodes have the names of the plan, see `renamed`.

        Raises:
            PlanError: a producer is missing, pinned, or produces another number of channels; or a layer is missing, or
                cannot take its form.
        """
        return Assignment(self._channels(channels), self._forms(channels))

    def _channels(self, channels: ChannelMap) -> dict[str, Channels]:
        owner, pinned = _by_producer(channels.prunable), _by_producer([g for g in channels.groups if g.pins])
        found: dict[str, Channels] = {}
        for entry in self.groups:
            group = owner.get(entry.producer)
            if group is None:
                raise PlanError(f"plan: {_why_missing(entry.producer, channels, pinned)}")
            if group.size != entry.channels:
                raise PlanError(
                    f"plan: '{entry.producer}' produces {group.size} channels in this model, the plan expects "
                    f"{entry.channels}"
                )
            if group.name in found:
                raise PlanError(f"plan: '{entry.producer}' and another producer share their channels here")
            found[group.name] = entry.assigned
        return found

    def _forms(self, channels: ChannelMap) -> dict[str, Form]:
        for layer in self.layers:
            if layer.node not in channels.sites:
                why = channels.fixed.get(layer.node)
                found = (
                    f"'{layer.node}' cannot be changed: {why}"
                    if why
                    else f"no layer named '{layer.node}' in this model"
                )
                raise PlanError(f"plan: {found}; remove it from the plan to replay the others")
            site = channels.sites[layer.node]
            if not site.decomposable:
                why = "other nodes share its weights" if site.shared else f"a {site.op} has one form only"
                raise PlanError(f"plan: '{layer.node}' cannot be decomposed: {why}; remove it from the plan")
            layer.check(site, weight_shape(channels, site))
        return {layer.node: layer.form for layer in self.layers}


def _by_producer(groups: Iterable[ChannelGroup]) -> dict[str, ChannelGroup]:
    """Index groups by their names, and by the names of the producers all of whose channels they hold."""
    found: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in groups:
        for name in dict.fromkeys((group.name, *group.producers)):
            found[name].append(group)
    return {
        name: next((group for group in owners if group.name == name), owners[0])
        for name, owners in found.items()
        if len(owners) == 1 or any(group.name == name for group in owners)
    }


def _why_missing(name: str, channels: ChannelMap, pinned: Mapping[str, ChannelGroup]) -> str:
    if name in pinned:
        return f"the channels of '{name}' cannot be removed: {pinned[name].pins[0]}"
    if name in channels.sites:
        return f"the channels of '{name}' are not a group of their own in this model"
    return f"no layer named '{name}' in this model; remove its group from the plan to replay the others"


def _group(entry: object, where: str) -> GroupPlan:
    if not isinstance(entry, dict):
        raise PlanError(f"{where}: expected an object")
    producer, consumers = entry.get("producer"), entry.get("consumers", [])
    if not isinstance(producer, str) or not producer:
        raise PlanError(f"{where}: 'producer' must be the name of a node")
    if not isinstance(consumers, list) or not all(isinstance(name, str) for name in consumers):
        raise PlanError(f"{where}: 'consumers' must be a list of names")
    channels, keep = _integer(entry, "channels", where), _integer(entry, "keep", where)
    if not 0 <= keep <= channels:
        raise PlanError(f"{where}: 'keep' must be from 0 to {channels}, found {keep}")
    kept = entry.get("kept")
    if kept is None:
        return GroupPlan(producer, tuple(consumers), channels, keep)
    good = isinstance(kept, list) and all(type(i) is int and 0 <= i < channels for i in kept)
    if not good or len(kept) != keep or len(set(kept)) != keep:
        raise PlanError(f"{where}: 'kept' must be {keep} different channels from 0 to {channels - 1}")
    return GroupPlan(producer, tuple(consumers), channels, keep, tuple(sorted(kept)))


def _nominal(value: object, source: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < math.inf:
        raise PlanError(f"{source}: 'nominal' must be a number above 1")
    return float(value)


def _picture(value: object, source: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        raise PlanError(f"{source}: 'picture' must be a height and a width in pixels")
    return value[0], value[1]


def _text(content: Mapping[str, object], field: str, source: str) -> str:
    value = content.get(field, "")
    if not isinstance(value, str):
        raise PlanError(f"{source}: '{field}' must be text")
    return value


def _integer(entry: Mapping[str, object], field: str, where: str) -> int:
    value = entry.get(field)
    if type(value) is not int:
        raise PlanError(f"{where}: '{field}' must be a whole number")
    return value
