"""Distillation: training a small network on the outputs of the original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxprune.cache import Checkpoint
from onnxprune.engine.batching import group_batches
from onnxprune.errors import ModelError, VerifyError
from onnxprune.graph.model.net import dims, is_constant, values_of
from onnxprune.graph.model.outputs import last_layer
from onnxprune.graph.model.save import finished_model
from onnxprune.note import Note
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.run import Options
from onnxprune.recovery.augment import augmentation_for
from onnxprune.recovery.ends import loss_ends
from onnxprune.recovery.features import common_tensors, leading_tensor
from onnxprune.recovery.loss import balanced_loss
from onnxprune.recovery.record import Recovery
from onnxprune.recovery.train import Course, Sources, Trainer
from onnxprune.steps.verify import compare_outputs
from onnxprune.torchnet.device import device_beside, memory_kept, tensors_of, torch_threads
from onnxprune.torchnet.program import TorchNet, affordable, with_weights_of
from onnxprune.torchnet.trainable import balanced, trainable

if TYPE_CHECKING:
    from onnxprune.data import Calibration
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.sessions import Engine
    from onnxprune.graph.model.net import Net
    from onnxprune.progress import Progress
    from onnxprune.steps.inputs import Inputs

Array = np.ndarray[Any, Any]
Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["recovered"]

_STEPS = 4000  # of a course whose length is left to us
_LEAST_EPOCHS, _MOST_EPOCHS = 10, 400
_BATCH, _LEAST_STEPS = 100, 20  # inputs a step at most, steps an epoch at least
_LARGE, _LARGE_BATCH = 3 * 64 * 64, 32  # values of an input from which fewer inputs make a step
_SEEN_BATCHES = 4  # that the weights of the loss are chosen on
_TOLERANCE = 1e-3  # of torch's outputs against onnxruntime's, relative to the largest value
_MEMORY_SHARE = 4


def recovered(
    original: Net,
    smaller: Net,
    inputs: Inputs,
    engine: Engine,
    options: Options,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[onnx.ModelProto, Recovery]:
    """Train the small network on the original's outputs.

    Args:
        original: the teacher, its normalisations folded.
        smaller: the network to train, its normalisations folded; inputs and outputs have the original's names and
            shapes.
        inputs: samples to train on, to choose by, and held-out.
        engine: onnxruntime, which runs the original.
        options: options of the run; ``recover`` holds those of the training.
        checkpoint: storage of the state of an interrupted training.
        progress: callback (stage, done, total, detail).

    Returns:
        The model with the best weights found, and the record; on the inputs to choose by, it is never worse than at the
        start.

    Raises:
        ModelError: torch cannot run the network, or nothing of it can be trained.
        VerifyError: torch and onnxruntime give different outputs.
    """
    training, memory = options.recover or RecoverOptions(), options.memory_bytes
    weights = trainable(smaller, training.freeze)
    if not weights:
        raise ModelError(f"{smaller.source}: no weights that can be trained: leave --recover out")
    ends, notes = loss_ends(smaller, weights, original.tensors(), inputs.outputs)
    names = [end.tensor for end in ends]
    absent = [name for name in names if name not in original.tensors()]
    if absent:
        raise ModelError(f"{smaller.source}: the original has no tensor '{absent[0]}' to compare with")
    features = common_tensors(original, smaller, weights, names) if training.features or training.blockwise else ()
    lead = None
    no_maps = all(_is_pooled(smaller.tensors()[name]) for name in features)  # to train blocks by
    if training.features and no_maps:
        lead = leading_tensor(original, smaller, weights, names)
        features = features if lead is None else ()
    device = device_beside(engine)
    smaller = balanced(smaller, weights)
    student = TorchNet(smaller, weights, list(dict.fromkeys([*names, *features, *filter(None, (lead,))]))).to(device)
    _lay_out(student)
    _check_parity(smaller, student, engine, inputs, device)
    teacher = _Teacher(original, student.output_names, engine)
    course = _course(smaller, inputs, training, memory)
    load = _held_in_memory(inputs.calibration, course, memory // _MEMORY_SHARE)
    picked = course.picked(training.seed, 0)[:_SEEN_BATCHES]
    seen = _seen(student, teacher, load, picked, device, lead)
    scale = _head_scale(original, smaller)
    loss = balanced_loss(ends, features, training.temperature, training.features, seen, lead, scale)
    if features and not loss.features:
        notes = (*notes, Note("recovery", "no tensor between the layers is common to both: outputs only"))
    augmentation = augmentation_for(inputs.specs, options.data, wanted=training.augment)
    sources = Sources(teacher, load, course, augmentation)
    trainer = Trainer(student, sources, loss, training, checkpoint, progress)
    with torch_threads(engine.options.threads) as threads, memory_kept():
        found, start = trainer.run()
    kept = found.best > 0
    model, before, after = _compared(original, smaller, student if kept else None, inputs, engine, course, progress)
    return model, Recovery(
        epochs=(len(found.history), found.epochs),
        steps=found.step,
        batch=course.batch,
        device=str(device),
        threads=threads,
        augmentation=augmentation.text,
        ends=tuple(names),
        features=loss.features,
        lead=lead,
        best=found.best if kept else 0,
        held=(start, found.best_held if kept else start),
        before=before,
        after=after,
        history=tuple(found.history),
        notes=(*notes, *trainer.notes),
        seconds=round(found.seconds, 1),
    )


class _Teacher:
    """The original's tensors, by onnxruntime."""

    def __init__(self, original: Net, names: Sequence[str], engine: Engine) -> None:
        net = original.draft()
        tensors = net.tensors()
        known = set(net.output_names)
        net.graph.outputs.extend(tensors[name] for name in names if name not in known)
        self._names = list(names)
        self._session = engine.for_pieces().session(_untyped(net), label="the original")

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds, self._names)


