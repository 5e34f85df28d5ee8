"""Train a half-width VGG-16 (13 convs with BN) on CIFAR-10 images that another network has labelled.

What the benchmarks of decompositions need: a real VGG, from data without labels. The teacher's most likely class is
the label. Takes the unpacked data of the zoo, and writes ``cifar_vgg.onnx``, which is too large to ship.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import cyclopts
    import onnxruntime
    import torch
    from torch import nn
    from torch.nn import functional
    from torch_to_onnx import to_onnx
except ImportError as error:
    sys.exit(f"train_cifar_vgg: {error.name} is not installed: run  pip install -e '.[cpu,train]'")

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels over 255; the teacher's, too."""
STAGES = ((32, 32), (64, 64), (128, 128, 128), (256, 256, 256), (256, 256, 256))
"""Widths of the convs; a 2 x 2 max pool ends a stage."""


@dataclass(frozen=True)
class Recipe:
    """How it is trained: each image mirrored at random, and shifted by up to `shift` pixels along each axis."""

    seed: int = 0
    epochs: int = 30
    batch: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 4


def main(*, data: Path, teacher: Path, out: Path = Path("cifar_vgg.onnx"), epochs: int = Recipe.epochs) -> None:
    """Train, measure, and write the net; about half an hour on two cores.

    Parameters
    ----------
    data
        Folder with cifar10_calib.npz and cifar10_test.npz.
    teacher
        The network that labels the images, for (pixel / 255 - mean) / std as NCHW.
    out
        File to write.
    epochs
        Passes over the images.
    """
    torch.manual_seed(Recipe.seed)
    recipe = Recipe(epochs=epochs)
    with np.load(data / "cifar10_calib.npz") as archive:
        images = prepared(archive["images"])
    labels = answers(teacher.read_bytes(), images).argmax(axis=1)
    model = train(torch.from_numpy(images), torch.from_numpy(labels), recipe)
    proto = to_onnx(
        model,
        name="cifar_vgg",
        description="VGG-16 of half width with BN, for 32 x 32 images",
        input_shape=(3, 32, 32),
        classes=10,
        producer="train_cifar_vgg",
    )
    content = proto.SerializeToString(deterministic=True)
    with np.load(data / "cifar10_test.npz") as archive:
        logits = answers(content, prepared(archive["images"]))
        accuracy = float((logits.argmax(axis=1) == archive["labels"]).mean())
    out.write_bytes(content)
    print(f"{out}: {accuracy:.2%} of the test images right")


def prepared(images: Array) -> Array:
    """Pixels (N, 32, 32, 3) as the networks take them: (N, 3, 32, 32) float32."""
    values = (images.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def answers(model: bytes, inputs: Array) -> Array:
    """First output of a model, batch by batch."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: inputs[start : start + 100]})[0] for start in range(0, len(inputs), 100)]
    return np.concatenate(parts)


def vgg() -> nn.Sequential:
    """13 convs in five stages, and one dense layer on the single position that is left."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for stage, widths in enumerate(STAGES, start=1):
        for number, width in enumerate(widths, start=1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers[f"bn{stage}_{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{stage}_{number}"] = nn.ReLU()
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, 10)
    return nn.Sequential(layers)


def train(inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> nn.Module:
    """Train from scratch for a fixed number of epochs."""
    model = vgg().to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    batches = len(inputs) // recipe.batch
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches, pct_start=0.2, cycle_momentum=False
    )
    started = time.perf_counter()
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        for picked in torch.randperm(len(inputs))[: batches * recipe.batch].reshape(batches, -1):
            loss = functional.cross_entropy(model(augment(inputs[picked], recipe.shift)), labels[picked])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        left = (time.perf_counter() - started) / epoch * (recipe.epochs - epoch)
        print(f"epoch {epoch} of {recipe.epochs}, loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr)
    return model.eval()


def augment(images: torch.Tensor, shift: int) -> torch.Tensor:
    """Mirror half of the images, and shift each by its own amounts; the border is the mean colour."""
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    padded = functional.pad(mirrored, [shift] * 4)
    down, right = torch.randint(0, 2 * shift + 1, (2, len(images)))
    size = torch.arange(images.shape[-1])
    rows = (down[:, None] + size)[:, :, None]
    columns = (right[:, None] + size)[:, None, :]
    shifted = padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows, columns]
    return shifted.permute(0, 3, 1, 2)


if __name__ == "__main__":
    cyclopts.run(main)
