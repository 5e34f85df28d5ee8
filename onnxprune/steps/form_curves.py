"""The forms that a layer may take, each with the held-out error of its fitted factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import Form
from onnxprune.options.planning import Uses
from onnxprune.options.run import Options
from onnxprune.options.solve import Basis
from onnxprune.planning.candidates import Candidates, cheaper_sizes
from onnxprune.solve import Regression, channel_errors, spatial_errors, split_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.forms import LayerShape
    from onnxprune.options.budget import Unit

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["FormOptions", "form_curves"]


@dataclass(frozen=True)
class FormOptions:
    """Forms to consider.

    Attributes:
        uses: forms that are allowed.
        align: multiple to which ranks and widths are rounded.
        unit: cost by which forms must be cheaper than the layer.
        basis: basis of the first factor of a spatial decomposition.
    """

    uses: Uses
    align: int
    unit: Unit
    basis: Basis

    @classmethod
    def of(cls, options: Options) -> FormOptions:
        """Read them off the options of a run."""
        # A form with no fewer MACs is no faster: forms are compared by MACs and error, and chosen by the budget's cost.
        unit: Unit = "params" if options.budget.unit == "params" else "macs"
        return cls(options.uses, options.alignment, unit, options.refit.basis)


def form_curves(problems: Sequence[Regression], shape: LayerShape, options: FormOptions) -> Candidates:
    """Return the forms of one layer that cost less than it, except forms that another beats in cost and error.

    Args:
        problems: regressions on the layer's own output, one per group of a grouped conv; units are input channels.
        shape: shape of the layer.
        options: allowed forms, alignment, cost and basis.
    """
    columns = problems[0].weight.shape[1]
    inputs = columns // int(np.prod(shape.kernel))
    outputs = sum(len(problem.weight) for problem in problems)
    power = sum(float(problem.moments.total.power.sum()) for problem in problems)
    if power <= 0:
        return Candidates.of((), ())
    sizes = _Sizes(shape, inputs, outputs, options)
    errors: dict[Form, float] = {}
    if options.uses.channel:
        errors |= _channel(problems, sizes, power)
    if options.uses.spatial:
        for first in shape.axes():
            errors |= _spatial(problems, sizes, first, power)
    return Candidates.of(tuple(errors), tuple(errors.values())).useful(shape, inputs, outputs, options.unit)


@dataclass(frozen=True)
class _Sizes:
    shape: LayerShape
    inputs: int
    outputs: int
    options: FormOptions

    def cheaper(self, spatial: int | None, first: int = 0) -> tuple[int, ...]:
        return cheaper_sizes(
            self.shape,
            self.inputs,
            self.outputs,
            self.options.align,
            self.options.unit,
            spatial=spatial,
            first=first,
        )


def _channel(problems: Sequence[Regression], sizes: _Sizes, power: float) -> dict[Form, float]:
    wanted = sizes.cheaper(0)
    if not wanted:
        return {}
    curve = np.zeros(sizes.outputs // sizes.shape.groups + 1)
    for problem in problems:
        curve += channel_errors(problem) * _share(problem, power)
    return {Form(channel=width): float(curve[width]) for width in wanted}


def _spatial(problems: Sequence[Regression], sizes: _Sizes, first: int, power: float) -> dict[Form, float]:
    ranks = sizes.cheaper(None, first)
    if not ranks:
        return {}
    split = split_columns(sizes.inputs, sizes.shape.kernel, first)
    behind = {rank: sizes.cheaper(rank, first) if sizes.options.uses.channel else () for rank in ranks}
    narrow = [rank for rank in ranks if behind[rank]]
    alone = np.zeros(len(ranks))
    both = {rank: np.zeros(sizes.outputs // sizes.shape.groups + 1) for rank in narrow}
    for problem in problems:
        share = _share(problem, power)
        if not share:
            continue
        found = spatial_errors(problem, split, sizes.options.basis, ranks, narrow)
        alone += share * found.ranks
        for rank in narrow:
            both[rank] += share * found.widths[rank]
    errors = {Form(rank, first): float(error) for rank, error in zip(ranks, alone, strict=True)}
    return errors | {Form(rank, first, width): float(both[rank][width]) for rank in narrow for width in behind[rank]}


def _share(problem: Regression, power: float) -> float:
    """Return the share of one group of a grouped conv in the power of all outputs."""
    return float(problem.moments.total.power.sum()) / power
