"""What all stages work on, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from onnxprune.data import Calibration, InputSpec
    from onnxprune.graph.channels import ChannelMap
    from onnxprune.graph.net import Net
    from onnxprune.graph.schedule import Schedule
    from onnxprune.runtime.capture import Positions
    from onnxprune.runtime.frontier import Batch
    from onnxprune.runtime.sessions import Engine

    Array = np.ndarray[Any, np.dtype[np.float64]]
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
    """The model's inputs, the calibration, and which of its samples are fitted on and held back."""

    specs: tuple[InputSpec, ...]
    calibration: Calibration
    fit: Indices
    held: Indices


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
        positions: where layers are sampled.
        memory: bytes that all stages together may take, see `room.Room`.
        sizes: bytes of each tensor for one sample, where they are known.
        scratch: folder for what does not fit in memory.
        progress: told how far a stage is.
        weights: per site name (outputs,), what errors of its outputs weigh; all alike where it is not there.
    """

    net: Net
    channels: ChannelMap
    forbidden: Mapping[str, str]
    order: Schedule
    engine: Engine
    calibration: Calibration
    batches: tuple[Batch, ...]
    positions: Positions
    memory: int
    sizes: Mapping[str, int]
    scratch: Path
    progress: Progress
    weights: Mapping[str, Array] = field(default_factory=dict)

    def halves(self, batch: Batch, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Half (0: even image, 1: odd) of each of the rows that its real images gave, image by image."""
        images = np.array(batch.samples[: batch.real], dtype=np.int64) % 2
        return np.repeat(images, rows // len(images))
