"""The training itself: AdamW along a cosine, averaged weights, the best state by held-back loss."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onnxprune.note import Note
from onnxprune.recovery.augment import Augmentation
from onnxprune.recovery.loss import Loss
from onnxprune.recovery.options import RecoverOptions
from onnxprune.recovery.program import TorchNet
from onnxprune.recovery.record import Epoch
from onnxprune.recovery.state import Progress, load_state, save_state

if TYPE_CHECKING:
    from onnxprune.stages.workload import Progress as Show

Array = np.ndarray[Any, Any]
Loader = Callable[[Sequence[int]], Mapping[str, Array]]
Teacher = Callable[[Mapping[str, Array]], Mapping[str, Array]]

__all__ = ["Course", "Trainer", "tensors_of"]

_WARM_UP = 0.02  # share of the steps
_LARGEST_GRADIENT = 5.0
_AVERAGED_OVER = 1000  # steps, once there are many more
_SAVE_SECONDS = 180.0
_PATIENCE = 3  # a third of all epochs without anything better,
_LEAST_PATIENCE = 5, 500  # but at least so many epochs and steps
_LATEST_SHOWN = 50  # steps in the mean that is shown


@dataclass(frozen=True)
class Course:
    """How long, and in what pieces.

    Attributes:
        epochs: passes over the inputs.
        batch: inputs a step.
        fixed: every batch must have exactly so many.
        fit: (n,) indices to train on.
        held: (m,) indices to judge by.
    """

    epochs: int
    batch: int
    fixed: bool
    fit: np.ndarray[Any, np.dtype[np.int64]]
    held: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return max(len(self.fit) // self.batch, 1)

    @property
    def patience(self) -> int:
        """Epochs without anything better after which it ends."""
        epochs, steps = _LEAST_PATIENCE
        return max(self.epochs // _PATIENCE, epochs, math.ceil(steps / self.steps))

    def picked(self, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch; what is left over waits for another epoch's order."""
        order = np.random.default_rng((seed, epoch)).permutation(self.fit)
        size = self.batch if self.fixed else min(self.batch, len(order))
        return np.resize(order, self.steps * size).reshape(self.steps, size).tolist()

    def judged(self) -> Iterator[tuple[list[int], int]]:
        """Batches of held-back inputs, and how many of each count."""
        for start in range(0, len(self.held), self.batch):
            chosen = [int(index) for index in self.held[start : start + self.batch]]
            fill = self.batch - len(chosen) if self.fixed else 0
            yield chosen + chosen[-1:] * fill, len(chosen)


