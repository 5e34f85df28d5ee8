"""Shares of the memory limit (`--memory`), and the bytes that count against them.

=============  ======  ============================================================================
``solving``    1/2     moments of the layers that are solved together, and the arrays of the solver
``held``       1/4     activations held at a cut of the network; further ones are stored in files
``running``    1/8     tensors that one run of a network makes and returns
``samples``    1/8     raw samples of a step; what trials hold: the outputs to judge by, and tensors in front of a layer
=============  ======  ============================================================================

Counted are float64 arrays for p columns and o outputs; tests compare the counts with the allocated bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxprune.solve import held_bytes

__all__ = ["Room", "moment_bytes", "solving_bytes"]


@dataclass(frozen=True)
class Room:
    """Shares of a memory limit of ``memory`` bytes."""

    memory: int

    @property
    def solving(self) -> int:
        """Bytes for moments and solvers."""
        return self.memory // 2

    @property
    def held(self) -> int:
        """Bytes for activations held at a cut."""
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
    """Return the bytes of the moments of a site while they are gathered and afterwards.

    Args:
        shape: shape of the site's weight, (groups, outputs, columns), as of `graph.channels.sites.matrix`.
        answered: whether moments of its outputs are gathered, too.
    """
    groups, outputs, columns = shape
    return int(groups * held_bytes(columns, outputs if answered else 0))


def solving_bytes(shapes: Iterable[Sequence[int]]) -> int:
    """Return the peak bytes of solving for some sites together, besides their moments.

    Each regression keeps its pooled moments, its inverse, and the responses of both halves and of all: 2 p^2 + 4 p o
    numbers. The regression being solved takes 10 p^2 + 8 p o more: moments with permuted columns, about other means,
    and whitened.

    Args:
        shapes: shapes of the sites' weights, (groups, outputs, columns).
    """
    kept, most = 0, 0
    for groups, outputs, columns in shapes:
        square, answers = columns * columns, columns * outputs
        kept += groups * (2 * square + 4 * answers)
        most = max(most, 10 * square + 8 * answers)
    return int(8 * (kept + most))
