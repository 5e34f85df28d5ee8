"""What `--memory` is spent on, and what counts against it.

=============  ======  ==========================================================================
``solving``    1/2     moments of the layers that are looked at together, and the solvers' arrays
``held``       1/4     activations that wait at a cut of the network; what is more goes to files
``running``    1/8     what one run of a network makes and returns
``samples``    1/8     raw samples of a step; inputs and outputs that trials are judged by
=============  ======  ==========================================================================

The counts are of arrays of float64, p columns by o outputs; tests hold them against what is allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxprune.solve import held_bytes

__all__ = ["Room", "moment_bytes", "solving_bytes"]


@dataclass(frozen=True)
class Room:
    """Shares of ``memory`` bytes."""

    memory: int

    @property
    def solving(self) -> int:
        """Bytes for moments and solvers."""
        return self.memory // 2

    @property
    def held(self) -> int:
        """Bytes for activations that wait at a cut."""
        return self.memory // 4

    @property
    def running(self) -> int:
        """Bytes for the tensors of one run of a network."""
        return self.memory // 8

    @property
    def samples(self) -> int:
        """Bytes for raw samples."""
        return self.memory // 8


def moment_bytes(shape: Sequence[int], *, answered: bool) -> int:
    """Bytes that the moments of a site hold while they are gathered and afterwards.

    Args:
        shape: of its weight, (groups, outputs, columns) as `graph.sites.matrix` gives it.
        answered: whether its responses are gathered, too.
    """
    groups, outputs, columns = shape
    return int(groups * held_bytes(columns, outputs if answered else 0))


def solving_bytes(shapes: Iterable[Sequence[int]]) -> int:
    """Bytes that solving for some sites together takes at its peak, beside their moments.

    Each regression keeps its pooled moments, its inverse, and responses of both halves and of all: 2 p^2 + 4 p o. The
    one that is being solved takes 10 p^2 + 8 p o more: moments in another order of the columns, about other means, and
    whitened.

    Args:
        shapes: of their weights, (groups, outputs, columns).
    """
    kept, most = 0, 0
    for groups, outputs, columns in shapes:
        square, answers = columns * columns, columns * outputs
        kept += groups * (2 * square + 4 * answers)
        most = max(most, 10 * square + 8 * answers)
    return int(8 * (kept + most))
