"""What the network's outputs lose when some layers get other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.sites import with_weights
from onnxprune.runtime.divergence import DivergenceMeter, mean_distance
from onnxprune.runtime.frontier import Batch

if TYPE_CHECKING:
    from onnxprune.graph.sites import Site
    from onnxprune.runtime.divergence import OutputDivergence
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, Any]

__all__ = ["Damage", "spread"]

_MEMORY_SHARE = 8


class Damage:
    """Runs the original once, and then as often as asked with other weights."""

    def __init__(self, work: Workload, batches: Sequence[Batch]) -> None:
        """``batches``: what it is measured on, as many of them as fit in a share of the memory, and one in any case."""
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
        """Of every output, with these weights and biases in the place of some sites'."""
        label = ", ".join(f"'{site.name}'" for site in weights)
        net = with_weights(self._work.net, weights)
        session = self._engine.session(net.to_model(), label=f"the network with {label} changed")
        meter = DivergenceMeter(self._work.outputs)
        for batch, feeds, wanted in self._held:
            meter.add(wanted, session.run(feeds), batch.real, len(batch.samples))
        return meter.finish()

    def of(self, weights: Mapping[Site, tuple[Array, Array]]) -> float:
        """The distance of the outputs from the original's, mean over outputs; 0: equal, about 1: a constant answer."""
        return mean_distance(self.divergence(weights))


def spread(batches: Sequence[Batch], count: int, *, fixed: bool = True) -> tuple[Batch, ...]:
    """Choose samples of some batches, evenly spread over all of them.

    Args:
        batches: all samples, in batches of one size.
        count: how many to choose, about; exactly, where batches need no fixed size.
        fixed: choose full batches only.
    """
    samples = [sample for batch in batches for sample in batch.samples[: batch.real]]
    size = len(batches[0].samples)
    wanted = min(max(count // size, 1), len(samples) // size) * size if fixed else min(max(count, 1), len(samples))
    if not wanted:
        return (batches[0],)
    chosen = [samples[index] for index in np.linspace(0, len(samples) - 1, wanted).astype(int)]
    parts = [tuple(chosen[start : start + size]) for start in range(0, wanted, size)]
    return tuple(Batch(part, len(part)) for part in parts)
