"""Distance of one output from the original's, by the meaning of the output.

With a the original's output and b the other's, each kind has an error x_i per input i and the error c_i of a constant
output:

- values: the mean over elements of ``B(t, (a - b)^2 / v)``, v the variance of the element's channel, pooled over the
  channel's elements; constant: the mean of a over inputs, element by element;
- scores of classes: ``KL(a || b)`` softened by a temperature T, mean over positions; constant: the mean of the softened
  a, or equal scores where a hardly varies;
- labels: the share of positions with another label; constant: the most frequent label.

The distance is the mean of ``B(1, x_i / c)`` over inputs, c being the mean of c_i: 0 for equal outputs, about 1 for a
constant output, so that distances of several outputs can be averaged. ``B(t, r)`` is r up to t and ``2 t - t^2 / r``
beyond: bounded, so that an input counts at most as two constant outputs, and a single element at most as 2 t divided by
the number of elements (1/32 for 256 or more). Below the bounds it is the squared relative error, or the KL divergence.

A channel is the shorter of the first and the last axis behind the batch: columns of (N, C) and (N, P, C), maps of
(N, C, H, W). Its variance is measured on the first inputs (64, fewer where they are large), as is the constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import log_softmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, Any]

__all__ = ["Labels", "Measure", "Scores", "Values", "bounded", "difference", "normalised"]

_LEAST_POWER = 1e-12  # of the size of an output that varies
_LEAST_VARIANCE = 1e-6  # of a channel, relative to the median channel
_LEAST_KL = 1e-4  # nats, of the constant answer of scores that vary
_LEAST_BOUND, _MOST_BOUND, _ELEMENTS = 4.0, 64.0, 64
_SUM_TOLERANCE = 1e-3
_LEAST_PROBABILITY = 1e-12
_CHUNK = 1 << 21  # elements at a time


class Measure(Protocol):
    """Gathers errors of inputs, (n, k, ...) arrays at a time."""

    errors: list[Array]
    constants: list[Array]

    def add(self, wanted: Array, found: Array) -> None:
        """Add inputs."""


def bounded(limit: float, ratio: Array) -> Array:
    """``B(limit, ratio)`` of the module: the ratio up to the limit, twice the limit at infinity."""
    return np.asarray(np.where(ratio <= limit, ratio, 2 * limit - limit**2 / np.maximum(ratio, limit)))


def normalised(measure: Measure) -> Array:
    """(n,) contributions of the inputs to the distance, which is their mean."""
    errors, constants = np.concatenate(measure.errors), np.concatenate(measure.constants)
    scale = float(constants.mean()) if len(constants) else 0.0
    if not scale > 0:
        return np.where(errors > 0, np.inf, 0.0)
    return bounded(1.0, errors / scale)


def difference(wanted: Array, found: Array) -> Array:
    """Element-wise, infinite where one of them is no number; 0 where both are the same infinity."""
    with np.errstate(invalid="ignore"):
        apart = np.where(wanted == found, 0.0, wanted - found)
    apart[np.isnan(apart)] = np.inf
    return apart


@dataclass
class Values:
    """Numbers, see the module."""

    mean: Array
    variance: Array
    limit: float
    errors: list[Array] = field(default_factory=list)
    constants: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, first: Array) -> Values:
        """Mean and variances of the first inputs, (n, k, ...) float64; where they never vary, their size stands in."""
        with np.errstate(invalid="ignore"):
            mean = first.mean(axis=0)
            variance, size = (_by_channel(part) for part in (np.square(first - mean), np.square(first)))
        if not float(variance.sum()) > _LEAST_POWER * float(size.sum()):
            mean, variance = np.zeros_like(mean), size
        known = variance[(variance > 0) & np.isfinite(variance)]
        least = _LEAST_VARIANCE * float(np.median(known)) if len(known) else 0.0
        elements = first[0].size
        limit = min(max(elements / _ELEMENTS, _LEAST_BOUND), _MOST_BOUND)
        return cls(mean, np.maximum(variance, least), limit)

    def add(self, wanted: Array, found: Array) -> None:
        """Add inputs, (n, k, ...) float64 each."""
        for a, b in _chunks(wanted, found):
            self.errors.append(_mean(bounded(self.limit, self._ratio(a, b))))
            self.constants.append(_mean(self._ratio(a, np.broadcast_to(self.mean, a.shape))))

    def _ratio(self, a: Array, b: Array) -> Array:
        """Squared differences over the variance."""
        squares = np.square(difference(a, b))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(squares > 0, squares / self.variance, 0.0)


@dataclass
class Scores:
    """Scores of classes; ``axis``: of the classes in (n, k, ...), ``probable``: which of both are probabilities."""

    axis: int
    temperature: float
    probable: tuple[bool, bool]
    constant: Array
    errors: list[Array] = field(default_factory=list)
    constants: list[Array] = field(default_factory=list)
    agreement: list[Array] = field(default_factory=list)
    kl: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, wanted: Array, found: Array, *, axis: int, temperature: float, probable: bool | None) -> Scores:
        """Tell whether the first inputs are ``probable`` (None: by their numbers), and take their mean."""
        both = tuple(_probable(_rows(one, axis)) if probable is None else probable for one in (wanted, found))
        made = cls(axis, temperature, (both[0], both[1]), np.zeros(0))
        total, count = np.zeros(wanted.shape[axis]), 0
        for a, _ in _chunks(wanted, wanted):
            softened = np.exp(made._softened(_rows(a, axis), both[0], temperature))
            total += np.nan_to_num(softened).sum(axis=(0, 1))
            count += softened.shape[0] * softened.shape[1]
        made.constant = np.log(np.maximum(total / max(count, 1), _LEAST_PROBABILITY))
        for a, _ in _chunks(wanted, wanted):
            made.constants.append(made._from_constant(_rows(a, axis)))
        if not float(np.concatenate(made.constants).mean()) > _LEAST_KL:
            made.constant = np.full_like(total, -np.log(len(total)))
        made.constants.clear()
        return made

    def add(self, wanted: Array, found: Array) -> None:
        """Add inputs, (n, k, ...) float64 each."""
        for a, b in _chunks(wanted, found):
            left, right = _rows(a, self.axis), _rows(b, self.axis)
            known = ~(np.isnan(left) | np.isnan(right)).any(axis=-1)
            same = known & (left.argmax(axis=-1) == right.argmax(axis=-1))
            self.agreement.append(same.mean(axis=1))
            plain, soft = (
                [self._softened(one, p, t) for one, p in zip((left, right), self.probable, strict=True)]
                for t in (1.0, self.temperature)
            )
            self.kl.append(_kl(*plain))
            self.errors.append(_kl(*soft))
            self.constants.append(np.maximum(_kl(soft[0], self.constant), _LEAST_PROBABILITY))

    def _from_constant(self, rows: Array) -> Array:
        return _kl(self._softened(rows, self.probable[0], self.temperature), self.constant)

    @staticmethod
    def _softened(rows: Array, probable: bool, temperature: float) -> Array:
        """Logarithms of the softened probabilities."""
        if probable:
            rows = np.log(rows.clip(_LEAST_PROBABILITY, None))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(log_softmax(rows / temperature, axis=-1))


@dataclass
class Labels:
    """Integers of classes; ``constant``: the most frequent one."""

    constant: float
    errors: list[Array] = field(default_factory=list)
    constants: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, first: Array) -> Labels:
        """The most frequent label of the first inputs."""
        values, counts = np.unique(first, return_counts=True)
        return cls(float(values[counts.argmax()]) if len(values) else 0.0)

    def add(self, wanted: Array, found: Array) -> None:
        """Add inputs, (n, k, ...) each."""
        self.errors.append(_mean(wanted != found))
        self.constants.append(_mean(wanted != self.constant))


def _mean(array: Array) -> Array:
    """(n,) means over all other axes."""
    return np.asarray(array.mean(axis=tuple(range(1, array.ndim))))


def _by_channel(squares: Array) -> Array:
    """Mean over inputs and over the elements of each channel, shaped to broadcast against (n, k, ...)."""
    places = [place for place in range(1, squares.ndim) if place > 1 or squares.shape[1] != 1]
    if not places:
        return np.asarray(squares.mean(axis=0, keepdims=True))
    kept = places[0] if squares.shape[places[0]] <= squares.shape[places[-1]] else places[-1]
    return np.asarray(squares.mean(axis=tuple(place for place in range(squares.ndim) if place != kept), keepdims=True))


def _rows(array: Array, axis: int) -> Array:
    """(n, positions, classes)."""
    return np.moveaxis(array, axis, -1).reshape(len(array), -1, array.shape[axis])


def _probable(rows: Array) -> bool:
    """Tell whether all rows are probabilities."""
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=-1), 1, atol=_SUM_TOLERANCE))


def _kl(left: Array, right: Array) -> Array:
    """(n,) KL divergence of (n, positions, classes) logarithms, mean over positions; NaN is infinitely far."""
    with np.errstate(invalid="ignore"):
        found = np.where(left > -np.inf, np.exp(left) * (left - right), 0.0).sum(axis=-1).mean(axis=1)
    return np.asarray(np.where(np.isnan(found), np.inf, np.maximum(found, 0.0)))


def _chunks(wanted: Array, found: Array) -> Iterator[tuple[Array, Array]]:
    """Some inputs at a time, as float64: maps of many classes need much memory in between."""
    size = max(_CHUNK // max(wanted[:1].size, 1), 1)
    for start in range(0, len(wanted), size):
        yield (
            wanted[start : start + size].astype(np.float64),
            found[start : start + size].astype(np.float64),
        )
