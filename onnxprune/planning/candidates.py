"""Candidates: the forms that a layer may take and the error of each, known before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxprune.graph.channels.forms import Form, Forms
from onnxprune.planning.levels import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.options.budget import Unit

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["KINDS", "Candidates", "Entry", "Kind", "cheaper_sizes", "widths"]

Entry = tuple[int, int, int, float]
"""Spatial rank, first axis and width of a form, 0 for a part that it lacks, and its error."""
Kind = Literal["spatial", "channel", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of forms: V and H, P, or V, H and P."""


@dataclass(frozen=True)
class Candidates:
    """Forms of one site, the dense one first.

    ``error``: (n,) relative squared error of the site's output with fitted factors and unchanged inputs.
    """

    forms: Forms
    error: Array

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Candidates:
        """Make candidates from their parts and errors, with the dense form in front."""
        rows = np.array([(0, 0, 0, 0.0), *entries], dtype=np.float64)
        return cls(Forms.from_array(rows[:, :3].T.astype(np.int64)), rows[:, 3].copy())

    def __len__(self) -> int:
        return len(self.error)

    def kinds(self) -> dict[Kind, Indices]:
        """Return the places of the forms of each kind, in order; the dense form and empty kinds are left out."""
        spatial, channel = self.forms.spatial > 0, self.forms.channel > 0
        of: dict[Kind, np.ndarray[Any, np.dtype[np.bool_]]] = {
            "spatial": spatial & ~channel,
            "channel": channel & ~spatial,
            "both": spatial & channel,
        }
        return {kind: np.flatnonzero(places) for kind, places in of.items() if places.any()}

    def useful(self, shape: LayerShape, inputs: int, outputs: int, unit: Unit) -> Candidates:
        """Return the dense form and the forms that no other beats in both cost and error, the most expensive first."""
        costs = np.asarray(shape.costs(self.forms, inputs, outputs, unit), dtype=np.float64)
        order = np.lexsort((self.error, costs))
        best, kept = np.inf, []
        for index in order:
            if self.error[index] < best and index:
                kept.append(index)
                best = self.error[index]
        chosen = np.array([0, *reversed([i for i in kept if costs[i] < costs[0]])], dtype=np.int64)
        return replace(self, forms=self.forms.take(chosen), error=self.error[chosen])


def widths(most: int, align: int) -> tuple[int, ...]:
    """Return the ranks or widths to try up to `most`, smallest first: multiples of `align`, or a finer alignment if
    there are few."""
    return tuple(sorted(size for size in levels(most + 1, align) if size <= most))


def cheaper_sizes(
    shape: LayerShape, inputs: int, outputs: int, align: int, unit: Unit, *, spatial: int | None, first: int
) -> tuple[int, ...]:
    """Return the sizes of a part (V and H, or P) at which a form costs less than without the part.

    Args:
        shape: shape of the layer.
        inputs: input channels per group.
        outputs: output channels in all groups.
        align: alignment of the sizes, see `widths`.
        unit: cost to count.
        spatial: None for spatial ranks along `first`; 0 for widths of the dense conv; else for widths behind this rank.
        first: kernel axis of the first factor.
    """
    own = outputs // shape.groups
    if spatial is None:
        along = shape.kernel[first]
        top = min(inputs * along, own * int(np.prod(shape.kernel)) // along)
        sizes = np.arange(1, top + 1)
        forms = Forms.filled(spatial=sizes, first=first)
    else:
        sizes = np.arange(1, own)
        forms = Forms.filled(spatial=spatial, first=first, channel=sizes)
    limit = shape.cost(Form(spatial or None, first), inputs, outputs, unit)
    cheaper = sizes[shape.costs(forms, inputs, outputs, unit) < limit]
    return widths(int(cheaper[-1]), align) if len(cheaper) else ()
