"""Training loop: AdamW, averaged weights, the best state by the loss on the inputs to choose by.

Two stages, each with a cosine schedule of the learning rate to zero: block-wise, then end to end. The second stage has
a smaller peak learning rate: at the peak of the first, it would first lose what the blocks have learnt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from onnxprune.note import Note
from onnxprune.options.recovery import RecoverOptions
from onnxprune.recovery.augment import Augmentation
from onnxprune.recovery.loss import Loss
from onnxprune.recovery.record import Epoch
from onnxprune.recovery.state import Progress, load_state, save_state
from onnxprune.torchnet.device import tensors_of
from onnxprune.torchnet.program import TorchNet

if TYPE_CHECKING:
    from onnxprune.cache import Checkpoint
    from onnxprune.progress import Progress as Show

Array = np.ndarray[Any, Any]
Loader = Callable[[Sequence[int]], Mapping[str, Array]]
Tensors = Mapping[str, Tensor]
Teacher = Callable[[Mapping[str, Array]], Mapping[str, Array]]

__all__ = ["Course", "Sources", "Trainer"]

_RATES = 4e-4, 1e-4, 2.5e-5  # peak learning rates to try; the first for courses that begin block-wise
_TRIAL_STEPS, _LEAST_TRIAL, _TRIAL_SHARE = 30, 5, 20  # steps of a trial at most and at least; one in so many of all
_PACED_STEPS = 4  # whose time says how many fit into a given time
_NEARLY = 0.95  # of the largest fall of the loss in a trial
_WARM_UP = 0.03  # share of a stage's steps
_TOGETHER = 0.25  # share of the peak learning rate, after the block-wise stage
_LARGEST_GRADIENT = 5.0
_AVERAGED_OVER = 1000  # steps, once there are many more
_SAVE_SECONDS = 180.0
_GENTLEST = 1 / 64  # of the learning rate that was asked for
_VIEWS = 4  # views of every input to choose by: few inputs tell little, and training sees many views, too
_PATIENCE = 2  # half of all epochs without anything better,
_LEAST_PATIENCE = 5, 500  # but at least so many epochs and steps
_LATEST_SHOWN = 50  # steps in the mean that is shown


@dataclass(frozen=True)
class Course:
    """Length of a training, and its batches.

    Attributes:
        epochs: number of passes over the inputs.
        batch: inputs per step.
        fixed: True if every batch must have exactly `batch` inputs.
        fit: indices to train on, (n,).
        held: indices to choose by, (m,).
    """

    epochs: int
    batch: int
    fixed: bool
    fit: np.ndarray[Any, np.dtype[np.int64]]
    held: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def steps(self) -> int:
        """Number of steps per epoch."""
        return max(len(self.fit) // self.batch, 1)

    @property
    def patience(self) -> int:
        """Number of epochs without an improvement after which the training is restarted or stopped."""
        epochs, steps = _LEAST_PATIENCE
        return max(self.epochs // _PATIENCE, epochs, math.ceil(steps / self.steps))

    def picked(self, seed: int, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, in random order; an incomplete batch is left out."""
        order = np.random.default_rng((seed, epoch)).permutation(self.fit)
        size = self.batch if self.fixed else min(self.batch, len(order))
        return np.resize(order, self.steps * size).reshape(self.steps, size).tolist()

    def judged(self) -> Iterator[tuple[list[int], int]]:
        """Yield batches of the inputs to choose by, and the number of real inputs in each."""
        for start in range(0, len(self.held), self.batch):
            chosen = [int(index) for index in self.held[start : start + self.batch]]
            fill = self.batch - len(chosen) if self.fixed else 0
            yield chosen + chosen[-1:] * fill, len(chosen)


@dataclass(frozen=True)
class Sources:
    """Sources of the training data.

    Attributes:
        teacher: function from inputs to the original's tensors.
        load: function from indices to inputs.
        course: length of the training, and its batches.
        augmentation: augmentation of the inputs.
    """

    teacher: Teacher
    load: Loader
    course: Course
    augmentation: Augmentation