def _untyped(net: Net) -> onnx.ModelProto:
    """The model with the sizes of its outputs left open: they are what they are."""
    for tensor in net.graph.outputs:
        if not is_constant(tensor) and tensor.dtype is None:
            tensor.dtype = np.dtype(np.float32)
    return net.to_model()


def _check_parity(net: Net, student: TorchNet, engine: Engine, inputs: Inputs, device: torch.device) -> None:
    """Check that torch has onnxruntime's outputs, which tests the conversion of every operator.

    Raises:
        VerifyError: an output differs by more than 1e-3 of its largest value.
    """
    session = _Teacher(net, student.output_names, engine)
    size = next((spec.shape[0] for spec in inputs.specs if spec.shape[0]), None) or min(len(inputs.held), 2)
    feeds = inputs.calibration.load([int(index) for index in np.resize(inputs.held, size)])
    wanted = session(feeds)
    with torch.no_grad():
        found = student.run(tensors_of(feeds, device), student.output_names)
    for name, reference in wanted.items():
        ours = found[name].float().cpu().numpy()
        largest = float(np.abs(reference).max(initial=0.0)) or 1.0
        apart = float(np.abs(ours - reference).max(initial=0.0)) / largest if ours.shape == reference.shape else np.inf
        low = net.tensors()[name].dtype == np.float16
        if not apart <= _TOLERANCE * (20 if low or device.type != "cpu" else 1):
            raise VerifyError(
                f"{net.source}: torch and onnxruntime differ by {apart:.2g} of the largest value in tensor '{name}': "
                "it cannot be trained here: leave --recover out, and report the model"
            )


def _course(net: Net, inputs: Inputs, options: RecoverOptions, memory: int) -> Course:
    fixed = next((spec.shape[0] for spec in inputs.specs if spec.shape[0]), None)
    free = fixed is None and options.train_batch is None
    first = inputs.calibration.load([int(inputs.fit[0])])
    most = affordable(net, first, memory) if free else _BATCH
    if max(array.size for array in first.values()) >= _LARGE:
        most = min(most, _LARGE_BATCH)
    batch, epochs = _course_for(len(inputs.fit), fixed, options, affordable=most)
    return Course(epochs, batch, fixed is not None, inputs.fit, inputs.choose)


