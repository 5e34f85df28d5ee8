"""Damage to the network's outputs when the weights of some layers are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.divergence import DivergenceMeter, mean_distance
from onnxprune.engine.frontier import Batch
from onnxprune.graph.edit.weights import with_weights

if TYPE_CHECKING:
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.graph.channels.sites import Site
    from onnxprune.steps.workload import Workload

    Array = np.ndarray[Any, Any]

__all__ = ["Damage", "spread"]

_MEMORY_SHARE = 8


class Damage:
    """Measurement of the outputs with replaced weights, against one run of the original."""

    def __init__(self, work: Workload, batches: Sequence[Batch]) -> None:
        """Run the original on `batches`: at least the first, and as many as fit in an eighth of the memory."""
        self._work = work
        self._engine = work.engine.for_pieces()
        session = self._engine.session(work.net.to_model(), label="the original")
        self._held: list[tuple[Batch, dict[str, Array], dict[str, Array]]] = []
        left = work.memory // _MEMORY_SHARE
        for batch in batches:
            feeds = work.calibration.load(batch.samples)
            wanted = session.run(feeds)
            self._held.append((batch, feeds, wanted))
            left -= sum(array.nbytes for array in (*feeds.values(), *wanted.values()))
            if left < 0:
                break

    def divergence(self, weights: Mapping[Site, tuple[Array, Array]]) -> tuple[OutputDivergence, ...]:
        """Return the difference of every output with these weights and biases in place of the sites' own."""
        label = ", ".join(f"'{site.name}'" for site in weights)
        net = with_weights(self._work.net, weights)
        session = self._engine.session(net.to_model(), label=f"the network with {label} changed")
        meter = DivergenceMeter(self._work.outputs)
        for batch, feeds, wanted in self._held:
            meter.add(wanted, session.run(feeds), batch.real, len(batch.samples))
        return meter.finish()

    def of(self, weights: Mapping[Site, tuple[Array, Array]]) -> float:
        """Return the mean distance of the outputs from the original's: 0 if equal, about 1 for constant outputs."""
        return mean_distance(self.divergence(weights))


def spread(batches: Sequence[Batch], count: int, *, fixed: bool = True) -> tuple[Batch, ...]:
    """Choose samples evenly spread over some batches, and return them in batches.

    Args:
        batches: all samples, in batches of one size.
        count: number of samples to choose; rounded down to full batches if `fixed`.
        fixed: return full batches only.
    """
    samples = [sample for batch in batches for sample in batch.samples[: batch.real]]
    size = len(batches[0].samples)
    wanted = min(max(count // size, 1), len(samples) // size) * size if fixed else min(max(count, 1), len(samples))
    if not wanted:
        return (batches[0],)
    chosen = [samples[index] for index in np.linspace(0, len(samples) - 1, wanted).astype(int)]
    parts = [tuple(chosen[start : start + size]) for start in range(0, wanted, size)]
    return tuple(Batch(part, len(part)) for part in parts)
