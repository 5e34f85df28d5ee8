"""What a recovery did: plain values for the report."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.note import Note
from onnxprune.runtime.divergence import OutputDivergence

__all__ = ["Epoch", "Recovery"]


@dataclass(frozen=True)
class Epoch:
    """One pass over the inputs.

    Attributes:
        epoch: from 1 on.
        loss: mean over its steps.
        held: loss of the averaged weights at the outputs, on the inputs to choose by in several views.
        agreement: their share of these inputs with the original's class; None without classes.
    """

    epoch: int
    loss: float
    held: float
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What was done, and what came of it.

    Attributes:
        epochs: passes that were made, and planned.
        steps: of the optimiser.
        batch: inputs a step.
        device: what torch ran on.
        threads: of torch, on a CPU.
        augmentation: what was done to the inputs.
        ends: the tensors at which the loss was taken.
        features: tensors between the layers that were compared too.
        best: the epoch that the weights are from; 0: the start, since nothing was better.
        held: loss on the inputs to choose by, at the start and in the end.
        before: outputs against the original's on the inputs to report on, at the start.
        after: the same in the end.
        history: epoch by epoch.
        notes: what is to be known.
        seconds: wall time.
    """

    epochs: tuple[int, int]
    steps: int
    batch: int
    device: str
    threads: int
    augmentation: str
    ends: tuple[str, ...]
    features: tuple[str, ...]
    best: int
    held: tuple[float, float]
    before: tuple[OutputDivergence, ...] = ()
    after: tuple[OutputDivergence, ...] = ()
    history: tuple[Epoch, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0