def _course_for(count: int, fixed: int | None, options: RecoverOptions, *, affordable: int) -> tuple[int, int]:
    """Return the inputs per step, and the number of epochs."""
    usual = max(min(_BATCH, count // _LEAST_STEPS, affordable), 1)
    batch = fixed or min(options.train_batch or usual, count)
    steps = max(count // batch, 1)
    return batch, options.epochs or min(max(_LEAST_EPOCHS, math.ceil(_STEPS / steps)), _MOST_EPOCHS)


def _held_in_memory(calibration: Calibration, course: Course, memory: int) -> Any:
    """Return a function that loads inputs by index, from memory if all of them fit."""
    indices = np.concatenate([course.fit, course.held])
    first = calibration.load([int(indices[0])])
    if sum(array.nbytes for array in first.values()) * len(indices) > memory:
        return calibration.load
    place = {int(index): position for position, index in enumerate(indices)}
    pieces = [calibration.load([int(i) for i in indices[at : at + _BATCH]]) for at in range(0, len(indices), _BATCH)]
    whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in first}

    def load(chosen: Sequence[int]) -> dict[str, Array]:
        rows = [place[int(index)] for index in chosen]
        return {name: array[rows] for name, array in whole.items()}

    return load


def _seen(
    student: TorchNet,
    teacher: _Teacher,
    load: Any,
    picked: Sequence[Sequence[int]],
    device: torch.device,
    lead: str | None,
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    pairs = []
    for chosen in picked:
        feeds = load(chosen)
        with torch.no_grad():
            found = student.run(tensors_of(feeds, device), student.output_names)
        wanted = tensors_of(teacher(feeds), device)
        for name, tensor in wanted.items():
            if name != lead and tensor.shape != found[name].shape:
                raise ModelError(
                    f"tensor '{name}' is {list(found[name].shape)}, in the original {list(tensor.shape)}: the two "
                    "networks do not belong together"
                )
        pairs.append((wanted, found))
    return pairs


def _compared(
    original: Net,
    smaller: Net,
    student: TorchNet | None,
    inputs: Inputs,
    engine: Engine,
    course: Course,
    progress: Progress,
) -> tuple[onnx.ModelProto, tuple[OutputDivergence, ...], tuple[OutputDivergence, ...]]:
    """Return the trained model, or the initial one if no epoch was better, and the differences of the initial and the
    returned model from the original on the held-out inputs."""
    reference, start = finished_model(original), finished_model(smaller)
    batches = group_batches(inputs.held, inputs.specs, course.batch)
    before = compare_outputs(engine, reference, start, inputs, batches, progress)
    if student is None:
        return start, before, before
    end = finished_model(with_weights_of(smaller, student))
    return end, before, compare_outputs(engine, reference, end, inputs, batches, progress)


def _head_scale(original: Net, smaller: Net) -> float:
    """Return the factor of the small network's last layer to the original's; 1 if they have not the same channels."""
    layers = [last_layer(net) for net in (original, smaller)]
    weights = [values_of(layer.inputs[1]).astype(np.float64) for layer in layers if layer is not None]
    if len(weights) < 2 or weights[0].shape != weights[1].shape or not weights[0].any():
        return 1.0
    return float((weights[0] * weights[1]).sum() / (weights[0] ** 2).sum())


def _is_pooled(tensor: Any) -> bool:
    """Tell whether a tensor has one value for each channel."""
    return all(size == 1 for size in (dims(tensor) or ())[2:])


def _lay_out(student: TorchNet) -> None:
    """Store the kernels of two-dimensional convs channels last, in which the CPU and tensor cores convolve faster."""
    for parameter in student.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
