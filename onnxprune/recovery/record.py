"""Record of a training: plain values for the report."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.engine.divergence import OutputDivergence
from onnxprune.note import Note

__all__ = ["Epoch", "Recovery"]


@dataclass(frozen=True)
class Epoch:
    """Epoch of the training: one pass over the inputs.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean loss over its steps.
        held: loss of the averaged weights at the outputs, on several views of the inputs to choose by.
        agreement: share of these inputs with the original's class, 0..1; None without classes.
    """

    epoch: int
    loss: float
    held: float
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Record of a training.

    Attributes:
        epochs: numbers of epochs done and planned.
        steps: number of optimiser steps.
        batch: inputs per step.
        device: device of torch.
        threads: CPU threads of torch.
        augmentation: augmentation of the inputs, in words.
        ends: names of the tensors at which the loss was taken.
        features: names of the tensors between layers that were compared, too.
        lead: name of the tensor in front of the last layer that was compared in place of the outputs; None if there is
            none.
        best: epoch of the chosen weights; 0 for the start, if no epoch was better.
        held: loss on the inputs to choose by, at the start and at the end.
        before: difference of the outputs from the original's on held-out inputs, at the start.
        after: difference of the outputs from the original's on held-out inputs, at the end.
        history: epochs in order.
        notes: remarks on the training.
        seconds: wall time in seconds.
    """

    epochs: tuple[int, int]
    steps: int
    batch: int
    device: str
    threads: int
    augmentation: str
    ends: tuple[str, ...]
    features: tuple[str, ...]
    lead: str | None = None
    best: int
    held: tuple[float, float]
    before: tuple[OutputDivergence, ...] = ()
    after: tuple[OutputDivergence, ...] = ()
    history: tuple[Epoch, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0
