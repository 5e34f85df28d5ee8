"""The plan file: what each group keeps, in JSON, its sites named by node.

::

    {"format": "onnxprune-plan", "version": 1, "model": "net.onnx", "budget": "speedup 2 in MACs",
     "groups": [{"producer": "conv1", "consumers": ["conv2"], "channels": 64, "keep": 32, "kept": [0, 3, ...]}]}

``kept`` may be missing: then the selector chooses. A plan made from one graph replays on any other in which a node
of the name ``producer`` makes as many channels that may go: a detector on the same backbone, the same net with
another head.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import PlanError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from onnxprune.graph.channels import ChannelGroup, ChannelMap

    IntArray = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["GroupPlan", "Plan"]

_FORMAT, _VERSION = "onnxprune-plan", 1
_LARGEST_FILE = 64 << 20


@dataclass(frozen=True)
class GroupPlan:
    """What one group keeps.

    Attributes:
        producer: name of the first node that makes its channels.
        consumers: names of the nodes that use them up; for the reader.
        channels: how many there are.
        keep: how many stay.
        kept: which ones, sorted; None: for the selector to choose.
    """

    producer: str
    consumers: tuple[str, ...]
    channels: int
    keep: int
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """What to remove, by node names."""

    groups: tuple[GroupPlan, ...]
    model: str = ""
    budget: str = ""

    @classmethod
    def from_keep(
        cls,
        channels: ChannelMap,
        keep: Mapping[str, int],
        kept: Mapping[str, IntArray] | None = None,
        *,
        model: str = "",
        budget: str = "",
    ) -> Plan:
        """The plan that keeps so many channels of the named groups, and which ones where that is known."""
        known = kept or {}
        groups = tuple(
            GroupPlan(
                producer=group.name,
                consumers=group.consumers,
                channels=group.size,
                keep=keep[group.name],
                kept=tuple(int(i) for i in known[group.name]) if group.name in known else None,
            )
            for group in channels.prunable
            if group.name in keep
        )
        return cls(groups, model, budget)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: the file is missing or is no plan; the message has the file and the field.
        """
        file = Path(path)
        try:
            if file.stat().st_size > _LARGEST_FILE:
                raise PlanError(f"{file}: {file.stat().st_size} bytes are too many for a plan")
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{file}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{file}: not JSON: {error}") from error
        return cls.from_dict(content, str(file))

    @classmethod
    def from_dict(cls, content: object, source: str = "plan") -> Plan:
        """A plan from what `to_dict` returned."""
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f'{source}: not a plan (expected "format": "{_FORMAT}")')
        version = content.get("version")
        if type(version) is not int or version != _VERSION:
            raise PlanError(f"{source}: plan version {version!r:.40}, expected {_VERSION}")
        entries = content.get("groups")
        if not isinstance(entries, list):
            raise PlanError(f"{source}: 'groups' must be a list")
        groups = tuple(_group(entry, f"{source}: groups[{index}]") for index, entry in enumerate(entries))
        names = [group.producer for group in groups]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise PlanError(f"{source}: producer '{twice}' is listed twice")
        return cls(groups, _text(content, "model", source), _text(content, "budget", source))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
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
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "model": self.model,
            "budget": self.budget,
            "groups": groups,
        }

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def resolve(self, channels: ChannelMap) -> tuple[dict[str, int], dict[str, IntArray]]:
        """Channels to keep per group of a graph, and which ones where the plan says so.

        Raises:
            PlanError: a producer is missing, pinned, or makes another number of channels.
        """
        owner, pinned = _by_producer(channels.prunable), _by_producer([g for g in channels.groups if g.pins])
        keep: dict[str, int] = {}
        kept: dict[str, IntArray] = {}
        for entry in self.groups:
            group = owner.get(entry.producer)
            if group is None:
                raise PlanError(f"plan: {_why_missing(entry.producer, channels, pinned)}")
            if group.size != entry.channels:
                raise PlanError(
                    f"plan: '{entry.producer}' makes {group.size} channels here, the plan is for {entry.channels}"
                )
            if group.name in keep:
                raise PlanError(f"plan: '{entry.producer}' and another producer share their channels here")
            keep[group.name] = entry.keep
            if entry.kept is not None:
                kept[group.name] = np.array(entry.kept, dtype=np.int64)
        return keep, kept


def _by_producer(groups: Iterable[ChannelGroup]) -> dict[str, ChannelGroup]:
    """Groups by their names, and by those of the layers of which all channels are theirs."""
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
        return f"the channels of '{name}' cannot go: {pinned[name].pins[0]}"
    if name in channels.sites:
        return f"the channels of '{name}' are no group of their own here"
    return f"no layer named '{name}' in this model; take its group out of the plan to replay the others"


def _group(entry: object, where: str) -> GroupPlan:
    if not isinstance(entry, dict):
        raise PlanError(f"{where}: expected an object")
    producer, consumers = entry.get("producer"), entry.get("consumers", [])
    if not isinstance(producer, str) or not producer:
        raise PlanError(f"{where}: 'producer' must be the name of a node")
    if not isinstance(consumers, list) or not all(isinstance(name, str) for name in consumers):
        raise PlanError(f"{where}: 'consumers' must be a list of names")
    channels, keep = _integer(entry, "channels", where), _integer(entry, "keep", where)
    if not 1 <= keep <= channels:
        raise PlanError(f"{where}: 'keep' must be from 1 to {channels}, found {keep}")
    kept = entry.get("kept")
    if kept is None:
        return GroupPlan(producer, tuple(consumers), channels, keep)
    good = isinstance(kept, list) and all(type(i) is int and 0 <= i < channels for i in kept)
    if not good or len(kept) != keep or len(set(kept)) != keep:
        raise PlanError(f"{where}: 'kept' must be {keep} different channels from 0 to {channels - 1}")
    return GroupPlan(producer, tuple(consumers), channels, keep, tuple(sorted(kept)))


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
