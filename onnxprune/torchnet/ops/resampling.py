"""Resize and Upsample: each axis is a sum of neighbours with weights, so one axis after the other is resampled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from onnxprune.torchnet.ops.registry import Call, UnsupportedError, torch_op

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


@torch_op("Upsample", since=(7, 9))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Scales as an attribute (revision 7) or an input."""
    factors = call.get("scales", None) if scales is None else scales.tolist()
    mode = call.expect("mode", "nearest", "linear", "bilinear")
    for axis, factor in enumerate(factors):
        size = math.floor(x.shape[axis] * factor)
        where = torch.arange(size, dtype=torch.float64) / factor
        x = _nearest(x, axis, where, "floor") if mode == "nearest" else _linear(x, axis, where)
    return x


@torch_op("Resize", since=(10,))
def resize_by_scales(call: Call, x: Tensor, scales: Tensor) -> Tensor:
    """Like Upsample, also downwards."""
    return upsample(call, x, scales)


@torch_op("Resize", since=(11, 13, 18, 19))
def resize(
    call: Call, x: Tensor, region: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """To sizes or by scales, in three modes and five kinds of coordinates; antialiased if linear at half pixels."""
    smooth = bool(call.expect("antialias", 0, 1))
    call.expect("keep_aspect_ratio_policy", "stretch")
    call.expect("exclude_outside", 0)
    how = call.expect("coordinate_transformation_mode", "half_pixel", *_COORDINATES)
    mode = call.expect("mode", "nearest", "linear", "cubic")
    if smooth and (mode, how) != ("linear", "half_pixel"):
        raise UnsupportedError(f"Resize with antialias, mode {mode} and coordinates {how}")
    axes = [int(axis) % x.dim() for axis in call.get("axes", range(x.dim()))]
    given = sizes is not None and sizes.numel() > 0
    amounts = sizes if given else scales
    if amounts is None:
        raise UnsupportedError("Resize without sizes and scales")
    for axis, amount in zip(axes, amounts.tolist(), strict=True):
        before = x.shape[axis]
        after = int(amount) if given else math.floor(before * amount)
        scale = after / before if given else float(amount)
        if after == before and scale == 1:
            continue
        where = _source(torch.arange(after, dtype=torch.float64), how, before, after, scale)
        if mode == "nearest":
            x = _nearest(x, axis, where, call.get("nearest_mode", "round_prefer_floor"))
        elif mode == "linear" and smooth and scale < 1:
            x = _antialiased(x, axis, where, scale)
        elif mode == "linear":
            x = _linear(x, axis, where)
        else:
            x = _cubic(x, axis, where, call.get("cubic_coeff_a", -0.75))
    return x


def _source(place: Tensor, how: str, before: int, after: int, scale: float) -> Tensor:
    """Compute the place of each element of the result in the input."""
    if how == "asymmetric":
        return place / scale
    if how == "align_corners":
        return place * (before - 1) / (after - 1) if after > 1 else torch.zeros_like(place)
    if how == "pytorch_half_pixel" and after == 1:
        return torch.zeros_like(place)
    if how == "half_pixel_symmetric":
        whole = before * scale
        return before / 2 * (1 - after / whole) + (place + 0.5) / scale - 0.5
    return (place + 0.5) / scale - 0.5


def _nearest(x: Tensor, axis: int, where: Tensor, mode: str) -> Tensor:
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda w: torch.ceil(w - 0.5),
        "round_prefer_ceil": lambda w: torch.floor(w + 0.5),
    }
    picked = ways[mode](where).clamp(0, x.shape[axis] - 1).long()
    return x.index_select(axis, picked.to(x.device))


def _weighted(x: Tensor, axis: int, base: Tensor, taps: list[tuple[int, Tensor]]) -> Tensor:
    """Sum over neighbours; those beyond an edge are what stands at it."""
    shape = [1] * x.dim()
    shape[axis] = len(base)
    total: Tensor | None = None
    for offset, weight in taps:
        picked = x.index_select(axis, (base + offset).clamp(0, x.shape[axis] - 1).long().to(x.device))
        term = picked * weight.to(x).reshape(shape)
        total = term if total is None else total + term
    assert total is not None
    return total


def _linear(x: Tensor, axis: int, where: Tensor) -> Tensor:
    where = where.clamp(0, x.shape[axis] - 1)
    base = torch.floor(where)
    part = where - base
    return _weighted(x, axis, base, [(0, 1 - part), (1, part)])


def _antialiased(x: Tensor, axis: int, where: Tensor, scale: float) -> Tensor:
    """Average with a triangle as wide as two elements of the result; elements beyond an edge are what stands at it."""
    size, beyond = x.shape[axis], math.ceil(1 / scale) + 1
    place = torch.arange(-beyond, size + beyond)
    weights = (1 - (place - where[:, None]).abs() * scale).clamp(min=0)
    folded = torch.zeros(len(where), size, dtype=torch.float64)
    folded.index_add_(1, place.clamp(0, size - 1), weights / weights.sum(1, keepdim=True))
    smaller: Tensor = torch.tensordot(x, folded.to(x), dims=([axis], [1]))
    return smaller.movedim(-1, axis)


def _cubic(x: Tensor, axis: int, where: Tensor, a: float) -> Tensor:
    base = torch.floor(where)
    part = where - base

    def near(d: Tensor) -> Tensor:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1

    def far(d: Tensor) -> Tensor:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return _weighted(x, axis, base, [(-1, far(part + 1)), (0, near(part)), (1, near(1 - part)), (2, far(2 - part))])
