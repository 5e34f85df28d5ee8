"""What all stages work on, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxprune.runtime.frontier import Batch
from onnxprune.runtime.inputs import input_specs

if TYPE_CHECKING:
    from pathlib import Path

    from onnxprune.data import Calibration, InputSpec, Split
    from onnxprune.graph.channels import ChannelMap
    from onnxprune.graph.net import Net
    from onnxprune.graph.schedule import Schedule
    from onnxprune.runtime.capture import Positions
    from onnxprune.runtime.meaning import Meaning
    from onnxprune.runtime.sessions import Engine

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Inputs", "Progress", "Workload", "silent"]


class Progress(Protocol):
    """Called with the stage, how much of it is done, how much there is, and from some stages how it goes in words."""

    def __call__(self, stage: str, done: int, total: int, detail: str = ..., /) -> None:
        """Show it."""


def silent(stage: str, done: int, total: int, detail: str = "", /) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Inputs:
    """What a job reads: the model's inputs, the calibration, and which of its samples serve for what.

    Attributes:
        specs: the model's inputs.
        calibration: the samples.
        parts: which samples are fitted on, chosen by and reported on.
        outputs: what each output means, by name.
    """

    specs: tuple[InputSpec, ...]
    calibration: Calibration
    parts: Split
    outputs: Mapping[str, Meaning] = field(default_factory=dict)

    @property
    def fit(self) -> Indices:
        """(n,) samples to fit on."""
        return self.parts.fit

    @property
    def choose(self) -> Indices:
        """(n,) samples to choose by."""
        return self.parts.choose

    @property
    def held(self) -> Indices:
        """(n,) samples to report on."""
        return self.parts.held

    @property
    def distinct(self) -> int:
        """Number of samples to report on, near-duplicates counted once."""
        return self.parts.distinct_held


@dataclass(frozen=True, eq=False)
class Workload:
    """The original network, and what its stages have in common.

    Attributes:
        net: folded, every MatMul site with a bias.
        channels: its channel map.
        forbidden: names of sites that cannot be fitted, and why.
        order: the order in which both networks run.
        engine: onnxruntime.
        calibration: inputs.
        batches: those to fit on.
        half_of: (samples,) half (0 or 1) of each sample that is fitted on.
        positions: where layers are sampled.
        memory: bytes that all stages together may take, see `room.Room`.
        sizes: bytes of each tensor for one sample, where they are known.
        scratch: folder for what does not fit in memory.
        progress: told how far a stage is.
        outputs: what each output of the network means, by name.
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
        """Half (0 or 1) of each of the rows that the real images of a batch gave, image by image."""
        images = self.half_of[list(batch.samples[: batch.real])].astype(np.int64)
        return np.repeat(images, rows // len(images))

    @property
    def fixed(self) -> bool:
        """Whether the model runs batches of one size only."""
        return any(spec.shape[0] is not None for spec in input_specs(self.net))

    def batches_of(self, half: int) -> tuple[Batch, ...]:
        """Batches of the samples of one half; batches of a fixed size are filled up with their last sample."""
        found = []
        for batch in self.batches:
            own = [sample for sample in batch.samples[: batch.real] if self.half_of[sample] == half]
            if own:
                fill = len(batch.samples) - len(own) if self.fixed else 0
                found.append(Batch((*own, *own[-1:] * fill), len(own)))
        return tuple(found)
