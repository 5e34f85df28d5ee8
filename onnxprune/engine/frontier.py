"""Frontier execution: a network is run once, in pieces, over all calibration inputs.

Running a network anew up to each layer has a cost quadratic in its depth. A `Frontier` holds, for every batch, the
tensors that are live at a cut, and moves to the next cut by running only the nodes in between. The original and
the compressed network have a frontier each, with a common order of nodes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.model.net import exported
from onnxprune.graph.model.schedule import Schedule, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onnxprune.data import Calibration
    from onnxprune.engine.sessions import Engine, Session
    from onnxprune.engine.store import TensorStore
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, Any]

__all__ = ["Batch", "Frontier"]


@dataclass(frozen=True)
class Batch:
    """Batch of samples: their indices in the calibration, and the number of real ones (the rest is padding)."""

    samples: tuple[int, ...]
    real: int

    def frames(self, count: int) -> tuple[int, ...]:
        """Return the numbers of the real images of a tensor with ``count`` in its first axis.

        One that holds several frames of each sample has numbers for all of them, sample by sample.
        """
        each = count // len(self.samples)
        return tuple(sample * each + frame for sample in self.samples[: self.real] for frame in range(each))


class Frontier:
    """Progress of one network through all batches; held tensors are in a `TensorStore` under the frontier's name."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        order: Schedule,
        calibration: Calibration,
        batches: Sequence[Batch],
        store: TensorStore,
    ) -> None:
        """Start at cut 0, where only the graph's inputs are live."""
        self.name, self.cut, self.order = name, 0, order
        self._engine, self._calibration, self._batches, self._store = engine.for_pieces(), calibration, batches, store
        self._held: frozenset[str] = frozenset(name for name, made in order.made.items() if made == -1)
        self._narrowed: dict[str, list[tuple[int, Array]]] = {}
        self._started = False

    @contextmanager
    def moving(
        self, net: Net, cut: int, wanted: Iterable[str] = (), later: Iterable[str] = ()
    ) -> Iterator[Callable[[int], Mapping[str, Array]]]:
        """Move every batch to `cut`: yield a function that moves one batch, to be called once for each.

        The function returns all tensors live at `cut`, and the tensors in `wanted`. Tensors in `later` that exist at
        `cut` are kept, too.

        Raises:
            EngineError: onnxruntime cannot run a piece of the network.
        """
        cut = max(cut, self.cut)
        wanted, later = tuple(wanted), tuple(later)
        hold = frozenset((*self.order.live(cut), *(name for name in later if self.order.made[name] < cut)))
        piece = segment(net, self.order, self.cut, cut, (*wanted, *hold))
        session = None if piece is None else self._open(piece, max(net.header.ir_version, 4))
        reads = frozenset(session.input_names) if session is not None else frozenset()
        keep = hold.union(wanted)

        def advance(batch: int) -> Mapping[str, Array]:
            here = {name: self._take(batch, name) for name in self._held & (reads | keep)}
            if session is not None:
                here.update(session.run({name: here[name] for name in session.input_names}))
            for name in self._held - hold:
                self._store.drop((self.name, batch, name))
            for name in hold:
                if name not in self._held or name in self._narrowed:
                    self._store.put((self.name, batch, name), here[name])
            return {name: array for name, array in here.items() if name in keep}

        yield advance if self._started else self._with_inputs(advance)
        self.cut, self._held = cut, hold
        self._narrowed.clear()

    def rest(self, net: Net, wanted: Sequence[str]) -> Callable[[int], dict[str, Array]]:
        """Return a function that runs one batch from the current cut to the end of a network; the frontier stays.

        Args:
            net: network that equals this frontier's network in all nodes before the current cut.
            wanted: tensors to return; those from before the cut must be held.

        Raises:
            EngineError: onnxruntime cannot run the rest of the network.
        """
        piece = segment(net, self.order, self.cut, len(self.order.order), wanted)
        session = None if piece is None else self._open(piece, max(net.header.ir_version, 4))

        def run(batch: int) -> dict[str, Array]:
            here = {name: self._take(batch, name) for name in self._held}
            if session is not None:
                here.update(session.run({name: here[name] for name in session.input_names}))
            return {name: here[name] for name in wanted}

        return run

    def narrow(self, tensor: str, axis: int, kept: Array) -> None:
        """Restrict a held tensor to the channels `kept` ((k,) int64) on `axis`."""
        if tensor in self._held:
            self._narrowed.setdefault(tensor, []).append((axis, kept))

    def _take(self, batch: int, name: str) -> Array:
        array = self._store.get((self.name, batch, name))
        for axis, kept in self._narrowed.get(name, ()):
            array = np.take(array, kept, axis=axis)
        return array

    def _with_inputs(self, advance: Callable[[int], Mapping[str, Array]]) -> Callable[[int], Mapping[str, Array]]:
        def first(batch: int) -> Mapping[str, Array]:
            for name, array in self._calibration.load(self._batches[batch].samples).items():
                self._store.put((self.name, batch, name), array)
            return advance(batch)

        self._started = True
        return first

    def _open(self, piece: Any, ir_version: int) -> Session:
        for tensor in piece.inputs:
            if tensor.dtype is None:
                tensor.dtype = self._store.get((self.name, 0, tensor.name)).dtype
        model = exported(piece, ir_version)
        return self._engine.session(model, label=f"{self.name} network from cut {self.cut}")
