"""Workload of all stages: the original network, its inputs, the engine and the memory limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.frontier import Batch
from onnxprune.engine.inputs import input_specs
from onnxprune.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from onnxprune.data import Calibration, InputSpec, Split
    from onnxprune.engine.capture import Positions
    from onnxprune.engine.meaning import Meaning
    from onnxprune.engine.sessions import Engine
    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.model.net import Net
    from onnxprune.graph.model.schedule import Schedule

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Inputs", "Workload"]


@dataclass(frozen=True)
class Inputs:
    """Inputs of a job: the model's inputs, the calibration, and the split of its samples.

    Attributes:
        specs: the model's inputs.
        calibration: the samples.
        parts: samples to fit on, to choose by, and held-out.
        outputs: meaning of each output, by name.
    """

    specs: tuple[InputSpec, ...]
    calibration: Calibration
    parts: Split
    outputs: Mapping[str, Meaning] = field(default_factory=dict)

    @property
    def fit(self) -> Indices:
        """Samples to fit on, (n,)."""
        return self.parts.fit

    @property
    def choose(self) -> Indices:
        """Samples to choose between results by, (n,)."""
        return self.parts.choose

    @property
    def held(self) -> Indices:
        """Held-out samples, to report on, (n,)."""
        return self.parts.held

    @property
    def distinct(self) -> int:
        """Number of held-out samples, near-duplicates counted once."""
        return self.parts.distinct_held


@dataclass(frozen=True, eq=False)
class Workload:
    """The original network, and the common arguments of its stages.

    Attributes:
        net: the original network, folded, every MatMul site with a bias.
        channels: channel map of `net`.
        forbidden: reasons why sites cannot be fitted, by name.
        order: order in which both networks run.
        engine: onnxruntime with its provider and threads.
        calibration: inputs.
        batches: batches of the samples to fit on.
        half_of: (samples,) int8, half (0 or 1) of each sample to fit on.
        positions: positions at which layers are sampled.
        memory: memory limit of all stages together in bytes, see `room.Room`.
        sizes: bytes of each tensor for one sample, if known.
        scratch: folder for held activations that do not fit in memory.
        progress: callback (stage, done, total, detail).
        outputs: meaning of each output of the network, by name.
    """

    net: Net
    channels: ChannelMap
    forbidden: Mapping[str, str]
    order: Schedule
    engine: Engine
    calibration: Calibration
    batches: tuple[Batch, ...]
    half_of: np.ndarray[Any, np.dtype[np.int8]]
    positions: Positions
    memory: int
    sizes: Mapping[str, int]
    scratch: Path
    progress: Progress
    outputs: Mapping[str, Meaning] = field(default_factory=dict)

    def halves(self, batch: Batch, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the half (0 or 1) of each row of a batch: equally many rows per real image, padding left out."""
        images = self.half_of[list(batch.samples[: batch.real])].astype(np.int64)
        return np.repeat(images, rows // len(images))

    @property
    def fixed(self) -> bool:
        """Whether the model fixes the batch size."""
        return any(spec.shape[0] is not None for spec in input_specs(self.net))

    def batches_of(self, half: int) -> tuple[Batch, ...]:
        """Return the batches restricted to one half; batches of a fixed size are padded with their last sample."""
        found = []
        for batch in self.batches:
            own = [sample for sample in batch.samples[: batch.real] if self.half_of[sample] == half]
            if own:
                fill = len(batch.samples) - len(own) if self.fixed else 0
                found.append(Batch((*own, *own[-1:] * fill), len(own)))
        return tuple(found)