class Trainer:
    """Training of a network by the loss between its outputs and the original's."""

    def __init__(
        self,
        student: TorchNet,
        sources: Sources,
        loss: Loss,
        options: RecoverOptions,
        checkpoint: Checkpoint,
        show: Show,
    ) -> None:
        """Set up the training.

        Args:
            student: network to train, on its device and changed in place.
            sources: inputs and the original's outputs.
            loss: loss between the outputs.
            options: options of the training.
            checkpoint: storage of the state of an interrupted training.
            show: callback (stage, done, total, detail).
        """
        self._student, self._loss, self._options = student, loss, options
        self._teacher, self._load, self._augmentation = sources.teacher, sources.load, sources.augmentation
        self._course, self._checkpoint, self._show = sources.course, checkpoint, show
        self._weights: list[Tensor] = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._device = self._weights[0].device
        self._shadow = AveragedModel(student, multi_avg_fn=_averaged)
        self._average: list[Tensor] = [parameter for parameter in self._shadow.parameters() if parameter.requires_grad]
        self._best = [weight.detach().clone() for weight in self._weights]
        self._optimizer = torch.optim.AdamW(self._weights, lr=_RATES[0], weight_decay=1e-4, fused=True)
        self._names = list(loss.names)
        self._rate = options.learning_rate or _RATES[0]
        self._parts = {"weights": self._weights, "average": self._average, "best": self._best}
        self._agreement: float | None = None
        self._begun = self._saved = 0.0
        self._judging = 0.0  # seconds of a judgement, without the original's part
        self._answers: list[dict[str, Tensor]] = []  # outputs of the original on the inputs to choose by
        self.notes: list[Note] = []

    def run(self) -> tuple[Progress, float]:
        """Train the student, and leave it with the best weights found, the initial ones included.

        Returns:
            Progress of the training, and the loss on the inputs to choose by at the start.
        """
        begun = time.perf_counter()
        start, self._agreement = self._judge()
        progress = load_state(self._checkpoint, self._parts, self._optimizer)
        if progress is None:
            progress = Progress(best_held=start, rate=self._tried(start))
            progress.epochs = self._affordable(time.perf_counter() - begun)
            progress.seconds = time.perf_counter() - begun
        elif progress.step:
            self.notes.append(Note("recovery", f"went on at step {progress.step} of an earlier run like it"))
        self._course, self._rate = replace(self._course, epochs=progress.epochs), progress.rate
        self._saved = time.perf_counter()
        self._begun = self._saved - progress.seconds
        while not progress.stopped and len(progress.history) < self._course.epochs:
            self._epoch(progress)
        progress.seconds = time.perf_counter() - self._begun
        save_state(self._checkpoint, progress, self._parts, self._optimizer)
        if progress.gentler < 1:
            rate = progress.gentler * self._rate
            self.notes.append(Note("recovery", f"began again with a learning rate of {rate:.1g}: nothing was better"))
        if progress.stopped:
            epochs = len(progress.history)
            self.notes.append(Note("recovery", f"stopped after epoch {epochs}: nothing better for a while"))
        self._put(self._weights, self._best)
        return progress, start

    def _epoch(self, progress: Progress) -> None:
        """Train one epoch, or the rest of an interrupted one, and judge the averaged weights."""
        epoch, course = len(progress.history), self._course
        total = course.epochs * course.steps
        places = range(max(progress.step - epoch * course.steps, 0), course.steps)
        for tensors in self._batches(epoch, places):
            value = self._step(*tensors, progress, total)
            progress.step += 1
            if not math.isfinite(value):
                self._gentler(progress, epoch + 1)
                continue
            progress.losses.append(value)
            recent = float(np.mean(progress.losses[-_LATEST_SHOWN:]))
            agreed = "" if self._agreement is None else f", agreement {self._agreement:.1%}"
            self._show("recover", progress.step, total, f"loss {recent:.4f}{agreed}")
            progress.seconds = time.perf_counter() - self._begun
            if time.perf_counter() - self._saved > _SAVE_SECONDS:
                save_state(self._checkpoint, progress, self._parts, self._optimizer)
                self._saved = time.perf_counter()
        held, self._agreement = self._judge()
        mean = float(np.mean(progress.losses)) if progress.losses else float("nan")
        progress.history.append(Epoch(epoch + 1, mean, held, self._agreement))
        progress.losses = []
        if held < progress.best_held:
            progress.best, progress.best_held = epoch + 1, held
            self._put(self._best, self._average)
        if epoch + 1 - max(progress.best, progress.since) >= course.patience:
            if progress.best:
                progress.stopped = True
            else:
                self._gentler(progress, epoch + 1)

    def _gentler(self, progress: Progress, epoch: int) -> None:
        """Restart from the best weights with a lower learning rate; stop if it is at its minimum already."""
        progress.stopped = progress.gentler <= _GENTLEST
        progress.gentler, progress.since = progress.gentler / 4, epoch
        self._put(self._weights, self._best)
        self._put(self._average, self._best)
        self._optimizer.state.clear()

    @staticmethod
    @torch.no_grad()
    def _put(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source.detach())

    def _batches(self, epoch: int, places: Sequence[int]) -> Iterator[tuple[Tensors, Tensors]]:
        """Yield augmented inputs and the original's tensors on them, the next ones made while a step is taken."""
        picked = self._course.picked(self._options.seed, epoch)

        def made(place: int) -> tuple[Tensors, Tensors]:
            generator = np.random.default_rng((self._options.seed, epoch, place))
            feeds = self._augmentation(self._load(picked[place]), generator)
            return tensors_of(feeds, self._device), tensors_of(self._teacher(feeds), self._device)

        if torch.get_num_threads() == 1 and self._device.type == "cpu":  # there is no core for it
            yield from map(made, places)
            return
        with ThreadPoolExecutor(1) as beside:
            waiting = None
            for place in places:
                following = beside.submit(made, place)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def _first_batches(self, steps: int) -> Iterator[tuple[Tensors, Tensors]]:
        """Yield the batches of the first steps."""
        for epoch in range(math.ceil(steps / self._course.steps)):
            yield from self._batches(epoch, range(min(self._course.steps, steps - epoch * self._course.steps)))

    def _step(self, feeds: Tensors, wanted: Tensors, progress: Progress, total: int) -> float:
        """Take one of `total` steps; return the loss before it."""
        blocks = self._blocks(total)
        if progress.step == blocks:
            self._optimizer.state.clear()
        rate = self._rate * progress.gentler * _share(progress.step, blocks, total)
        value = self._update(feeds, wanted, rate, alone=progress.step < blocks)
        self._average_over(max(progress.step - progress.since * self._course.steps, 0))
        return value

    def _blocks(self, total: int) -> int:
        """Return the number of steps in which each block is trained by itself."""
        return math.ceil(self._options.blockwise * total) if self._loss.features else 0

    def _update(self, feeds: Tensors, wanted: Tensors, rate: float, *, alone: bool = False) -> float:
        """Update the weights by one batch; `alone`: each block by itself. Return the loss before."""
        with _autocast(self._device):
            found = self._student.run(feeds, self._names, self._loss.features if alone else ())
        value = (self._loss.blockwise if alone else self._loss.whole)(wanted, found)
        self._optimizer.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(self._weights, _LARGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return float(value.detach())

    def _average_over(self, done: int) -> None:
        """Update the averaged weights after `done` earlier updates."""
        self._shadow.n_averaged.fill_(1 + done)
        self._shadow.update_parameters(self._student)

    def _tried(self, start: float) -> float:
        """Return the peak learning rate: the one given, or one of a few, each tried for some steps from the start.

        A few steps favour the lower rates, which then take long: the highest rate is taken whose loss falls nearly as
        far from ``start`` as the lowest.
        """
        course = self._course
        total = course.epochs * course.steps
        steps = min(_TRIAL_STEPS, total // _TRIAL_SHARE)
        if self._options.learning_rate is not None or steps < _LEAST_TRIAL or self._blocks(total):
            return self._rate
        held: dict[float, float] = {}
        for number, rate in enumerate(_RATES):
            for step, tensors in enumerate(self._first_batches(steps)):
                self._show("try learning rates", number * steps + step, len(_RATES) * steps, f"{rate:.1g}")
                value = self._update(*tensors, rate * min((step + 1) / _LEAST_TRIAL, 1.0))
                if not math.isfinite(value):
                    break
                self._average_over(step)
            held[rate] = self._judge()[0] if math.isfinite(value) else math.inf
            self._put(self._weights, self._best)
            self._put(self._average, self._best)
            self._optimizer.state.clear()
        self._show("try learning rates", len(_RATES) * steps, len(_RATES) * steps, "")
        gains = {rate: start - loss for rate, loss in held.items()}
        best = next((rate for rate in _RATES if gains[rate] >= _NEARLY * max(gains.values())), _RATES[-1])
        told = ", ".join(f"{rate:.1g}: {loss:.3g}" for rate, loss in held.items())
        self.notes.append(Note("recovery", f"peak learning rate {best:.1g}, by the loss after {steps} steps ({told})"))
        return best

    def _affordable(self, spent: float) -> int:
        """Return the number of epochs: those of the course, or as many as fit into the time that is left.

        A few steps at a learning rate of 0, which changes nothing, are timed for it.
        """
        course, seconds = self._course, self._options.seconds
        if seconds is None:
            return course.epochs
        begun = started = time.perf_counter()
        steps = min(_PACED_STEPS, course.steps)
        for step, tensors in enumerate(self._first_batches(1 + steps)):
            self._update(*tensors, 0.0, alone=self._blocks(course.epochs * course.steps) > 0)
            if step == 0:  # which also allocates
                started = time.perf_counter()
        ended = time.perf_counter()
        self._optimizer.state.clear()
        pace = (ended - started) / steps
        return max(int((seconds - spent - (ended - begun)) / (pace * course.steps + self._judging)), 1)

    @torch.no_grad()
    def _judge(self) -> tuple[float, float | None]:
        """Judge the averaged weights on views of the inputs to choose by.

        Returns:
            Loss at the outputs, and the share of the inputs, not augmented, with the original's class; None without
            classes.
        """
        total, count, agreed, classified = 0.0, 0, 0.0, 0
        begun, asked = time.perf_counter(), 0.0
        for place, (view, chosen, real) in enumerate(self._held_views()):
            arrays = self._load(chosen)
            if view:
                generator = np.random.default_rng((self._options.seed, view, *chosen))
                arrays = self._augmentation(arrays, generator)
            if place == len(self._answers):
                start = time.perf_counter()
                answers = self._teacher(arrays)
                asked += time.perf_counter() - start
                kept = {end.tensor: answers[end.tensor] for end in self._loss.ends}
                self._answers.append(tensors_of(kept, self._device))
            wanted = self._answers[place]
            found = cast("TorchNet", self._shadow.module).run(tensors_of(arrays, self._device), list(wanted))
            rows = {name: tensor[:real] for name, tensor in found.items()}
            truth = {name: tensor[:real] for name, tensor in wanted.items()}
            total += real * float(self._loss.at_ends(truth, rows))
            count += real
            for end in self._loss.ends:
                if end.classes is not None and not view:
                    same = truth[end.tensor].argmax(end.classes) == rows[end.tensor].argmax(end.classes)
                    agreed += real * float(same.float().mean())
                    classified += real
        self._judging = time.perf_counter() - begun - asked
        return total / max(count, 1), agreed / classified if classified else None

    def _held_views(self) -> Iterator[tuple[int, list[int], int]]:
        """Yield the number of the view (0: not augmented), a batch of the inputs to choose by, and its real inputs."""
        views = _VIEWS if self._augmentation.name is not None else 1
        for view in range(views):
            for chosen, real in self._course.judged():
                yield view, chosen, real


@torch.no_grad()
def _averaged(average: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
    """Update an exponential moving average that follows the weights closely at first.

    Args:
        average: the average so far, changed in place.
        weights: current weights.
        count: number of updates, this one included.
    """
    done = int(count) - 1
    decay = min(1 - 1 / _AVERAGED_OVER, (1 + done) / (10 + done))
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)


def _share(step: int, blocks: int, total: int) -> float:
    """Return the factor on the peak learning rate at a step; the first `blocks` steps are the block-wise stage."""
    together = _TOGETHER if blocks else 1.0
    top, start, end = (1.0, 0, blocks) if step < blocks else (together, blocks, total)
    done = (step - start + 0.5) / (end - start)
    if done < _WARM_UP:
        return top * done / _WARM_UP
    return top * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _autocast(device: torch.device) -> torch.autocast:
    """Return a context for bfloat16 if the GPU supports it."""
    usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=usable)
