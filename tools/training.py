"""Training a classifier from scratch, for a fixed number of epochs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, and a learning rate that rises and falls once."""

    seed: int = 0
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.1
    """Share of the steps on which the learning rate rises."""


def train(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    augment: Callable[[torch.Tensor], torch.Tensor],
    name: str,
) -> nn.Module:
    """Train `model` on inputs (N, C, H, W) and labels (N,) int64; it comes back ready to answer.

    ``augment`` changes the inputs of a batch at random; ``name`` stands in the line that says how far it is.
    """
    # What is left over after the last whole batch waits for another epoch's order.
    batches = len(inputs) // recipe.batch
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.epochs * batches,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    started = time.perf_counter()
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        for picked in torch.randperm(len(inputs))[: batches * recipe.batch].reshape(batches, -1):
            loss = functional.cross_entropy(model(augment(inputs[picked])), labels[picked])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        left = (time.perf_counter() - started) / epoch * (recipe.epochs - epoch)
        _show(f"{name}: epoch {epoch} of {recipe.epochs}, loss {loss.item():.3f}, {left:.0f} s left")
    _show("")
    return model.eval()


def _show(line: str) -> None:
    """Rewrite the progress line on a terminal; print nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{line:<79}\r", end="", file=sys.stderr, flush=True)
