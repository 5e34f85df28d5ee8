"""Options of planning: methods and layers that are allowed, and the distribution of the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from onnxprune.errors import UsageError
from onnxprune.options.checks import at_least

__all__ = ["RECIPES", "Allocation", "PlanOptions", "Recipe", "Uses"]

Recipe = Literal["prune", "spatial", "channel", "3c"]


@dataclass(frozen=True)
class Uses:
    """Methods that a recipe allows: removing channels, decomposing kernels, decomposing channels."""

    prune: bool
    spatial: bool
    channel: bool


RECIPES: dict[Recipe, Uses] = {
    "prune": Uses(prune=True, spatial=False, channel=False),
    "spatial": Uses(prune=False, spatial=True, channel=False),
    "channel": Uses(prune=False, spatial=False, channel=True),
    "3c": Uses(prune=True, spatial=True, channel=True),
}


Allocation = Literal["greedy", "uniform"]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Methods and layers that are allowed, and the distribution of the budget over the layers."""

    recipe: Recipe | None = None
    "Methods: prune (channels), spatial or channel (decompositions), 3c (all); default 3c, with --keep-ratio prune."

    input_size: str = "inside"
    "Picture of a classifier: inside (a Resize may make it smaller), keep, auto or N (fed smaller, N pixels high)."

    drop_branches: bool = True
    "Removal of whole residual branches, each with all of its layers."

    allocation: Allocation = "greedy"
    "Distribution of the budget: greedy (least error per cost saved) or uniform (equal share of every layer)."

    sensitivity: bool = True
    "Weighting of layer errors by the damage that a trial of each layer does to the network's outputs."

    align: int | None = None
    "Multiple to which channel counts of wide groups are rounded; default 16 for a budget in time, else 1."

    include: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Node names or globs of the only layers that may lose channels; default all."

    exclude: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Node names or globs of layers that are kept as they are; default none."

    def __post_init__(self) -> None:
        at_least("--align", self.align, 1)
        if self.input_size not in ("inside", "keep", "auto") and not (self.input_size.isdecimal() and self.side):
            raise UsageError(f"--input-size takes inside, keep, auto or a height in pixels, found {self.input_size!r}")

    @property
    def side(self) -> int | None:
        """Height of the picture in pixels, if the options give it."""
        return int(self.input_size) if self.input_size.isdecimal() else None

    @property
    def feeds_smaller(self) -> bool:
        """Whether the result takes the smaller picture itself, without a Resize."""
        return self.input_size not in ("inside", "keep")
