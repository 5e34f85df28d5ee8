"""Train a half-width VGG-16 (13 convs with BN) on CIFAR-10 images that another network has labelled.

What the benchmarks of decompositions need: a real VGG, from data without labels. The teacher's most likely class is
the label. Takes the unpacked data of the zoo, and writes ``cifar_vgg.onnx``, which is too large to ship.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import cyclopts
    import onnxruntime
    import torch
    import training
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


_SHIFT = 4
"""Each image is mirrored at random, and shifted by up to so many pixels along each axis."""


def main(*, data: Path, teacher: Path, out: Path = Path("cifar_vgg.onnx"), epochs: int = 30) -> None:
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
    recipe = training.Recipe(epochs=epochs, batch=128, learning_rate=0.1, warm_up=0.2)
    torch.manual_seed(recipe.seed)
    with np.load(data / "cifar10_calib.npz") as archive:
        images = prepared(archive["images"])
    labels = answers(teacher.read_bytes(), images).argmax(axis=1)
    model = vgg().to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    training.train(model, torch.from_numpy(images), torch.from_numpy(labels), recipe, augment, "cifar_vgg")
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


def augment(images: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images, and shift each by its own amounts; the border is the mean colour."""
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    padded = functional.pad(mirrored, [_SHIFT] * 4)
    down, right = torch.randint(0, 2 * _SHIFT + 1, (2, len(images)))
    size = torch.arange(images.shape[-1])
    rows = (down[:, None] + size)[:, :, None]
    columns = (right[:, None] + size)[:, None, :]
    shifted = padded.permute(0, 2, 3, 1)[torch.arange(len(images))[:, None, None], rows, columns]
    return shifted.permute(0, 3, 1, 2)


if __name__ == "__main__":
    cyclopts.run(main)
