"""Options of a recovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from onnxprune.errors import UsageError

__all__ = ["RecoverOptions"]


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """Options of the training of a compressed network on the original's outputs.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: Annotated[int | None, Parameter(parse=False)] = None
    "Passes over the inputs; None: enough for a few thousand steps."

    seconds: Annotated[float | None, Parameter(parse=False)] = None
    "Time limit in seconds in place of `epochs`; the number of epochs follows from the pace of the first steps."

    learning_rate: float | None = None
    "Peak learning rate of AdamW, which falls along a cosine; default 4e-4, or the best of three in a short trial."

    train_batch: int | None = None
    "Inputs a step; default 100, fewer where inputs are few or large."

    temperature: float = 4.0
    "Softmax temperature of classifiers' outputs."

    features: float = 0.5
    "Weight of the loss on tensors between the layers, relative to the loss on the outputs; 0 leaves it out."

    blockwise: float = 0.6
    "Share (0..1) of the steps in which each block is trained by itself."

    augment: bool = True
    "Mirroring, shifting and mixing of inputs that are images; the original is run on each."

    freeze: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "Node names or globs of layers that are not trained; default none."

    seed: Annotated[int, Parameter(parse=False)] = 0
    "Seed of order and augmentation."

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--recover takes a number of epochs of 1 or more, or auto, found {self.epochs}")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UsageError(f"--recover takes a time above 0, found {self.seconds:g} s")
        if self.epochs is not None and self.seconds is not None:
            raise UsageError("a recovery takes a number of epochs or a time, not both")
        if self.train_batch is not None and self.train_batch < 1:
            raise UsageError(f"--train-batch must be 1 or more, found {self.train_batch}")
        for flag, value in (("--learning-rate", self.learning_rate), ("--temperature", self.temperature)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{flag} must be above 0, found {value}")
        if not 0 <= self.features < float("inf"):
            raise UsageError(f"--features must be 0 or more, found {self.features}")
        if not 0 <= self.blockwise <= 1:
            raise UsageError(f"--blockwise must be within 0 and 1, found {self.blockwise}")
