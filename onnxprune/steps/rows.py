"""Check that the inputs give each layer enough rows for its fit, and the number of inputs that would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.graph.channels.sites import matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxprune.steps.prepare import Prepared

__all__ = ["Rows", "expected_rows", "few_inputs", "few_samples"]

_ROWS_PER_COLUMN = 10
_MOST_NAMED = 6


@dataclass(frozen=True)
class Rows:
    """Number of sampled rows that a layer is fitted on, and of unknowns (columns) per output."""

    name: str
    rows: int
    columns: int

    @property
    def too_few(self) -> bool:
        """Whether there are fewer than 10 rows per unknown."""
        return self.rows < _ROWS_PER_COLUMN * self.columns

    def needed(self, inputs: int) -> int:
        """Return the number of inputs that would be enough, given the number that gives these rows."""
        return -(-inputs * _ROWS_PER_COLUMN * self.columns // max(self.rows, 1))


def expected_rows(run: Prepared, names: Iterable[str]) -> tuple[Rows, ...]:
    """Return the expected rows of some sites, before any of their input channels is removed."""
    found = []
    for name in names:
        site = run.channels.sites[name]
        columns = matrix(run.net, site)[0].shape[2]
        points = sum(min(run.cost.positions(use.name), run.positions.count(columns)) for use in site.uses)
        found.append(Rows(name, run.positions.inputs * points, columns))
    return tuple(found)


def few_inputs(layers: Sequence[Rows], inputs: int) -> str:
    """Warn before the work of layers that will have too few rows, the worst first; empty if there are none."""
    return _told("FEW INPUTS", "will be", layers, inputs)


def few_samples(layers: Sequence[Rows], inputs: int) -> str:
    """Warn after the work of layers that had too few rows, the worst first; empty if there are none."""
    return _told("FEW SAMPLES", "were", layers, inputs)


def _told(title: str, tense: str, layers: Sequence[Rows], inputs: int) -> str:
    few = sorted((layer for layer in layers if layer.too_few), key=lambda layer: layer.rows / layer.columns)
    if not few:
        return ""
    named = ", ".join(f"{layer.name} ({layer.rows} for {layer.columns})" for layer in few[:_MOST_NAMED])
    more = f" and {len(few) - _MOST_NAMED} more" if len(few) > _MOST_NAMED else ""
    needed = max(layer.needed(inputs) for layer in few)
    return (
        f"{title}: these layers {tense} fitted on fewer than 10 samples per unknown: {named}{more}; instead of "
        f"{inputs} inputs to fit on (--samples), {needed} would be enough for all of them"
    )