def tensors_of(arrays: Mapping[str, Array], device: torch.device) -> dict[str, Tensor]:
    """Arrays as torch takes them."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


class Trainer:
    """A network, the original's answers, and the loss between them."""

    def __init__(
        self,
        student: TorchNet,
        teacher: Teacher,
        load: Loader,
        loss: Loss,
        course: Course,
        options: RecoverOptions,
        augmentation: Augmentation,
        folder: Path | None,
        show: Show,
    ) -> None:
        """``student``: on its device, changed in place; ``load``: inputs by index; ``folder``: for what a killed run
        leaves behind, or None."""
        self._student, self._teacher, self._load, self._loss = student, teacher, load, loss
        self._course, self._options, self._augmentation = course, options, augmentation
        self._folder, self._show = folder, show
        self._weights: list[Tensor] = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._device = self._weights[0].device
        self._shadow = copy.deepcopy(student)  # the weights' average
        self._average: list[Tensor] = [parameter for parameter in self._shadow.parameters() if parameter.requires_grad]
        self._best = [weight.detach().clone() for weight in self._weights]
        self._optimizer = torch.optim.AdamW(self._weights, lr=options.learning_rate, weight_decay=1e-4, fused=True)
        self._names = list(dict.fromkeys([*(end.tensor for end in loss.ends), *loss.features]))
        self._judged: list[tuple[dict[str, Tensor], dict[str, Tensor], int]] = []
        self.notes: list[Note] = []

    def run(self) -> tuple[Progress, float]:
        """Train; the student then has the best weights that were found, its own at the start among them.

        Returns:
            How it went, and the loss on held-back inputs at the start.
        """
        parts: dict[str, Sequence[Tensor]] = {"weights": self._weights, "average": self._average, "best": self._best}
        start_loss, agreement = self._judge(self._shadow)
        progress = load_state(self._folder, parts, self._optimizer)
        if progress is not None and progress.step:
            self.notes.append(Note("recovery", f"went on at step {progress.step} of an earlier run like it"))
        progress = progress or Progress(best_held=start_loss)
        begun, saved = time.perf_counter() - progress.seconds, time.perf_counter()
        course, options = self._course, self._options
        total = course.epochs * course.steps
        for epoch in range(progress.step // course.steps, 0 if progress.stopped else course.epochs):
            for place, picked in enumerate(course.picked(options.seed, epoch)):
                if epoch * course.steps + place < progress.step:
                    continue
                value = self._step(epoch, place, picked, progress.step / total)
                if not math.isfinite(value):
                    return self._stopped(progress, epoch, start_loss)
                progress.losses.append(value)
                progress.step += 1
                recent = float(np.mean(progress.losses[-_LATEST_SHOWN:]))
                agreed = "" if agreement is None else f", agreement {agreement:.1%}"
                self._show("recover", progress.step, total, f"loss {recent:.4f}{agreed}")
                progress.seconds = time.perf_counter() - begun
                if time.perf_counter() - saved > _SAVE_SECONDS:
                    save_state(self._folder, progress, parts, self._optimizer)
                    saved = time.perf_counter()
            held, agreement = self._judge(self._shadow)
            mean = float(np.mean(progress.losses)) if progress.losses else float("nan")
            progress.history.append(Epoch(epoch + 1, mean, held, agreement))
            progress.losses = []
            if held < progress.best_held:
                progress.best, progress.best_held = epoch + 1, held
                self._keep()
            if epoch + 1 - progress.best >= course.patience:
                progress.stopped = True
                break
        if progress.stopped:
            epochs = len(progress.history)
            self.notes.append(Note("recovery", f"stopped after epoch {epochs}: nothing better for a while"))
        progress.seconds = time.perf_counter() - begun
        save_state(self._folder, progress, parts, self._optimizer)
        self._restore()
        return progress, start_loss

    def _stopped(self, progress: Progress, epoch: int, start_loss: float) -> tuple[Progress, float]:
        self.notes.append(
            Note("recovery", f"stopped in epoch {epoch + 1}: the loss is not finite; try a lower --learning-rate")
        )
        self._restore()
        return progress, start_loss

    def _step(self, epoch: int, place: int, picked: Sequence[int], done: float) -> float:
        """One step; the loss before it."""
        generator = np.random.default_rng((self._options.seed, epoch, place))
        feeds = self._augmentation(self._load(picked), generator)
        wanted = tensors_of(self._teacher(feeds), self._device)
        alone = done < self._options.blockwise and bool(self._loss.features)
        with _autocast(self._device):
            cuts = self._loss.features if alone else ()
            found = self._student.run(tensors_of(feeds, self._device), self._names, cuts)
        value = (self._loss.blockwise if alone else self._loss.whole)(wanted, found)
        self._optimizer.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(self._weights, _LARGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * _share(done)
        self._optimizer.step()
        step = epoch * self._course.steps + place
        decay = min(1 - 1 / _AVERAGED_OVER, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        return float(value.detach())

    @torch.no_grad()
    def _judge(self, net: TorchNet) -> tuple[float, float | None]:
        """Loss at the outputs on held-back inputs, and the share of them with the same class, where there are any."""
        if not self._judged:
            for chosen, real in self._course.judged():
                arrays = self._load(chosen)
                answers = self._teacher(arrays)
                kept = {end.tensor: answers[end.tensor] for end in self._loss.ends}
                self._judged.append((tensors_of(arrays, self._device), tensors_of(kept, self._device), real))
        total, count, agreed, classified = 0.0, 0, 0.0, 0
        for feeds, wanted, real in self._judged:
            found = net.run(feeds, list(wanted))
            rows = {name: tensor[:real] for name, tensor in found.items()}
            truth = {name: tensor[:real] for name, tensor in wanted.items()}
            total += real * float(self._loss.at_ends(truth, rows))
            count += real
            for end in self._loss.ends:
                if end.classes is not None:
                    same = truth[end.tensor].argmax(end.classes) == rows[end.tensor].argmax(end.classes)
                    agreed += real * float(same.float().mean())
                    classified += real
        return total / max(count, 1), agreed / classified if classified else None

    def _keep(self) -> None:
        for best, average in zip(self._best, self._average, strict=True):
            best.copy_(average.detach())

    @torch.no_grad()
    def _restore(self) -> None:
        for weight, best in zip(self._weights, self._best, strict=True):
            weight.copy_(best)


def _share(done: float) -> float:
    """Of the learning rate, after a share of all steps."""
    if done < _WARM_UP:
        return (done + 1e-3) / (_WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU has it."""
    usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=usable)
