"""Levels: the numbers of channels that a group may keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from onnxprune.planning.cost import CostModel

__all__ = ["ladders", "levels"]

_LEAST_LEVELS = 3


def levels(size: int, align: int) -> tuple[int, ...]:
    """Return the counts that a group of `size` channels may keep, largest first: `size`, then multiples of `align`.

    A group with fewer than three multiples gets a finer alignment: the largest power of two below `align` with three
    multiples, at least 1.
    """
    step = align
    while step > 1 and size // step < _LEAST_LEVELS:
        step = 1 << ((step - 1).bit_length() - 1)
    return (size, *range((size - 1) // step * step, 0, -step))


def ladders(
    cost: CostModel, groups: Iterable[str], align: int, droppable: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Return the counts that each group may keep, largest first: its levels, and 0 for the groups in `droppable`."""
    return {name: (*levels(cost.sizes[name], align), *((0,) if name in droppable else ())) for name in groups}
