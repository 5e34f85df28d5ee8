"""What a layer may become: forms, and the error of each, known before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxprune.graph.forms import DENSE, Form
from onnxprune.plan.allocate import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.forms import LayerShape, Unit

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["KINDS", "RECIPES", "Candidates", "Kind", "Recipe", "Uses", "cheaper_sizes", "widths"]

Recipe = Literal["prune", "spatial", "channel", "3c"]
Kind = Literal["spatial", "channel", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Of forms: V and H, P, or V, H and P."""


@dataclass(frozen=True)
class Uses:
    """What a recipe may do: take channels away, decompose kernels, decompose channels."""

    prune: bool
    spatial: bool
    channel: bool


RECIPES: dict[Recipe, Uses] = {
    "prune": Uses(prune=True, spatial=False, channel=False),
    "spatial": Uses(prune=False, spatial=True, channel=False),
    "channel": Uses(prune=False, spatial=False, channel=True),
    "3c": Uses(prune=True, spatial=True, channel=True),
}


@dataclass(frozen=True)
class Candidates:
    """Forms of one site, the dense one first.

    ``spatial``, ``first``, ``channel``: (n,) int64, rank and width 0 where there is no such part. ``error``: (n,)
    relative error of the site's answer with fitted factors and unchanged inputs.
    """

    spatial: Indices
    first: Indices
    channel: Indices
    error: Array

    @classmethod
    def of(cls, entries: Sequence[tuple[int, int, int, float]]) -> Candidates:
        """Candidates from (spatial, first, channel, error); the dense form is put in front."""
        rows = [(0, 0, 0, 0.0), *entries]
        spatial, first, channel = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(3))
        return cls(spatial, first, channel, np.array([row[3] for row in rows], dtype=np.float64))

    def __len__(self) -> int:
        return len(self.error)

    def form(self, index: int) -> Form:
        """One of the forms."""
        spatial, channel = int(self.spatial[index]) or None, int(self.channel[index]) or None
        return Form(spatial, int(self.first[index]) if spatial else 0, channel) if spatial or channel else DENSE

    def kinds(self) -> dict[Kind, Indices]:
        """Places of the forms of each kind that there is, in order; the dense one is of none."""
        spatial, channel = self.spatial > 0, self.channel > 0
        of: dict[Kind, np.ndarray[Any, np.dtype[np.bool_]]] = {
            "spatial": spatial & ~channel,
            "channel": channel & ~spatial,
            "both": spatial & channel,
        }
        return {kind: np.flatnonzero(places) for kind, places in of.items() if places.any()}

    def costs(self, shape: LayerShape, inputs: int, outputs: int, unit: Unit) -> Array:
        """Cost of each form, (n,)."""
        found = shape.costs(self.spatial, self.first, self.channel, inputs, outputs, unit)
        return np.asarray(found, dtype=np.float64)

    def useful(self, shape: LayerShape, inputs: int, outputs: int, unit: Unit) -> Candidates:
        """Those that no other beats in cost and error at once, and the dense one; the cheaper the further back."""
        costs = self.costs(shape, inputs, outputs, unit)
        order = np.lexsort((self.error, costs))
        best, kept = np.inf, []
        for index in order:
            if self.error[index] < best and index:
                kept.append(index)
                best = self.error[index]
        chosen = np.array([0, *reversed([i for i in kept if costs[i] < costs[0]])], dtype=np.int64)
        return Candidates(self.spatial[chosen], self.first[chosen], self.channel[chosen], self.error[chosen])


def widths(most: int, align: int) -> tuple[int, ...]:
    """Ranks or widths to try, smallest first: multiples of the alignment, of a finer one where there are few."""
    return tuple(sorted(size for size in levels(most + 1, align) if size <= most))


def cheaper_sizes(
    shape: LayerShape, inputs: int, outputs: int, align: int, unit: Unit, *, spatial: int | None, first: int
) -> tuple[int, ...]:
    """Sizes at which a form costs less than without that part.

    Args:
        shape: of the layer.
        inputs: channels per group.
        outputs: channels in all.
        align: see `widths`.
        unit: what is counted.
        spatial: None: spatial ranks along `first` are asked for. 0: widths of the dense conv. Else: widths behind
            this rank.
        first: kernel axis.
    """
    own = outputs // shape.groups
    if spatial is None:
        along = shape.kernel[first]
        top = min(inputs * along, own * int(np.prod(shape.kernel)) // along)
        sizes = np.arange(1, top + 1)
        costs = shape.costs(sizes, first, 0, inputs, outputs, unit)
    else:
        sizes = np.arange(1, own)
        costs = shape.costs(spatial, first, sizes, inputs, outputs, unit)
    limit = shape.costs(spatial or 0, first, 0, inputs, outputs, unit)
    cheaper = sizes[np.broadcast_to(costs, sizes.shape) < limit]
    return widths(int(cheaper[-1]), align) if len(cheaper) else ()
