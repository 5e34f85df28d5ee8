"""Rules of how operators carry channels: the data that a rule returns, and the table of rules.

A *slot* is one index on one axis of one value; weights are values like activations. A rule ties slots that must be
removed together. It sees one node and returns data; it changes nothing. An axis of a known size that a node's rule
does not tie is pinned, and so is every axis of a node without a rule: the world is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph.model.net import Dim, dims, values_of

__all__ = [
    "MOST_SLOTS",
    "Axis",
    "Coupling",
    "Edit",
    "NodeView",
    "Pin",
    "Tie",
    "fixup",
    "fixup_for",
    "registered",
    "rule",
    "rule_for",
    "tie_axes",
]

IntArray = np.ndarray[Any, np.dtype[np.int64]]

MOST_SLOTS = 1 << 24
"""Longest axis that is followed; a longer one has unknown size, so that a hostile graph cannot exhaust memory."""


class Axis(NamedTuple):
    """One axis of one value."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Tie:
    """Slot `left_slots[i]` of axis `left` goes with slot `right_slots[i]` of axis `right`."""

    left: Axis
    left_slots: IntArray
    right: Axis
    right_slots: IntArray


@dataclass(frozen=True)
class Pin:
    """An axis whose slots must all stay, where it was found, and why."""

    axis: Axis
    node: str
    reason: str


@dataclass(frozen=True)
class Coupling:
    """Result of a rule for one node."""

    ties: tuple[Tie, ...] = ()
    free: frozenset[Axis] = frozenset()  # not tied, and not pinned either: whatever is left on them, the node is right
    reason: str = ""  # why the axes that are not tied are pinned; empty: this operator does not carry them
    choices: tuple[tuple[Axis, ...], ...] = ()  # runs of axes, of each of which one was tied


@dataclass(frozen=True)
class Edit:
    """Change of a node after slots were removed around it."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, IntArray] = field(default_factory=dict)  # by input position


@dataclass(frozen=True)
class NodeView:
    """View of a node for a rule."""

    node: Any
    opset: int
    overridable: frozenset[str] = frozenset()
    slots: Mapping[Axis, IntArray] = field(default_factory=dict)  # what is left of axes that have lost some
    sizes: Mapping[Axis, int] = field(default_factory=dict)  # of those axes and all others, before they did
    protected: frozenset[str] = frozenset()  # graph outputs, and what control-flow bodies read
    pinned: frozenset[Axis] = frozenset()  # axes of choices that other nodes pin

    @property
    def op(self) -> str:
        """Operator type."""
        return str(self.node.op)

    @property
    def name(self) -> str:
        """Unique name of the node."""
        return str(self.node.name)

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, or the schema's default."""
        return self.node.attrs.get(name, default)

    def has_input(self, index: int) -> bool:
        """Tell whether an optional input is present."""
        return index < len(self.node.inputs) and not self.node.inputs[index].is_empty()

    def inputs(self) -> range:
        """Positions of all inputs."""
        return range(len(self.node.inputs))

    def input_axis(self, index: int, axis: int) -> Axis:
        """An axis of an input; negative axes count from the end."""
        return Axis(self.node.inputs[index].name, axis % max(len(self.input_shape(index) or (1,)), 1))

    def output_axis(self, axis: int, index: int = 0) -> Axis:
        """An axis of an output; negative axes count from the end."""
        return Axis(self.node.outputs[index].name, axis % max(len(self.output_shape(index) or (1,)), 1))

    def left(self, axis: Axis, size: int) -> IntArray:
        """The slots, of `size` that an axis had, that are still there: (k,) int64."""
        return self.slots.get(axis, np.arange(size, dtype=np.int64))

    def input_shape(self, index: int) -> tuple[Dim, ...] | None:
        """Shape of an input, None where its rank is unknown; axes of too many slots to count have no known size."""
        return _countable(dims(self.node.inputs[index]))

    def output_shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        """Shape of an output; see `input_shape`."""
        return _countable(dims(self.node.outputs[index]))

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """Values of an input that is a constant and cannot be overridden by the caller; else None."""
        if not self.has_input(index):
            return None
        tensor = self.node.inputs[index]
        fixed = isinstance(tensor, gs.Constant) and tensor.name not in self.overridable
        return values_of(tensor) if fixed else None

    def integers(self, attribute: str, position: int) -> list[int] | None:
        """A list that older revisions keep in an attribute and newer ones in a constant input; None if neither."""
        listed = self.attribute(attribute, None)
        if listed is None:
            listed = self.constant(position)
        return None if listed is None else [int(value) for value in np.ravel(listed)]


def _countable(shape: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    if shape is None:
        return None
    return tuple(None if isinstance(size, int) and size > MOST_SLOTS else size for size in shape)


Rule = Callable[[NodeView], Coupling]
Fixup = Callable[[NodeView], Edit]
_RULES: dict[str, tuple[frozenset[int], Rule]] = {}
_FIXUPS: dict[str, Fixup] = {}


def rule(*operators: str, since: tuple[int, ...]) -> Callable[[Rule], Rule]:
    """Register the rule of operators for the schema revisions that it was written for."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            if operator in _RULES:
                raise ValueError(f"a rule for {operator} is registered already")
            _RULES[operator] = (frozenset(since), function)
        return function

    return register


def fixup(*operators: str) -> Callable[[Fixup], Fixup]:
    """Register what follows in attributes and constants; called when the shapes around the node have changed.

    The view's shapes are the new ones; its `slots` tell which of the old slots are left.
    """

    def register(function: Fixup) -> Fixup:
        for operator in operators:
            if operator in _FIXUPS:
                raise ValueError(f"a fix-up for {operator} is registered already")
            _FIXUPS[operator] = function
        return function

    return register


def rule_for(operator: str, domain: str | None, revision: int | None) -> Rule | str:
    """The rule of an operator in a schema revision, or the reason why there is none."""
    if domain not in (None, "", "ai.onnx"):
        return f"no rule for {operator} of domain '{domain}'"
    if operator not in _RULES:
        return f"no rule for {operator}"
    revisions, function = _RULES[operator]
    if revision not in revisions:
        return f"no rule for revision {revision} of {operator}"
    return function


def fixup_for(operator: str) -> Fixup | None:
    """The fix-up of an operator, if it has one."""
    return _FIXUPS.get(operator)


def registered() -> frozenset[str]:
    """All operators that have a rule."""
    return frozenset(_RULES)


def tie_axes(left: Axis, right: Axis, size: int, *, left_start: int = 0, right_start: int = 0) -> Tie:
    """Tie runs of slots one to one."""
    run = np.arange(size, dtype=np.int64)
    return Tie(left, run + left_start, right, run + right_start)
