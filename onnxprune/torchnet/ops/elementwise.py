"""Operators that work element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from onnxprune.torchnet.ops.registry import Call, UnsupportedError, beside, torch_op

_UNARY: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "Abs": (torch.abs, (6, 13)),
    "Acos": (torch.acos, (7, 22)),
    "Acosh": (torch.acosh, (9, 22)),
    "Asin": (torch.asin, (7, 22)),
    "Asinh": (torch.asinh, (9, 22)),
    "Atan": (torch.atan, (7, 22)),
    "Atanh": (torch.atanh, (9, 22)),
    "Ceil": (torch.ceil, (6, 13)),
    "Cos": (torch.cos, (7, 22)),
    "Cosh": (torch.cosh, (9, 22)),
    "Erf": (torch.erf, (9, 13)),
    "Exp": (torch.exp, (6, 13)),
    "Floor": (torch.floor, (6, 13)),
    "HardSwish": (functional.hardswish, (14, 22)),
    "IsNaN": (torch.isnan, (9, 13, 20)),
    "Log": (torch.log, (6, 13)),
    "Mish": (functional.mish, (18, 22)),
    "Neg": (torch.neg, (6, 13)),
    "Not": (torch.logical_not, (1,)),
    "Reciprocal": (torch.reciprocal, (6, 13)),
    "Relu": (torch.relu, (6, 13, 14)),
    "Round": (torch.round, (11, 22)),
    "Sigmoid": (torch.sigmoid, (6, 13)),
    "Sign": (torch.sign, (9, 13)),
    "Sin": (torch.sin, (7, 22)),
    "Sinh": (torch.sinh, (9, 22)),
    "Softplus": (functional.softplus, (1, 22)),
    "Softsign": (functional.softsign, (1, 22)),
    "Sqrt": (torch.sqrt, (6, 13)),
    "Tan": (torch.tan, (7, 22)),
    "Tanh": (torch.tanh, (6, 13)),
}
_BINARY: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "Add": (torch.add, (7, 13, 14)),
    "Sub": (torch.sub, (7, 13, 14)),
    "Mul": (torch.mul, (7, 13, 14)),
    "Equal": (torch.eq, (7, 11, 13, 19)),
    "Greater": (torch.gt, (7, 9, 13)),
    "GreaterOrEqual": (torch.ge, (12, 16)),
    "Less": (torch.lt, (7, 9, 13)),
    "LessOrEqual": (torch.le, (12, 16)),
    "And": (torch.logical_and, (7,)),
    "Or": (torch.logical_or, (7,)),
    "Xor": (torch.logical_xor, (7,)),
}


def _register_unary(name: str, function: Callable[[Tensor], Tensor], since: tuple[int, ...]) -> None:
    torch_op(name, since=since)(lambda call, x: function(x))


def _register_binary(name: str, function: Callable[[Tensor, Tensor], Tensor], since: tuple[int, ...]) -> None:
    torch_op(name, since=since)(lambda call, a, b: function(*beside(a, b)))


for _name, (_function, _since) in _UNARY.items():
    _register_unary(_name, _function, _since)
for _name, (_both, _since) in _BINARY.items():
    _register_binary(_name, _both, _since)


@torch_op("Div", since=(7, 13, 14))
def div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    a, b = beside(a, b)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@torch_op("Mod", since=(10, 13))
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The sign of the divisor, or with ``fmod`` that of the dividend."""
    return (torch.fmod if call.get("fmod", 0) else torch.remainder)(*beside(a, b))


