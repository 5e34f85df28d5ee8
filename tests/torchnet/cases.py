"""Nodes to run with torch and with onnxruntime: per operator, what a revision of it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

__all__ = ["CASES", "Case"]

Array = np.ndarray[Any, Any]
Case = tuple[dict[str, Any], list[Array | None], int]  # attributes, inputs (None: absent), outputs


def f(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def up(*shape: int) -> Array:
    """Positive."""
    return np.abs(f(*shape)) + np.float32(1.1)


def unit(*shape: int) -> Array:
    return np.tanh(f(*shape))


def i(*values: int) -> Array:
    return np.array(values, np.int64)


def b(*shape: int, seed: int = 0) -> Array:
    return f(*shape, seed=seed) > 0


def plain(*inputs: Array | None, outputs: int = 1, **attributes: Any) -> Callable[[int], list[Case]]:
    return lambda revision: [(attributes, list(inputs), outputs)]


def each(*cases: Case) -> Callable[[int], list[Case]]:
    return lambda revision: list(cases)


def axes_moved(since: int, *, also: bool = True) -> Callable[[int], list[Case]]:
    """Reductions: axes as an attribute, and from a revision on as an input."""

    def cases(revision: int) -> list[Case]:
        found: list[Case] = [({"keepdims": 0}, [up(2, 3, 4)], 1)]
        for keep in (0, 1):
            if revision >= since:
                found.append(({"keepdims": keep}, [up(2, 3, 4), i(-1, 1)], 1))
            else:
                found.append(({"keepdims": keep, "axes": [1, 2]}, [up(2, 3, 4)], 1))
        if revision >= since:
            found.append(({"noop_with_empty_axes": 1}, [up(2, 3, 4)], 1))
        return found

    return cases


def convs(revision: int) -> list[Case]:
    return [
        ({"pads": [1, 1, 1, 1]}, [f(2, 4, 7, 6), f(6, 4, 3, 3), f(6)], 1),
        ({"pads": [0, 1, 2, 1], "strides": [2, 1], "group": 2}, [f(2, 4, 7, 6), f(6, 2, 3, 3)], 1),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [f(1, 3, 7, 6), f(5, 3, 3, 2)], 1),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [f(1, 3, 7, 6), f(5, 3, 3, 2)], 1),
        ({"dilations": [2], "pads": [2, 2], "group": 4}, [f(2, 4, 9), f(4, 1, 3)], 1),
        ({"auto_pad": "VALID"}, [f(1, 2, 5, 5, 5), f(3, 2, 2, 2, 2)], 1),
    ]


def transposed(revision: int) -> list[Case]:
    more = {"strides": [2, 2], "output_padding": [1, 0], "pads": [1, 0, 0, 1], "group": 2, "dilations": [1, 2]}
    return [({}, [f(2, 4, 5), f(4, 3, 3), f(3)], 1), (more, [f(2, 4, 5, 6), f(4, 3, 3, 2)], 1)]


def pools(revision: int, *, mean: bool) -> list[Case]:
    x = f(2, 3, 9, 8)
    found: list[Case] = [
        ({"kernel_shape": [3, 2], "strides": [2, 2]}, [x], 1),
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [x], 1),
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 1]}, [x], 1),
        ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, [x], 1),
        ({"kernel_shape": [3]}, [f(2, 3, 9)], 1),
    ]
    if revision >= 10:
        found.append(({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, [f(2, 3, 8, 8)], 1))
    if mean:
        found.append(({"kernel_shape": [3, 3], "pads": [0, 1, 2, 1], "count_include_pad": 1}, [x], 1))
    elif revision >= 10:
        found.append(({"kernel_shape": [3, 3], "dilations": [2, 1]}, [x], 1))
    return found


def gemms(revision: int) -> list[Case]:
    return [
        ({"transB": 1}, [f(3, 4), f(5, 4), f(5)], 1),
        ({"transA": 1, "alpha": 0.5, "beta": 2.0}, [f(4, 3), f(4, 5), f(3, 1)], 1),
    ]


def softmaxes(revision: int) -> list[Case]:
    return [({}, [f(2, 3, 4)], 1), ({"axis": 1}, [f(2, 3, 4)], 1), ({"axis": 2}, [f(2, 3, 4)], 1)]


def clips(revision: int) -> list[Case]:
    if revision < 11:
        return [({"min": -0.5, "max": 0.5}, [f(3, 4)], 1), ({"min": 0.0}, [f(3, 4)], 1), ({}, [f(3, 4)], 1)]
    low, high = np.array(-0.5, np.float32), np.array(0.5, np.float32)
    return [({}, [f(3, 4), low, high], 1), ({}, [f(3, 4), None, high], 1), ({}, [f(3, 4), low], 1)]


def pads(revision: int) -> list[Case]:
    x = f(2, 3, 5)
    if revision < 11:
        return [
            ({"pads": [0, 1, 2, 0, 0, 1], "value": 0.5}, [x], 1),
            ({"pads": [0, 0, 2, 0, 0, 1], "mode": "edge"}, [x], 1),
            ({"pads": [0, 0, 2, 0, 0, 1], "mode": "reflect"}, [x], 1),
        ]
    found: list[Case] = [
        ({}, [x, i(0, 1, 2, 0, 0, -1), np.array(0.5, np.float32)], 1),
        ({"mode": "edge"}, [x, i(0, 0, 2, 0, 1, 3)], 1),
        ({"mode": "reflect"}, [x, i(0, 1, 2, 0, 2, 1)], 1),
    ]
    if revision >= 18:
        found.append(({}, [x, i(1, 2), None, i(-1)], 1))
    return found


def slices(revision: int) -> list[Case]:
    x = f(4, 5, 6)
    if revision < 10:
        return [({"starts": [1, -3], "ends": [3, 100], "axes": [0, 2]}, [x], 1), ({"starts": [1], "ends": [2]}, [x], 1)]
    return [
        ({}, [x, i(1, -3), i(3, 100), i(0, 2)], 1),
        ({}, [x, i(0, 4), i(4, -100), i(1, -1), i(2, -2)], 1),
        ({}, [x, i(-1), i(0), i(1), i(-1)], 1),
        ({}, [x, i(1), i(2)], 1),
    ]


def splits(revision: int) -> list[Case]:
    x = f(4, 6)
    if revision < 13:
        return [({"axis": 1, "split": [1, 2, 3]}, [x], 3), ({}, [x], 2)]
    equal = {"num_outputs": 2} if revision >= 18 else {}
    uneven: list[Case] = [({"num_outputs": 3}, [f(7, 2)], 3)] if revision >= 18 else []
    return [({"axis": 1}, [x, i(1, 2, 3)], 3), (equal, [x], 2), *uneven]


def with_axes(axes: list[int], *shape: int) -> Callable[[int], list[Case]]:
    def cases(revision: int) -> list[Case]:
        if revision < 13:
            return [({"axes": [axis for axis in axes if axis >= 0] or [0]}, [f(*shape)], 1)]
        return [({}, [f(*shape), i(*axes)], 1)]

    return cases


def group_norms(revision: int) -> list[Case]:
    size = 2 if revision == 18 else 4
    return [({"num_groups": 2}, [f(2, 4, 3, 3), f(size), f(size, seed=1)], 1)]


def top(revision: int) -> list[Case]:
    if revision < 10:
        return [({"k": 2}, [f(3, 5)], 2)]
    more: list[Case] = [({"axis": 0, "largest": 0}, [f(3, 5), i(2)], 2)] if revision >= 11 else []
    return [({}, [f(3, 5), i(2)], 2), *more]


def arguments(revision: int) -> list[Case]:
    last: list[Case] = (
        [({"axis": 0, "select_last_index": 1}, [np.float32([[1, 2], [1, 2]])], 1)] if revision > 11 else []
    )
    return [({"axis": 1, "keepdims": 0}, [f(3, 5)], 1), ({}, [f(3, 5)], 1), *last]


def upsamples(revision: int) -> list[Case]:
    scales = [1.0, 1.0, 2.0, 3.0]
    found: list[Case] = []
    for mode in ("nearest", "linear"):
        if revision < 9:
            found.append(({"mode": mode, "scales": scales}, [f(1, 2, 3, 4)], 1))
        else:
            found.append(({"mode": mode}, [f(1, 2, 3, 4), np.float32(scales)], 1))
    return found


def resizes(revision: int) -> list[Case]:
    if revision < 11:
        return [({"mode": mode}, [f(1, 2, 3, 4), np.float32([1, 1, 2, 3])], 1) for mode in ("nearest", "linear")]
    x, scales, sizes = f(1, 2, 5, 6), np.float32([1, 1, 2, 1.5]), i(1, 2, 9, 4)
    found: list[Case] = []
    for mode in ("nearest", "linear", "cubic"):
        for how in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            attributes = {"mode": mode, "coordinate_transformation_mode": how}
            found += [(attributes, [x, None, scales], 1), (attributes, [x, None, None, sizes], 1)]
    for near in ("floor", "ceil", "round_prefer_ceil"):
        found.append(({"mode": "nearest", "nearest_mode": near}, [x, None, scales], 1))
    if revision >= 18:
        found.append(({"mode": "linear", "axes": [2, 3]}, [x, None, None, i(7, 3)], 1))
        smooth = {"mode": "linear", "antialias": 1}
        found += [(smooth, [f(1, 2, 9, 8), None, np.float32([1, 1, 0.6, 0.5])], 1), (smooth, [x, None, scales], 1)]
    return found


def casts(revision: int) -> list[Case]:
    return [({"to": int(kind)}, [3 * f(3, 4)], 1) for kind in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL)]


def constants(revision: int) -> list[Case]:
    found: list[Case] = [({"value": numpy_helper.from_array(f(2, 3))}, [], 1)]
    if revision >= 12:
        found += [({"value_float": 0.5}, [], 1), ({"value_ints": [1, 2]}, [], 1)]
    return found


def shapes(revision: int) -> list[Case]:
    more: list[Case] = [({"start": 1, "end": -1}, [f(2, 3, 4)], 1)] if revision >= 15 else []
    return [({}, [f(2, 3, 4)], 1), *more]


def spaces(revision: int) -> list[Case]:
    modes = ({"mode": mode} for mode in ("DCR", "CRD")) if revision >= 11 else iter([{}])
    return [({"blocksize": 2, **mode}, [f(2, 8, 3, 4)], 1) for mode in modes]


_UNARY = {
    "Acosh": up, "Log": up, "Sqrt": up, "Reciprocal": up, "Acos": unit, "Asin": unit, "Atanh": unit,
}  # fmt: skip
_PLAIN = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu"),
    *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Celu"),
)
_PAIR = ("Add", "Sub", "Mul", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
_LOGIC = ("And", "Or", "Xor")
_MANY = ("Sum", "Mean", "Max", "Min")
_REDUCED = (
    *("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSum", "ReduceLogSumExp"),
)

CASES: dict[str, Callable[[int], list[Case]]] = {
    **{name: plain(_UNARY.get(name, f)(3, 4)) for name in _PLAIN},
    **{name: plain(f(2, 3, 4), f(3, 1, seed=1)) for name in _PAIR},
    **{name: plain(b(2, 3), b(2, 3, seed=1)) for name in _LOGIC},
    **{name: plain(f(2, 3), f(2, 1, seed=1), f(3, seed=2)) for name in _MANY},
    **{name: axes_moved(18) for name in _REDUCED},
    "ReduceSum": axes_moved(13),
    "ArgMax": arguments,
    "ArgMin": arguments,
    "AveragePool": lambda revision: pools(revision, mean=True),
    "BatchNormalization": plain(f(2, 3, 4), f(3), f(3, seed=1), f(3, seed=2), up(3)),
    "Cast": casts,
    "Clip": clips,
    "Concat": plain(f(2, 3), f(2, 1), axis=1),
    "Constant": constants,
    "ConstantOfShape": each(
        ({}, [i(2, 3)], 1), ({"value": numpy_helper.from_array(np.array([7], np.int64))}, [i(2)], 1)
    ),
    "Conv": convs,
    "ConvTranspose": transposed,
    "CumSum": each(({}, [f(3, 4), np.array(1)], 1), ({"reverse": 1, "exclusive": 1}, [f(3, 4), np.array(0)], 1)),
    "DepthToSpace": spaces,
    "Div": each(({}, [f(2, 3), up(3)], 1), ({}, [i(-7, 7, 5), i(2, 2, -3)], 1)),
    "Dropout": plain(f(2, 3)),
    "Equal": plain(i(1, 2, 3), i(1, 5, 3)),
    "Expand": plain(f(3, 1), i(2, 1, 4)),
    "Flatten": each(({}, [f(2, 3, 4)], 1), ({"axis": 2}, [f(2, 3, 4)], 1), ({"axis": 0}, [f(2, 3)], 1)),
    "Gather": each(({"axis": 1}, [f(3, 4), np.array([[0, -1], [2, 1]])], 1), ({}, [f(3, 4), np.array(1)], 1)),
    "GatherElements": plain(f(3, 4), np.array([[0, -1], [2, 1], [0, 0]]), axis=1),
    "Gelu": each(({}, [f(3, 4)], 1), ({"approximate": "tanh"}, [f(3, 4)], 1)),
    "Gemm": gemms,
    "GlobalAveragePool": plain(f(2, 3, 4, 5)),
    "GlobalMaxPool": plain(f(2, 3, 4, 5)),
    "GroupNormalization": group_norms,
    "InstanceNormalization": plain(f(2, 3, 4, 5), f(3), f(3, seed=1)),
    "IsNaN": plain(np.float32([1, np.nan, np.inf])),
    "LayerNormalization": each(({}, [f(2, 3, 4), f(4), f(4, seed=1)], 1), ({"axis": 1}, [f(2, 3, 4), f(3, 4)], 1)),
    "LogSoftmax": softmaxes,
    "LpNormalization": each(({}, [f(3, 4)], 1), ({"axis": 0, "p": 1}, [f(3, 4)], 1)),
    "MatMul": plain(f(2, 3, 4), f(4, 5)),
    "MaxPool": lambda revision: pools(revision, mean=False),
    "Mod": each(({}, [i(-7, 7, 5), i(3, -3, 2)], 1), ({"fmod": 1}, [f(3, 4), up(4)], 1)),
    "Not": plain(b(3)),
    "Pad": pads,
    "Pow": plain(up(2, 3), f(3)),
    "PRelu": plain(f(2, 3, 4), f(3, 1)),
    "Range": plain(np.array(1, np.int64), np.array(9, np.int64), np.array(3, np.int64)),
    "Reshape": each(({}, [f(2, 3, 4), i(0, -1)], 1), ({}, [f(2, 3, 4), i(4, 6)], 1)),
    "Resize": resizes,
    "Shape": shapes,
    "Size": plain(f(2, 3)),
    "Slice": slices,
    "Softmax": softmaxes,
    "SpaceToDepth": plain(f(2, 2, 4, 6), blocksize=2),
    "Split": splits,
    "Squeeze": with_axes([1, -1], 2, 1, 3, 1),
    "Swish": each(({}, [f(3, 4)], 1), ({"alpha": 0.5}, [f(3, 4)], 1)),
    "Tile": plain(f(2, 3), i(2, 3)),
    "TopK": top,
    "Transpose": each(({}, [f(2, 3, 4)], 1), ({"perm": [0, 2, 1]}, [f(2, 3, 4)], 1)),
    "Unsqueeze": with_axes([1, -1], 2, 3),
    "Upsample": upsamples,
    "Where": plain(b(2, 3), f(3), f(2, 1)),
}
