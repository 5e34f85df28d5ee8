"""How a network is recovered."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.errors import UsageError

__all__ = ["RecoverOptions"]


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """How a compressed network is trained on the original's answers.

    Attributes:
        epochs: passes over the inputs; None: enough for a few thousand steps.
        learning_rate: at its highest, of AdamW; it falls to nothing along a cosine, and once more, from a quarter
            of it, when all blocks are trained together.
        batch: inputs a step; None: 100, or less where inputs are few or large.
        temperature: of the softened answers of classifiers.
        features: what the tensors between the layers that both networks have weigh at first, as a share of what the
            outputs do; 0: outputs only.
        blockwise: share of the steps in which each block is trained for itself.
        augment: mirror, shift and mix inputs that are images; the original is asked about each.
        freeze: layers whose node names match these globs stay as they are.
        seed: of order and augmentation.
    """

    epochs: int | None = None
    learning_rate: float = 4e-4
    batch: int | None = None
    temperature: float = 4.0
    features: float = 0.5
    blockwise: float = 0.6
    augment: bool = True
    freeze: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--recover takes a number of epochs of 1 or more, or auto, found {self.epochs}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--train-batch must be 1 or more, found {self.batch}")
        for flag, value in (("--learning-rate", self.learning_rate), ("--temperature", self.temperature)):
            if not 0 < value < float("inf"):
                raise UsageError(f"{flag} must be above 0, found {value}")
        if not 0 <= self.features < float("inf"):
            raise UsageError(f"--features must be 0 or more, found {self.features}")
        if not 0 <= self.blockwise <= 1:
            raise UsageError(f"--blockwise must be within 0 and 1, found {self.blockwise}")
