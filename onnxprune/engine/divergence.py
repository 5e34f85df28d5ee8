"""Divergence between the outputs of two models, accumulated by batches.

The meaning of an output (`engine.meaning`) determines what is measured; `engine.distance` defines the distances:

- ``distance``: one number for every kind, 0 for equals and about 1 for a constant answer: what plans, sensitivities and
  recovery minimise. That of an undecided output is the mean of both kinds' distances; that of several outputs is the
  mean over outputs (`mean_distance`).
- ``relative_error``: for values, the square root of the distance: the bounded error over the output's own spread, which
  is the plain ``(sum (a - b)^2 / sum (a - mean a)^2)^(1/2)`` but for outliers. For scores, that of their numbers. For
  labels, the square root of the distance.
- ``top1_agreement`` and ``kl``: for classes, pixels and undecided outputs: the share of inputs (of positions, mean over
  inputs) with the same label, and ``KL(a || b)`` in nats, unsoftened.

NaN has an infinite distance from everything, and agrees with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri, stdtrit

from onnxprune.engine.distance import Labels, Scores, Values, difference, normalised
from onnxprune.engine.meaning import UNKNOWN, Meaning, OutputKind
from onnxprune.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["TEMPERATURE", "DivergenceMeter", "OutputDivergence", "class_scores", "mean_distance"]

TEMPERATURE = 4.0
"""Softmax temperature of the KL: at 1, the KL of a confident classifier on a few hundred inputs is noise."""
_FIRST, _LEAST_FIRST, _FIRST_BYTES = 64, 4, 64 << 20  # inputs that scales are measured on
_SURE = 0.95


@dataclass(frozen=True)
class OutputDivergence:
    """Divergence of one output.

    Attributes:
        name: name of the output.
        samples: number of inputs compared.
        relative_error: bounded relative error; 0 for equal outputs, about 1 for a constant output.
        max_abs: largest absolute difference of an element.
        top1_agreement: share of inputs, or of positions of an input, with equal labels, 0..1; None for values.
        kl: KL divergence in nats; None for values and labels.
        of_size: ``(sum (a - b)^2 / sum a^2)^(1/2)``, for outputs that hardly vary.
        kind: meaning of the output.
        distance: distance as minimised by plans, sensitivities and recovery.
        agreement_bound: 95 % confidence interval of the agreement over inputs (Wilson for classes, Student's t for
            pixels); None for values, and for pixels of one input.
        error_bound: 95 % confidence interval of the relative error over inputs (Student's t); None for one input, and
            for classes and pixels.
    """

    name: str
    samples: int
    relative_error: float
    max_abs: float
    top1_agreement: float | None = None
    kl: float | None = None
    of_size: float = 0.0
    kind: OutputKind = "values"
    distance: float = 0.0
    agreement_bound: tuple[float, float] | None = None
    error_bound: tuple[float, float] | None = None


class DivergenceMeter:
    """Accumulator of differences: ``add`` each batch, then ``finish``."""

    def __init__(self, meanings: Mapping[str, Meaning] | None = None, temperature: float = TEMPERATURE) -> None:
        """``meanings``: by output name; an output without one is undecided or values, by its shape. ``temperature``: of
        the distance of scores."""
        self._meanings = meanings or {}
        self._sums: dict[str, _Sums] = {}
        self._temperature = temperature

    def add(
        self, reference: Mapping[str, Array], candidate: Mapping[str, Array], rows: int, batch: int | None = None
    ) -> None:
        """Compare outputs by name, over the first ``rows`` of the ``batch`` inputs that were run (None: of as many as
        an output is long).

        Raises:
            VerifyError: an output is missing or has another shape.
        """
        for name, wanted in reference.items():
            found = candidate.get(name)
            if found is None or found.shape != wanted.shape:
                shape = "is missing" if found is None else f"has shape {found.shape}"
                raise VerifyError(f"output '{name}' {shape}, the original's has {wanted.shape}")
            if name not in self._sums:
                self._sums[name] = _Sums(self._meanings.get(name, UNKNOWN), self._temperature)
            self._sums[name].add(wanted, found, rows, batch)

    def finish(self, distinct: int | None = None) -> tuple[OutputDivergence, ...]:
        """One entry an output, in the order in which they were seen; ``distinct``: inputs that are no near-duplicates
        of each other, which bounds are computed for (None: all)."""
        return tuple(sums.finish(name, distinct) for name, sums in self._sums.items())


def mean_distance(found: Iterable[OutputDivergence]) -> float:
    """Return the mean distance of several outputs; 0 for none."""
    distances = [output.distance for output in found]
    return float(np.mean(distances)) if distances else 0.0


def class_scores(output: Array, axis: int | None = None) -> Array | None:
    """Reshape an output to (N, C) scores of C classes, float64; None if it has no single axis of two or more.

    Args:
        output: output, (N, ...).
        axis: class axis; None for the only axis behind the batch that is not of size 1.
    """
    if output.ndim < 2 or output.dtype.kind != "f":
        return None
    wide = [place for place in range(1, output.ndim) if output.shape[place] != 1]
    if len(wide) != 1 or output.shape[wide[0]] < 2 or axis not in (None, wide[0]):
        return None
    return output.reshape(len(output), output.shape[wide[0]]).astype(np.float64)


@dataclass
class _Sums:
    """Sums over the inputs for one output, and a measure for each kind that it may have."""

    meaning: Meaning
    temperature: float
    kind: OutputKind = "values"
    samples: int = 0
    apart: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    unknown: bool = False  # whether a number is none
    first: list[tuple[Array, Array]] = field(default_factory=list)
    wanted_first: int = _FIRST
    values: Values | None = None
    scores: Scores | None = None
    labels: Labels | None = None

    def add(self, wanted: Array, found: Array, rows: int, batch: int | None) -> None:
        if wanted.dtype.kind not in "fiub":  # texts: the same, or not
            wanted, found = np.zeros(wanted.shape), np.asarray(wanted != found, dtype=np.float64)
        a, b = (_by_input(array, rows, batch) for array in (wanted, found))
        if not self.samples:
            self.wanted_first = int(np.clip(_FIRST_BYTES // max(a[:1].nbytes, 1), _LEAST_FIRST, _FIRST))
        self.samples += len(a)
        self._add_plain(a, b)
        if not self._begun:
            taken = min(self.wanted_first - sum(len(one) for one, _ in self.first), len(a))
            self.first.append((a[:taken], b[:taken]))
            if sum(len(one) for one, _ in self.first) >= self.wanted_first:
                self._begin()
            a, b = a[taken:], b[taken:]
        if len(a):
            self._measure(a, b)

    @property
    def _begun(self) -> bool:
        return self.values is not None or self.labels is not None

    def _add_plain(self, a: Array, b: Array) -> None:
        a, b = a.astype(np.float64), b.astype(np.float64)
        apart = difference(a, b)
        self.unknown |= bool(np.isnan(b).any() or np.isnan(a).any())
        with np.errstate(invalid="ignore"):
            self.squares += float(np.vdot(a, a))
        self.apart += float(np.vdot(apart, apart))
        self.largest = max(self.largest, float(np.abs(apart).max(initial=0.0)))

    def _begin(self) -> None:
        """Measure scales on the first inputs, and then these."""
        if not self.first:
            return
        a, b = (np.concatenate([pair[side] for pair in self.first]) for side in (0, 1))
        self.first = []
        if not a.size:
            return
        if self.meaning.kind in ("classes", "pixels") and (a.dtype.kind in "iub" or self.meaning.says == "labels"):
            self.kind, self.labels = self.meaning.kind, Labels.of(a)
        else:
            self.values = Values.of(a.astype(np.float64))
            axis = self._class_axis(a)
            if axis is not None:
                several = a[:1].size > a.shape[axis]
                self.kind = "pixels" if several else self.meaning.kind
                probable = {"probabilities": True, "logarithms": False}.get(self.meaning.says or "")
                self.scores = Scores.of(a, b, axis=axis, temperature=self.temperature, probable=probable)
        self._measure(a, b)

    def _class_axis(self, array: Array) -> int | None:
        """Measure (n, k, ...) floats; None for values."""
        kind = self.meaning.kind
        if kind == "values" or array.dtype.kind != "f":
            return None
        if self.meaning.axis is not None and self.meaning.axis + 1 < array.ndim:
            axis = self.meaning.axis + 1
        else:
            wide = [place for place in range(1, array.ndim) if array.shape[place] != 1]
            one_a_position = kind == "undecided" and array.ndim == 4 and wide == [2]
            if len(wide) != 1 or one_a_position:
                return None
            axis = wide[0]
        several = array[:1].size > array.shape[axis]
        return None if array.shape[axis] < 2 or (kind == "undecided" and several) else axis

    def _measure(self, a: Array, b: Array) -> None:
        for measure in (self.values, self.scores, self.labels):
            if measure is not None:
                measure.add(a, b)

    def finish(self, name: str, distinct: int | None) -> OutputDivergence:
        if not self._begun:
            self._begin()
        plain = OutputDivergence(
            name=name,
            samples=self.samples,
            relative_error=0.0,
            max_abs=self.largest,
            of_size=_share(self.apart, self.squares),
            kind=self.kind,
            distance=0.0,
        )
        count = min(self.samples, distinct or self.samples)
        if self.labels is not None:
            return self._of_labels(plain, self.labels, count)
        if self.values is None:
            return plain
        parts = normalised(self.values)
        square = float(parts.mean()) if not np.isinf(self.largest) else float("inf")
        found = replace(plain, relative_error=square**0.5, distance=square)
        if self.kind in ("values", "undecided"):
            found = replace(found, error_bound=_error_bound(parts, count))
        return found if self.scores is None else self._of_scores(found, self.scores, count)

    def _of_labels(self, plain: OutputDivergence, labels: Labels, count: int) -> OutputDivergence:
        agreement, distance = 1 - np.concatenate(labels.errors), float(normalised(labels).mean())
        return replace(
            plain,
            relative_error=distance**0.5,
            distance=distance,
            top1_agreement=float(agreement.mean()),
            agreement_bound=_agreement_bound(agreement, self.kind, count),
        )

    def _of_scores(self, plain: OutputDivergence, scores: Scores, count: int) -> OutputDivergence:
        agreement = np.concatenate(scores.agreement)
        distance = float("inf") if self.unknown else float(normalised(scores).mean())
        return replace(
            plain,
            distance=(distance + plain.distance) / 2 if self.kind == "undecided" else distance,
            top1_agreement=float(agreement.mean()),
            kl=float(np.concatenate(scores.kl).mean()),
            agreement_bound=_agreement_bound(agreement, self.kind, count),
        )


def _by_input(array: Array, rows: int, batch: int | None) -> Array:
    """(n, k, ...): the rows that count, k of the first axis to an input; what has no batch axis is one input."""
    size = batch or (len(array) if array.ndim and len(array) >= rows else 0)
    if not array.ndim or not size or not len(array) or len(array) % size:
        return array.reshape(1, 1) if not array.ndim else array[None]
    return array.reshape(size, len(array) // size, *array.shape[1:])[:rows]


def _share(apart: float, power: float) -> float:
    """Square root of one over the other; 0 where nothing is apart."""
    if not apart:
        return 0.0
    return float((apart / power) ** 0.5) if 0 < power < np.inf else float("inf")


def _agreement_bound(agreement: Array, kind: OutputKind, count: int) -> tuple[float, float] | None:
    """Confidence interval over inputs, ``count`` of them distinct."""
    mean = float(agreement.mean())
    if kind == "pixels":
        bound = _mean_bound(agreement, count)
        return None if bound is None else (max(bound[0], 0.0), min(bound[1], 1.0))
    return wilson(round(mean * count) / count, count)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of `count` inputs, within 0..1 (Wilson, 1927).

    As by ``scipy.stats.binomtest``, whose module takes most of a second to import.
    """
    z = float(ndtri((1 + _SURE) / 2))
    weight = z * z / count
    middle = (share + weight / 2) / (1 + weight)
    reach = z * (share * (1 - share) / count + weight / (4 * count)) ** 0.5 / (1 + weight)
    return (middle - reach if share > 0 else 0.0), (middle + reach if share < 1 else 1.0)


def _error_bound(parts: Array, count: int) -> tuple[float, float] | None:
    """Compute the interval of the relative error from the inputs' contributions to its square."""
    bound = _mean_bound(parts, count)
    return None if bound is None else (max(bound[0], 0.0) ** 0.5, bound[1] ** 0.5)


def _mean_bound(parts: Array, count: int) -> tuple[float, float] | None:
    """Student's interval of a mean; None for one input, and where a part is infinite."""
    if count < 2 or not np.isfinite(parts).all():
        return None
    mean, error = float(parts.mean()), float(parts.std(ddof=1)) / count**0.5
    reach = float(stdtrit(count - 1, (1 + _SURE) / 2)) * error
    return mean - reach, mean + reach
