"""Assignment: the number of channels of each group and the form of each layer of the compressed network.

The search returns one, `compress` carries it out, a `Plan` stores it by names of nodes, and the report shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.graph.channels.forms import Form

__all__ = ["REMOVED", "Assignment", "Channels", "Removed"]

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Removed(Enum):
    """Removal of all channels of a group, with the residual branch that consumes them."""

    BRANCH = "branch"


REMOVED = Removed.BRANCH
Channels = int | tuple[int, ...] | Removed
"""Channels of a group: their number, or the channels to keep, sorted, or none with their residual branch."""


@dataclass(frozen=True)
class Assignment:
    """Channels per group and forms per layer of a compressed network; the empty assignment is the original.

    Attributes:
        channels: channels of each group that may lose some, by name; other groups keep all.
        forms: form of each decomposed layer, by name; other layers stay whole.
    """

    channels: Mapping[str, Channels] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(default_factory=dict)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Number of channels to keep, per group named; 0 with a removed branch."""
        return {name: _count(channels) for name, channels in self.channels.items()}

    @cached_property
    def removed(self) -> frozenset[str]:
        """Names of the groups whose residual branches are removed."""
        return frozenset(name for name, channels in self.channels.items() if channels is REMOVED)

    @cached_property
    def selected(self) -> Mapping[str, Indices]:
        """Channels to keep, (k,) int64 sorted, of the groups for which they are chosen; empty for a removed branch."""
        known = {name: () if channels is REMOVED else channels for name, channels in self.channels.items()}
        return {name: np.array(kept, dtype=np.int64) for name, kept in known.items() if isinstance(kept, tuple)}

    def selecting(self, kept: Mapping[str, Indices]) -> Assignment:
        """Return the assignment with the channels of some groups chosen; removed branches stay removed."""
        chosen = {n: tuple(int(i) for i in indices) for n, indices in kept.items() if n not in self.removed}
        return replace(self, channels={**self.channels, **chosen})


def _count(channels: Channels) -> int:
    if isinstance(channels, tuple):
        return len(channels)
    return channels if isinstance(channels, int) else 0
