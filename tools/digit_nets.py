"""The two nets of ``models/``, for 16 x 16 images of one channel: a VGG-like chain and a ResNet."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = ["CLASSES", "NETS", "Add", "NetSpec"]

CLASSES = 10
VGG_STAGES = ((48, 48, 48), (64, 64), (80, 80))
"""Widths of the convs of each stage; a 2 x 2 max pool ends a stage."""
VGG_HIDDEN = 64
RESNET_STAGES = (32, 48, 64)
"""Width of each stage; where it differs from the one before, the stage begins with stride 2."""
RESNET_BLOCKS = 2


def vgg() -> nn.Module:
    """Seven 3 x 3 convs in three stages, then two fully connected layers on the 2 x 2 map that is left."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for number, widths in enumerate(VGG_STAGES, start=1):
        layers[f"stage{number}"] = _plain_stage(channels, widths)
        channels = widths[-1]
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * 2 * 2, VGG_HIDDEN)
    layers["fc1_relu"] = nn.ReLU()
    layers["fc2"] = nn.Linear(VGG_HIDDEN, CLASSES)
    return nn.Sequential(layers)


def resnet() -> nn.Module:
    """A stem, three stages of two basic blocks, global average pooling and one fully connected layer."""
    channels = RESNET_STAGES[0]
    stem = OrderedDict(conv=_conv(1, channels), bn=nn.BatchNorm2d(channels), relu=nn.ReLU())
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    for number, width in enumerate(RESNET_STAGES, start=1):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(1, RESNET_BLOCKS + 1):
            blocks[f"block{block}"] = BasicBlock(channels, width, stride=1 if width == channels else 2)
            channels = width
        layers[f"stage{number}"] = nn.Sequential(blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, CLASSES)
    return nn.Sequential(layers)


class Add(nn.Module):
    """The sum of two tensors, as a module so that it has a name in the graph."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Add two tensors of the same shape."""
        return left + right


class BasicBlock(nn.Module):
    """Two 3 x 3 convs and a shortcut: the identity, or 1 x 1 conv and BN where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else _projection(inputs, outputs, stride=stride)
        self.add = Add()
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        result: torch.Tensor = self.relu2(self.add(branch, shortcut))
        return result


@dataclass(frozen=True)
class NetSpec:
    """A net to train: its file name, how to build it, and what it is."""

    name: str
    build: Callable[[], nn.Module]
    description: str


NETS = (
    NetSpec(
        "digits_vgg",
        vgg,
        "a VGG-like chain: 3x3 convs of 48 48 48, 64 64 and 80 80 channels, each with BN and ReLU, a 2x2 max "
        "pool after each of the three stages, Flatten, Gemm of 64, ReLU, Gemm of 10",
    ),
    NetSpec(
        "digits_resnet",
        resnet,
        "a ResNet: a 3x3 stem, three stages of two basic blocks with 32, 48 and 64 channels, 1x1 conv and BN "
        "in the shortcut where stages 2 and 3 halve the map, global average pool, Flatten, Gemm of 10",
    ),
)


def _plain_stage(channels: int, widths: tuple[int, ...]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(widths, start=1):
        layers[f"conv{number}"] = _conv(channels, width)
        layers[f"bn{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        channels = width
    layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def _projection(inputs: int, outputs: int, *, stride: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
