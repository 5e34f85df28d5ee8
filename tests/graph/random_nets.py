"""Random networks that compose the rules: every step takes a tensor (N, C, 8, 8) that is there, and makes another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .builder import Builder

__all__ = ["random_net"]

SIDE = 8

_Step = Callable[[Builder, str, int], tuple[str, int]]


def _conv(b: Builder, x: str, c: int) -> tuple[str, int]:
    outputs = 2 * int(b.rng.integers(2, 6))
    return b.conv(x, c, outputs, int(b.rng.choice([1, 3]))), outputs


def _activation(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node(str(b.rng.choice(["Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Softplus"])), x)[0], c


def _norm(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.norm(x, c), c


def _depthwise(b: Builder, x: str, c: int) -> tuple[str, int]:
    times = int(b.rng.integers(1, 3))
    return b.conv(x, c, c * times, 3, c), c * times


def _grouped(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.conv(x, c, 8, 3, 2 if c % 2 == 0 else 1), 8


def _residual(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node("Add", x, b.conv(b.node("Relu", x)[0], c, c))[0], c


def _block(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A residual branch with an inside of its own."""
    inner = 2 * int(b.rng.integers(2, 5))
    h = b.node("Relu", b.conv(x, c, inner))[0]
    if b.rng.random() < 0.5:
        h = _squeeze_excite(b, h, inner)[0]
    last = b.conv(h, inner, c)
    if b.rng.random() < 0.5:
        last = b.node("Mul", last, b.drawn(c, 1, 1))[0]
    return b.node("Add", *((x, last) if b.rng.random() < 0.5 else (last, x)))[0], c


def _join(b: Builder, x: str, c: int) -> tuple[str, int]:
    other, more = b.pick()
    if more == c and b.rng.random() < 0.5:
        return b.node(str(b.rng.choice(["Add", "Mul", "Max"])), x, other)[0], c
    return b.node("Concat", x, other, axis=1)[0], c + more


def _squeeze_excite(b: Builder, x: str, c: int) -> tuple[str, int]:
    pooled = b.node("GlobalAveragePool", x)[0]
    gate = b.node("Sigmoid", b.conv(b.node("Relu", b.conv(pooled, c, 4, 1))[0], 4, c, 1))[0]
    return b.node("Mul", x, gate)[0], c


def _split(b: Builder, x: str, c: int) -> tuple[str, int]:
    if c < 4:
        return x, c
    first = int(b.rng.integers(1, c - 1))
    left, right = b.node("Split", x, b.ints(first, c - first), outputs=2, axis=1)
    b.open.append((left, first))
    return b.node("Relu", right)[0], c - first


def _slice(b: Builder, x: str, c: int) -> tuple[str, int]:
    if c < 4:
        return x, c
    start = int(b.rng.integers(0, c - 2))
    stop = int(b.rng.integers(start + 1, c + 1))
    return b.node("Slice", x, b.ints(start), b.ints(stop), b.ints(1))[0], stop - start


def _pad(b: Builder, x: str, c: int) -> tuple[str, int]:
    before, after = (int(n) for n in b.rng.integers(0, 3, 2))
    padded = b.node("Pad", x, b.ints(0, before, 0, 0, 0, after, 0, 0))[0]
    return b.node("Add", padded, b.conv(x, c, c + before + after, 1))[0], c + before + after


