"""State of an interrupted training, to continue it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onnxprune.cache import Checkpoint
from onnxprune.recovery.record import Epoch

__all__ = ["Progress", "load_state", "save_state"]

_NAME = "training"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """Progress of a training that does not follow from its seed.

    Attributes:
        step: number of steps done.
        losses: losses of the steps of the current epoch.
        history: epochs done.
        best: best epoch; 0 for the start.
        best_held: loss of the best epoch on the inputs to choose by.
        seconds: wall time so far in seconds.
        stopped: True if the training stopped early, without an improvement.
        gentler: factor on the peak learning rate, lowered when nothing improved.
        since: epoch in which the current learning rate began.
        rate: peak learning rate.
        epochs: number of epochs planned.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    best_held: float = float("inf")
    seconds: float = 0.0
    stopped: bool = False
    gentler: float = 1.0
    since: int = 0
    rate: float = 0.0
    epochs: int = 0


def save_state(
    checkpoint: Checkpoint,
    progress: Progress,
    parts: Mapping[str, Sequence[Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Save the state of a training; a failure to write, such as a full disk, is ignored."""
    tensors = {f"{part}.{i}": t.detach() for part, listed in parts.items() for i, t in enumerate(listed)}
    state = optimizer.state_dict()["state"]
    for index, entry in state.items():
        tensors |= {f"adam.{name}.{index}": entry[name] for name in _MOMENTS}
    kept = {**vars(progress), "history": [vars(epoch) for epoch in progress.history]}
    checkpoint.save(_NAME, {name: tensor.cpu().numpy() for name, tensor in tensors.items()}, kept)


def load_state(
    checkpoint: Checkpoint, parts: Mapping[str, Sequence[Tensor]], optimizer: torch.optim.Optimizer
) -> Progress | None:
    """Restore a saved state: tensors into `parts`, moments into the optimiser; None if there is no usable state."""
    saved = checkpoint.load(_NAME)
    if saved is None:
        return None
    try:
        kept: dict[str, Any] = saved.facts
        tensors = {name: torch.from_numpy(array) for name, array in saved.arrays.items()}
        state = optimizer.state_dict()
        count = len(parts["weights"])
        loaded = {part: [tensors[f"{part}.{i}"] for i in range(len(listed))] for part, listed in parts.items()}
        if "adam.step.0" in tensors:
            state["state"] = {i: {n: tensors[f"adam.{n}.{i}"] for n in _MOMENTS} for i in range(count)}
        if any(a.shape != b.shape for part in parts for a, b in zip(parts[part], loaded[part], strict=True)):
            return None
        kept["history"] = [Epoch(**epoch) for epoch in kept["history"]]
        progress = Progress(**kept)
    except (ValueError, KeyError, TypeError):
        return None
    optimizer.load_state_dict(state)
    for weight, entry in optimizer.state.items():  # the optimiser takes for granted that they are laid out alike
        entry |= {name: torch.empty_like(weight).copy_(entry[name]) for name in _MOMENTS if name != "step"}
    with torch.no_grad():
        for part, listed in parts.items():
            for tensor, values in zip(listed, loaded[part], strict=True):
                tensor.copy_(values)
    return progress
