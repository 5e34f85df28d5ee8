"""The shapes of real families of networks, small: (N, 3, 16, 16) in, random weights, BatchNorms unfolded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .builder import Builder

__all__ = ["FAMILIES", "SIDE"]

SIDE = 16


def _classifier(b: Builder, last: str, channels: int) -> onnx.ModelProto:
    return b.finish({b.head(last, channels, 5): ["N", 5]}, SIDE)


def vgg_bn() -> onnx.ModelProto:
    b = Builder(1)
    h, c = "x", 3
    for width in (16, 16, 32, 32):
        h, c = b.block(h, c, width), width
        if width == 16 or b.open[-1][1] != width:
            b.open.append((h, width))
    h = b.one("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    flat = b.one("Flatten", b.block(h, 32, 8))
    hidden = b.one("Relu", b.one("Gemm", flat, b.drawn(24, 8 * 64), b.drawn(24), transB=1))
    return b.finish({b.one("Gemm", hidden, b.drawn(5, 24), b.drawn(5), transB=1): ["N", 5]}, SIDE)


def _basic(b: Builder, x: str, inputs: int, outputs: int, stride: int, shortcut: str) -> str:
    h = b.block(b.block(x, inputs, outputs, stride=stride), outputs, outputs, activation=None)
    return b.one("Relu", b.one("Add", h, shortcut))


def resnet_basic() -> onnx.ModelProto:
    """With projection shortcuts."""
    b = Builder(2)
    h, c = b.block("x", 3, 16), 16
    for width, stride in ((16, 1), (32, 2), (32, 1)):
        shortcut = h if c == width else b.block(h, c, width, 1, stride=stride, activation=None)
        h, c = _basic(b, h, c, width, stride, shortcut), width
    return _classifier(b, h, c)


def resnet_option_a() -> onnx.ModelProto:
    """Shortcuts that are subsampled and padded with channels of zeros."""
    b = Builder(3)
    h, c = b.block("x", 3, 8), 8
    for width, stride in ((8, 1), (16, 2), (32, 2)):
        shortcut = h
        if c != width:
            thin = b.one("Slice", h, b.ints(0, 0), b.ints(SIDE, SIDE), b.ints(2, 3), b.ints(2, 2))
            more = (width - c) // 2
            shortcut = b.one("Pad", thin, b.ints(0, more, 0, 0, 0, more, 0, 0))
        h, c = _basic(b, h, c, width, stride, shortcut), width
    return _classifier(b, h, c)


def _bottlenecks(seed: int, groups: int, squeeze: bool) -> onnx.ModelProto:
    b = Builder(seed)
    h, c = b.block("x", 3, 16), 16
    for width, stride in ((32, 1), (32, 1), (64, 2)):
        inner = width // 2
        shortcut = h if c == width else b.block(h, c, width, 1, stride=stride, activation=None)
        h = b.block(b.block(h, c, inner, 1), inner, inner, 3, groups, stride)
        if squeeze:
            h = _squeeze(b, h, inner, 8, "Relu", "Sigmoid")
        h = b.one("Relu", b.one("Add", b.block(h, inner, width, 1, activation=None), shortcut))
        c = width
    return _classifier(b, h, c)


def resnet_bottleneck() -> onnx.ModelProto:
    return _bottlenecks(4, 1, squeeze=False)


def resnext() -> onnx.ModelProto:
    return _bottlenecks(5, 4, squeeze=False)


def regnet_y() -> onnx.ModelProto:
    return _bottlenecks(6, 2, squeeze=True)


def _squeeze(b: Builder, x: str, channels: int, inner: int, activation: str, gate: str, mean: bool = False) -> str:
    """Squeeze and excite, in one of its two spellings."""
    pooled = b.one("ReduceMean", x, axes=[2, 3], keepdims=1) if mean else b.one("GlobalAveragePool", x)
    hidden = b.one(activation, b.conv(pooled, channels, inner, 1))
    return b.one("Mul", b.one(gate, b.conv(hidden, inner, channels, 1)), x)


def densenet() -> onnx.ModelProto:
    b = Builder(7)
    h, c = b.conv("x", 3, 16), 16
    for last in (False, True):
        for _ in range(3):
            narrow = b.conv(b.one("Relu", b.norm(h, c)), c, 16, 1)
            new = b.conv(b.one("Relu", b.norm(narrow, 16)), 16, 8)
            h, c = b.one("Concat", h, new, axis=1), c + 8
        h = b.one("Relu", b.norm(h, c))
        if not last:
            h = b.one("AveragePool", b.conv(h, c, c // 2, 1), kernel_shape=[2, 2], strides=[2, 2])
            c //= 2
    return _classifier(b, h, c)


def inception() -> onnx.ModelProto:
    b = Builder(8)
    h, c = b.block("x", 3, 16), 16
    for _ in range(2):
        pooled = b.one("MaxPool", h, kernel_shape=[3, 3], pads=[1] * 4)
        branches = [
            b.block(h, c, 8, 1),
            b.block(b.block(h, c, 8, 1), 8, 16),
            b.block(b.block(h, c, 8, 1), 8, 8, 5),
            b.block(pooled, c, 8, 1),
        ]
        h, c = b.one("Concat", *branches, axis=1), 40
    return _classifier(b, h, c)


def mobilenet_v1() -> onnx.ModelProto:
    b = Builder(9)
    h, c = b.block("x", 3, 16), 16
    for width, stride in ((32, 2), (32, 1), (64, 2)):
        h, c = b.block(b.block(h, c, c, 3, c, stride), c, width, 1), width
    return _classifier(b, h, c)


def mobilenet_v2() -> onnx.ModelProto:
    """Inverted bottlenecks, ReLU6 as a Clip."""
    b = Builder(10)
    bounds = b.constant(np.float32(0).reshape(())), b.constant(np.float32(6).reshape(()))

    def clipped(made: str) -> str:
        return b.one("Clip", made, *bounds)

    h, c = clipped(b.block("x", 3, 8, activation=None)), 8
    for width, stride in ((8, 1), (16, 2), (16, 1)):
        wide = 4 * c
        inner = clipped(b.block(h, c, wide, 1, activation=None))
        inner = clipped(b.block(inner, wide, wide, 3, wide, stride, activation=None))
        out = b.block(inner, wide, width, 1, activation=None)
        h = b.one("Add", h, out) if c == width and stride == 1 else out
        c = width
    return _classifier(b, clipped(b.block(h, c, 64, 1, activation=None)), 64)


def mobilenet_v3() -> onnx.ModelProto:
    b = Builder(11)
    h, c = b.block("x", 3, 16, activation="HardSwish"), 16
    for width in (16, 24):
        wide = 2 * c
        inner = b.block(b.block(h, c, wide, 1, activation="HardSwish"), wide, wide, 5, wide, activation="HardSwish")
        out = b.block(_squeeze(b, inner, wide, 8, "Relu", "HardSigmoid"), wide, width, 1, activation=None)
        h = b.one("Add", h, out) if c == width else out
        c = width
    return _classifier(b, h, c)


def efficientnet() -> onnx.ModelProto:
    """SiLU spelt as Sigmoid and Mul, means by ReduceMean."""
    b = Builder(12)

    def silu(made: str) -> str:
        return b.one("Mul", made, b.one("Sigmoid", made))

    h, c = silu(b.block("x", 3, 16, activation=None)), 16
    for width in (16, 24):
        wide = 3 * c
        inner = silu(b.block(h, c, wide, 1, activation=None))
        inner = silu(b.block(inner, wide, wide, 3, wide, activation=None))
        pooled = b.one("ReduceMean", inner, axes=[2, 3], keepdims=1)
        gate = b.one("Sigmoid", b.conv(silu(b.conv(pooled, wide, 4, 1)), 4, wide, 1))
        out = b.block(b.one("Mul", inner, gate), wide, width, 1, activation=None)
        h = b.one("Add", h, out) if c == width else out
        c = width
    return _classifier(b, h, c)


def shufflenet_v2() -> onnx.ModelProto:
    """Half of the channels passes by; then both halves are shuffled."""
    b = Builder(13)
    h, half = b.block("x", 3, 32), 16
    for _ in range(2):
        left, right = b.node("Split", h, b.ints(half, half), outputs=2, axis=1)
        inner = b.block(b.block(right, half, half, 1), half, half, 3, half, activation=None)
        both = b.one("Concat", left, b.block(inner, half, half, 1), axis=1)
        apart = b.one("Reshape", both, b.ints(0, 2, half, SIDE, SIDE))
        h = b.one("Reshape", b.one("Transpose", apart, perm=[0, 2, 1, 3, 4]), b.ints(0, -1, SIDE, SIDE))
    return _classifier(b, b.block(h, 32, 40, 1), 40)


def unet() -> onnx.ModelProto:
    """A segmentation net: transposed convs up, skips by Concat."""
    b = Builder(14)
    first = b.block(b.block("x", 3, 16), 16, 16)
    second = b.block(b.block(b.one("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 16, 32), 32, 32)
    deep = b.block(b.one("MaxPool", second, kernel_shape=[2, 2], strides=[2, 2]), 32, 48)
    up = b.one("ConvTranspose", deep, b.drawn(48, 32, 2, 2), b.drawn(32), strides=[2, 2])
    h = b.block(b.one("Concat", up, second, axis=1), 64, 32)
    up = b.one("ConvTranspose", h, b.drawn(32, 16, 2, 2), b.drawn(16), strides=[2, 2])
    h = b.block(b.one("Concat", up, first, axis=1), 32, 16)
    return b.finish({b.conv(h, 16, 2, 1): ["N", 2, SIDE, SIDE]}, SIDE)


def _pyramid(b: Builder) -> list[tuple[str, int]]:
    """Three levels of a backbone, a top-down and a bottom-up path."""
    levels, h, c = [], b.block("x", 3, 8), 8
    for width in (16, 24, 32):
        h, c = b.block(h, c, width, stride=1 if width == 16 else 2), width
        levels.append((h, c))
    scales = b.floats(1, 1, 2, 2)
    lateral = [b.conv(tensor, width, 16, 1) for tensor, width in levels]
    down = [lateral[2]]
    for other in (lateral[1], lateral[0]):
        down.append(b.one("Add", other, b.one("Resize", down[-1], "", scales, mode="nearest")))
    low, mid, high = (b.block(tensor, 16, 16) for tensor in reversed(down))
    mid = b.block(b.one("Concat", b.block(low, 16, 16, stride=2), mid, axis=1), 32, 24)
    high = b.block(b.one("Concat", b.block(mid, 24, 16, stride=2), high, axis=1), 32, 24)
    return [(low, 16), (mid, 24), (high, 24)]


def fpn_pan() -> onnx.ModelProto:
    """A neck with an output on every level."""
    b = Builder(15)
    outputs: dict[str, list[int | str]] = {}
    for level, (tensor, width) in enumerate(_pyramid(b)):
        outputs[b.conv(tensor, width, 6, 1)] = ["N", 6, SIDE >> level, SIDE >> level]
    return b.finish(outputs, SIDE)


def yolo() -> onnx.ModelProto:
    """Heads for boxes and classes on every level, decoded in the graph with anchors and strides."""
    b = Builder(16)
    parts, classes = [], 3
    for level, (tensor, width) in enumerate(_pyramid(b)):
        cells = (SIDE >> level) ** 2
        box = b.conv(b.block(tensor, width, 16), 16, 4, 1)
        scores = b.conv(b.block(tensor, width, 16), 16, classes, 1)
        flat = b.one("Reshape", b.one("Concat", box, scores, axis=1), b.ints(0, 4 + classes, cells))
        parts.append(flat)
    cells = sum((SIDE >> level) ** 2 for level in range(3))
    joined = b.one("Transpose", b.one("Concat", *parts, axis=2), perm=[0, 2, 1])
    centre, size, scores = b.node("Split", joined, b.ints(2, 2, classes), outputs=3, axis=2)
    where = b.one("Add", b.one("Sigmoid", centre), b.constant(b.rng.random((1, cells, 2)).astype(np.float32)))
    wide = b.one("Mul", b.one("Exp", size), b.constant(b.rng.random((1, cells, 2)).astype(np.float32)))
    made = b.one("Concat", where, wide, b.one("Sigmoid", scores), axis=2)
    return b.finish({made: ["N", cells, 4 + classes]}, SIDE)


def repvgg() -> onnx.ModelProto:
    """3x3, 1x1 and BatchNorm alone, summed."""
    b = Builder(17)
    h, c = b.block("x", 3, 16), 16
    for width in (16, 16, 32):
        total = b.one("Add", b.block(h, c, width, activation=None), b.block(h, c, width, 1, activation=None))
        if c == width:
            total = b.one("Add", total, b.norm(h, c))
        h, c = b.one("Relu", total), width
    return _classifier(b, h, c)


def espcn() -> onnx.ModelProto:
    """Super-resolution by DepthToSpace."""
    b = Builder(18)
    h = b.one("Tanh", b.conv(b.one("Tanh", b.conv("x", 3, 32, 5)), 32, 16))
    wide = b.one("DepthToSpace", b.conv(h, 16, 12), blocksize=2, mode="CRD")
    return b.finish({wide: ["N", 3, 2 * SIDE, 2 * SIDE]}, SIDE)


def convnext() -> onnx.ModelProto:
    """Depthwise 7x7, LayerNormalization over the channels behind, GELU, layer scale."""
    b = Builder(19)
    h, c = b.conv("x", 3, 16, 4 - 1), 16
    for _ in range(2):
        last = b.one("Transpose", b.conv(h, c, c, 7, c), perm=[0, 2, 3, 1])
        normal = b.one("LayerNormalization", last, b.drawn(c), b.drawn(c), axis=-1)
        wide = b.one("Add", b.one("MatMul", normal, b.drawn(c, 4 * c)), b.drawn(4 * c))
        half = b.one("Mul", wide, b.constant(np.float32(0.5)))
        root = b.one("Erf", b.one("Mul", wide, b.constant(np.float32(0.7071))))
        gelu = b.one("Mul", half, b.one("Add", root, b.constant(np.float32(1))))
        narrow = b.one("Add", b.one("MatMul", gelu, b.drawn(4 * c, c)), b.drawn(c))
        back = b.one("Transpose", b.one("Mul", narrow, b.drawn(c)), perm=[0, 3, 1, 2])
        h = b.one("Add", h, back)
    return _classifier(b, h, c)


def channels_last() -> onnx.ModelProto:
    """As TensorFlow exports: every conv between two Transposes, padding apart, dense at the end."""
    b = Builder(20)
    h, c = b.one("Transpose", "x", perm=[0, 2, 3, 1]), 3
    for width in (16, 24):
        first = b.one("Transpose", h, perm=[0, 3, 1, 2])
        made = b.one("Conv", first, b.drawn(width, c, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
        last = b.one("Transpose", made, perm=[0, 2, 3, 1])
        h, c = b.one("Relu", b.one("Add", last, b.drawn(width))), width
    pooled = b.one("ReduceMean", h, axes=[1, 2], keepdims=0)
    made = b.one("Add", b.one("MatMul", pooled, b.drawn(c, 5)), b.drawn(5))
    return b.finish({made: ["N", 5]}, SIDE)


_MAKERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    *(vgg_bn, resnet_basic, resnet_option_a, resnet_bottleneck, resnext, regnet_y, densenet, inception),
    *(mobilenet_v1, mobilenet_v2, mobilenet_v3, efficientnet, shufflenet_v2, unet, fpn_pan, yolo, repvgg, espcn),
    *(convnext, channels_last),
)

FAMILIES = {maker.__name__: maker for maker in _MAKERS}