def _gather(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node("Gather", x, b.ints(*b.rng.permutation(c)[: max(c - 1, 1)].tolist()), axis=1)[0], max(c - 1, 1)


def _shuffle(b: Builder, x: str, c: int) -> tuple[str, int]:
    if c % 2:
        return x, c
    split = b.node("Reshape", x, b.ints(0, 2, c // 2, SIDE, SIDE))[0]
    return b.node("Reshape", b.node("Transpose", split, perm=[0, 2, 1, 3, 4])[0], b.ints(0, c, SIDE, SIDE))[0], c


def _channels_last(b: Builder, x: str, c: int) -> tuple[str, int]:
    last = b.node("Transpose", x, perm=[0, 2, 3, 1])[0]
    made = b.node("Add", b.node("MatMul", last, b.drawn(c, 6))[0], b.drawn(6))[0]
    return b.node("Transpose", made, perm=[0, 3, 1, 2])[0], 6


def _dense_gate(b: Builder, x: str, c: int) -> tuple[str, int]:
    """A gate from all positions of a few channels, flattened with the channels last or first."""
    few = b.node("MaxPool", b.conv(x, c, 3, 1), kernel_shape=[4, 4], strides=[4, 4])[0]
    last = b.node("Transpose", few, perm=[0, 2, 3, 1])[0] if b.rng.random() < 0.7 else few
    flat = b.node("Flatten", last)[0] if b.rng.random() < 0.5 else b.node("Reshape", last, b.ints(0, 12))[0]
    gate = b.node("Sigmoid", b.node("MatMul", flat, b.drawn(12, c))[0])[0]
    return b.node("Mul", x, b.node("Reshape", gate, b.ints(0, c, 1, 1))[0])[0], c


def _up_and_down(b: Builder, x: str, c: int) -> tuple[str, int]:
    if b.rng.random() < 0.5:
        up = b.node("Resize", x, "", b.constant(np.array([1, 1, 2, 2], np.float32)))[0]
    else:
        up, c = b.node("ConvTranspose", x, b.drawn(c, 5, 2, 2), strides=[2, 2])[0], 5
    return b.node("MaxPool", up, kernel_shape=[2, 2], strides=[2, 2])[0], c


def _depth_to_space(b: Builder, x: str, c: int) -> tuple[str, int]:
    made = b.conv(x, c, 12)
    wide = b.node("DepthToSpace", made, blocksize=2, mode=str(b.rng.choice(["DCR", "CRD"])))[0]
    return b.node("AveragePool", wide, kernel_shape=[2, 2], strides=[2, 2])[0], 3


def _space_to_depth(b: Builder, x: str, c: int) -> tuple[str, int]:
    deep = b.node("SpaceToDepth", x, blocksize=2)[0]
    return b.node("Resize", deep, "", b.constant(np.array([1, 1, 2, 2], np.float32)))[0], 4 * c


def _softmax(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node("Softmax", x, axis=int(b.rng.choice([1, 3])))[0], c


def _statistics(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node("InstanceNormalization", x, b.drawn(c), b.drawn(c))[0], c


def _choice(b: Builder, x: str, c: int) -> tuple[str, int]:
    zero = b.constant(np.zeros((c, 1, 1), np.float32))
    return b.node("Where", b.node("Greater", x, zero)[0], x, b.drawn(c, 1, 1))[0], c


def _tile(b: Builder, x: str, c: int) -> tuple[str, int]:
    return b.node("Tile", x, b.ints(1, 2, 1, 1))[0], 2 * c


def _head(b: Builder, x: str, c: int) -> tuple[str, int]:
    """Two convs on two maps of as many channels, at times one behind the other, with the same weights on both."""
    other, more = b.pick()
    maps = [x, other if more == c else b.node("Tanh", x)[0]]
    for _ in range(int(b.rng.integers(1, 3))):
        width = c if b.rng.random() < 0.2 else 2 * int(b.rng.integers(2, 5))
        weights = b.drawn(width, c, 1, 1), b.drawn(width)
        maps = [b.node("Relu", b.node("Conv", each, *weights)[0])[0] for each in maps]
        c = width
    if b.rng.random() < 0.3:
        weight = b.drawn(c, c, 1, 1)
        maps[1] = b.node("Conv", b.node("Conv", maps[1], weight)[0], weight)[0]
    return b.node("Add", *maps)[0], c


_STEPS: tuple[_Step, ...] = (
    *(_conv, _conv, _conv, _activation, _activation, _norm, _depthwise, _grouped, _residual, _block, _join, _join),
    *(_squeeze_excite, _split, _split, _slice, _pad, _gather, _shuffle, _channels_last, _up_and_down, _depth_to_space),
    *(_space_to_depth, _softmax, _statistics, _choice, _tile, _head, _dense_gate),
)
_MOST_CHANNELS = 40


def random_net(seed: int, steps: int = 9) -> onnx.ModelProto:
    """A checked network (N, 3, 8, 8) -> (N, 4)."""
    b = Builder(seed)
    b.open.append((b.conv("x", 3, 8), 8))
    while steps:
        source, channels = b.pick()
        step = _STEPS[int(b.rng.integers(len(_STEPS)))]
        made, after = step(b, source, channels)
        if made != source and after <= _MOST_CHANNELS:
            b.open.append((made, after))
            steps -= 1
    read = {name for node in b.nodes for name in node.input}
    loose = [(name, c) for name, c in b.open if name not in read and name != "x"] or [b.open[-1]]
    joined = loose[0][0] if len(loose) == 1 else b.node("Concat", *(name for name, _ in loose), axis=1)[0]
    last = b.conv(joined, sum(c for _, c in loose), 6, 1)
    flat = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", last)[0])[0])[0]
    return b.finish({b.one("Gemm", flat, b.drawn(4, 6), transB=1): ["N", 4]}, SIDE)
