"""Candidates: the forms that a layer may take and the error of each, known before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import DENSE, Form, Kind, Parts, form_parts
from onnxprune.planning.levels import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.options.budget import Unit

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Candidates", "cheaper_sizes", "widths"]


@dataclass(frozen=True)
class Candidates:
    """Forms of one site, the dense one first.

    Attributes:
        parts: (3, n) int64 parts of the forms.
        error: (n,) relative squared error of the site's output with fitted factors and unchanged inputs.
    """

    parts: Parts
    error: Array

    @classmethod
    def of(cls, forms: Sequence[Form], errors: Sequence[float]) -> Candidates:
        """Make candidates from forms and their errors, with the dense form in front."""
        return cls(form_parts([DENSE, *forms]), np.array([0.0, *errors]))

    def form(self, index: int) -> Form:
        """Return the form at a place."""
        return Form.from_parts(self.parts[:, index])

    def __len__(self) -> int:
        return len(self.error)

    def kinds(self) -> dict[Kind, Indices]:
        """Return the places of the forms of each kind, in order; the dense form and empty kinds are left out."""
        spatial, channel = self.parts[0] > 0, self.parts[2] > 0
        of: dict[Kind, np.ndarray[Any, np.dtype[np.bool_]]] = {
            "spatial": spatial & ~channel,
            "channel": channel & ~spatial,
            "both": spatial & channel,
        }
        return {kind: np.flatnonzero(places) for kind, places in of.items() if places.any()}

    def useful(self, shape: LayerShape, inputs: int, outputs: int, unit: Unit) -> Candidates:
        """Return the dense form and the forms that no other beats in both cost and error, the most expensive first."""
        costs = np.asarray(shape.costs(self.parts, inputs, outputs, unit), dtype=np.float64)
        order = np.lexsort((self.error, costs))
        best, kept = np.inf, []
        for index in order:
            if self.error[index] < best and index:
                kept.append(index)
                best = self.error[index]
        chosen = np.array([0, *reversed([i for i in kept if costs[i] < costs[0]])], dtype=np.int64)
        return replace(self, parts=self.parts[:, chosen], error=self.error[chosen])


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
        parts = np.stack(np.broadcast_arrays(sizes, first, 0))
    else:
        sizes = np.arange(1, own)
        parts = np.stack(np.broadcast_arrays(spatial, first, sizes))
    limit = shape.cost(Form(spatial or None, first), inputs, outputs, unit)
    cheaper = sizes[shape.costs(parts, inputs, outputs, unit) < limit]
    return widths(int(cheaper[-1]), align) if len(cheaper) else ()
