"""Named preprocessing recipes.

``imagenet``     torchvision's and timm's: 0..1, then the mean and deviation of ImageNet in RGB.
``imagenet-tf``  TensorFlow's, from -1 to 1.
``caffe``        pixels 0..255 in BGR, less their mean; of SqueezeNet, GoogLeNet, VGG and others.
``cifar10``      0..1, then the per-pixel mean and deviation of the CIFAR-10 training images. Many CIFAR
                 nets were trained with ImageNet's numbers instead: use ``--preset imagenet`` for them, which
                 neither resizes nor crops images that already have the model's size.
``none``         unscaled pixels 0..255.

The first three resize the short side to 256 and crop the centre 224 x 224; if the model has another fixed size, they
crop to that size and scale the short side in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.options.data import Color, PresetName

__all__ = ["CROP", "PRESETS", "Preset", "short_side"]

CROP = 224
"""Side in pixels of the crop for a model of dynamic size."""


@dataclass(frozen=True)
class Preset:
    """Numbers of a named recipe.

    Attributes:
        scale: factor on the pixels.
        mean: one number for all channels, or three in the order of `color`; in units of pixel * scale.
        std: one number for all channels, or three in the order of `color`; in units of pixel * scale.
        color: order of the channels, or None if it does not matter.
        crops: True if images are resized and cropped as for ImageNet.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: Color | None
    crops: bool


PRESETS: dict[PresetName, Preset] = {
    "imagenet": Preset(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb", crops=True),
    "imagenet-tf": Preset(1 / 127.5, (1.0,), (1.0,), "rgb", crops=True),
    "caffe": Preset(1.0, (104.0, 117.0, 123.0), (1.0,), "bgr", crops=True),
    "cifar10": Preset(1 / 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "rgb", crops=False),
    "none": Preset(1.0, (0.0,), (1.0,), None, crops=False),
}


def short_side(crop: tuple[int, int]) -> int:
    """Return the short side in pixels to resize to before a centre crop to (H, W): 256 / 224 of the longer side."""
    return round(max(crop) * 256 / 224)
