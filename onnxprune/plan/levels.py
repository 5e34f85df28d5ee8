"""Counts that a group of channels may keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from onnxprune.graph.cost import CostModel

__all__ = ["ladders", "levels"]

_LEAST_LEVELS = 3


def levels(size: int, align: int) -> tuple[int, ...]:
    """Counts that a group of `size` channels may keep, largest first: `size`, then multiples of the alignment.

    Groups of fewer than three multiples of it get a finer one: the largest power of two below it that gives them
    three, at least 1.
    """
    step = align
    while step > 1 and size // step < _LEAST_LEVELS:
        step = 1 << ((step - 1).bit_length() - 1)
    return (size, *range((size - 1) // step * step, 0, -step))


def ladders(
    cost: CostModel, groups: Iterable[str], align: int, droppable: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Counts that each group may keep, largest first: its levels, and 0 for those of branches that may go whole."""
    return {name: (*levels(cost.sizes[name], align), *((0,) if name in droppable else ())) for name in groups}