@torch_op("Pow", since=(7, 12, 13, 15))
def power(call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    """The result has the type of the base."""
    base, exponent = beside(base, exponent)
    return torch.pow(base, exponent).to(base.dtype)


@torch_op("Sum", since=(6, 8, 13))
def total(call: Call, *tensors: Tensor) -> Tensor:
    """Add any number of tensors."""
    return functools.reduce(torch.add, beside(*tensors))


@torch_op("Mean", since=(6, 8, 13))
def mean(call: Call, *tensors: Tensor) -> Tensor:
    """Average any number of tensors."""
    return functools.reduce(torch.add, beside(*tensors)) / len(tensors)


@torch_op("Max", since=(6, 8, 12, 13))
def largest(call: Call, *tensors: Tensor) -> Tensor:
    """Take the elementwise maximum of any number of tensors."""
    return functools.reduce(torch.maximum, beside(*tensors))


@torch_op("Min", since=(6, 8, 12, 13))
def least(call: Call, *tensors: Tensor) -> Tensor:
    """Take the elementwise minimum of any number of tensors."""
    return functools.reduce(torch.minimum, beside(*tensors))


@torch_op("Where", since=(9, 16))
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Broadcast three ways."""
    condition, a, b = beside(condition, a, b)
    return torch.where(condition, a, b)


@torch_op("Clip", since=(6,))
def clip_by_attributes(call: Call, x: Tensor) -> Tensor:
    """Bounds as attributes."""
    return torch.clamp(x, call.get("min", None), call.get("max", None)) if {"min", "max"} & set(call.attributes) else x


@torch_op("Clip", since=(11, 12, 13))
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds as inputs; where they cross, the upper one holds."""
    if low is not None and high is not None and low.device.type == "cpu":  # reading a GPU's bounds would wait for it
        least, most = float(low), float(high)
        if least < most:  # one pass over the memory forward and one back, where maximum and minimum take ten
            return functional.hardtanh(x, least, most)
    if low is not None:
        x = torch.maximum(*beside(x, low.to(x.dtype)))
    return x if high is None else torch.minimum(*beside(x, high.to(x.dtype)))


@torch_op("PRelu", since=(7, 9, 16))
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """The slope broadcasts to the input."""
    x, slope = beside(x, slope)
    return torch.where(x < 0, x * slope, x)


@torch_op("LeakyRelu", since=(6, 16))
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Slope ``alpha`` below zero."""
    return functional.leaky_relu(x, call.get("alpha", 0.01))


@torch_op("ThresholdedRelu", since=(10, 22))
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """X where it is above ``alpha``, and zero elsewhere."""
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@torch_op("Elu", since=(6, 22))
def elu(call: Call, x: Tensor) -> Tensor:
    """``alpha (exp(x) - 1)`` below zero."""
    return functional.elu(x, call.get("alpha", 1.0))


@torch_op("Celu", since=(12,))
def celu(call: Call, x: Tensor) -> Tensor:
    """``alpha (exp(x / alpha) - 1)`` below zero."""
    return functional.celu(x, call.get("alpha", 1.0))


@torch_op("Selu", since=(6, 22))
def selu(call: Call, x: Tensor) -> Tensor:
    """With the scales of the node."""
    alpha, gamma = call.get("alpha", 1.6732632423543772), call.get("gamma", 1.0507009873554805)
    return functional.elu(x, alpha) * float(gamma)


@torch_op("Gelu", since=(20,))
def gelu(call: Call, x: Tensor) -> Tensor:
    """Exact, or by tanh."""
    return functional.gelu(x, approximate=call.expect("approximate", "none", "tanh"))


@torch_op("Swish", since=(24,))
def swish(call: Call, x: Tensor) -> Tensor:
    """``x sigmoid(alpha x)``."""
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@torch_op("HardSigmoid", since=(6, 22))
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """``alpha x + beta``, held within 0 and 1."""
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


@torch_op("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def identity(call: Call, x: Tensor) -> Tensor:
    """Return the input."""
    return x


@torch_op("Dropout", since=(7, 10, 12, 13, 22))
def dropout(call: Call, x: Tensor, *unused: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Nothing is dropped, as at inference."""
    return x if call.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@torch_op("Cast", since=(6, 9, 13, 19, 21, 23, 24, 25))
def cast(call: Call, x: Tensor) -> Tensor:
    """All short floating-point types are computed with as float32."""
    return x.to(working_type(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(call.get("to", 1)))))


def working_type(kind: np.dtype[Any]) -> torch.dtype:
    """The torch type that an ONNX tensor is computed with.

    Raises:
        UnsupportedError: torch has none.
    """
    if kind.name in ("float16", "bfloat16", "float32"):
        return torch.float32
    known = {
        "float64": torch.float64,
        "bool": torch.bool,
        "uint8": torch.uint8,
        "int8": torch.int8,
        "int16": torch.int16,
        "int32": torch.int32,
        "int64": torch.int64,
    }
    if kind.name not in known:
        raise UnsupportedError(f"tensors of type {kind.name}")
    return known[kind.name]
