"""How far one model's outputs are from another's, gathered batch by batch.

With a the reference and b the candidate, the relative error of an output is ``(sum (a - b)^2 / sum (a - mean
a)^2)^(1/2)``, the mean taken over samples, element by element of a sample. An output (N, C), axes of size one
aside, with two or more floating-point columns is taken for a classifier's: the share of samples with the same
largest column, and ``KL(a || b)`` in nats, mean over samples. Where all rows are non-negative and sum to one they
are probabilities, elsewhere logits. With a temperature T both are softened, p^(1/T) renormalised. NaN is infinitely
far from everything, and agrees with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from onnxprune.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["DivergenceMeter", "OutputDivergence", "class_scores"]

_SUM_TOLERANCE = 1e-3
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class OutputDivergence:
    """One output.

    Attributes:
        name: of the output.
        samples: how many were compared.
        relative_error: see the module; 0 is equal.
        max_abs: largest difference of an element.
        of_size: ``(sum (a - b)^2 / sum a^2)^(1/2)``, where an output hardly varies.
        top1_agreement: share of samples, 0 to 1; None for what is no classifier's output.
        kl: nats; None likewise.
    """

    name: str
    samples: int
    relative_error: float
    max_abs: float
    top1_agreement: float | None = None
    kl: float | None = None
    of_size: float = float("nan")


class DivergenceMeter:
    """Gathers differences: ``add`` batch after batch, then ``finish``."""

    def __init__(self, temperature: float = 1.0) -> None:
        self._sums: dict[str, _Sums] = {}
        self._temperature = temperature

    def add(self, reference: Mapping[str, Array], candidate: Mapping[str, Array], rows: int) -> None:
        """Compare outputs by name; only the first ``rows`` samples count.

        Raises:
            VerifyError: an output is missing or has another shape.
        """
        for name, wanted in reference.items():
            found = candidate.get(name)
            if found is None or found.shape != wanted.shape:
                shape = "is missing" if found is None else f"has shape {found.shape}"
                raise VerifyError(f"output '{name}' {shape}, the original's has {wanted.shape}")
            self._sums.setdefault(name, _Sums(self._temperature)).add(wanted, found, rows)

    def finish(self) -> tuple[OutputDivergence, ...]:
        """One entry an output, in the order in which they were seen."""
        return tuple(sums.finish(name) for name, sums in self._sums.items())


def _share(apart: float, power: float) -> float:
    """Square root of one over the other; 0 where nothing is apart."""
    if not apart:
        return 0.0
    return float((apart / power) ** 0.5) if 0 < power < np.inf else float("inf")


@dataclass
class _Sums:
    temperature: float
    samples: int = 0
    apart: float = 0.0
    squares: float = 0.0
    total: Array = field(default_factory=lambda: np.zeros(0))
    largest: float = 0.0
    classified: int = 0
    agreed: int = 0
    probable: list[bool] = field(default_factory=lambda: [True, True])
    kl: Array = field(default_factory=lambda: np.zeros((2, 2)))  # both taken for logits (0) or probabilities (1)

    def add(self, wanted: Array, found: Array, rows: int) -> None:
        if wanted.dtype.kind not in "fiub":  # texts: the same, or not
            wanted, found = np.zeros(wanted.shape), np.asarray(wanted != found, dtype=np.float64)
        whole = wanted.ndim == 0 or len(wanted) < rows
        a, b = (np.atleast_1d(v if whole else v[:rows]).astype(np.float64) for v in (wanted, found))
        with np.errstate(invalid="ignore"):
            apart = np.where(a == b, 0.0, a - b)
            flat = a.sum(axis=0).ravel()
            self.squares += float(np.vdot(a, a))
        apart[np.isnan(apart)] = np.inf
        self.apart += float(np.vdot(apart, apart))
        self.total = flat if not self.samples or flat.shape != self.total.shape else self.total + flat
        self.samples += len(a)
        self.largest = max(self.largest, float(np.abs(apart).max(initial=0.0)))
        scores = class_scores(wanted), class_scores(found)
        if scores[0] is not None and scores[1] is not None and not whole:
            self._add_scores(scores[0][:rows], scores[1][:rows])

    def _add_scores(self, left: Array, right: Array) -> None:
        self.classified += len(left)
        known = ~(np.isnan(left) | np.isnan(right)).any(axis=1)
        self.agreed += int((known & (left.argmax(axis=1) == right.argmax(axis=1))).sum())
        for side, scores in enumerate((left, right)):
            self.probable[side] &= bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=_SUM_TOLERANCE))
        with np.errstate(invalid="ignore", divide="ignore"):
            both = [[self._softened(s), self._softened(_logarithms(s))] for s in (left, right)]
            self.kl += [[_kl(a, b) for b in both[1]] for a in both[0]]

    def _softened(self, logits: Array) -> Array:
        return np.asarray(log_softmax(logits / self.temperature, axis=1))

    def finish(self, name: str) -> OutputDivergence:
        count = max(self.samples, 1)
        with np.errstate(invalid="ignore"):
            power = self.squares - float(np.vdot(self.total, self.total)) / count
        # One sample, or an output that never varies, has no variance: its size stands in.
        power = power if power > 1e-12 * self.squares else self.squares
        return OutputDivergence(
            name=name,
            samples=self.samples,
            relative_error=_share(self.apart, power),
            max_abs=self.largest,
            top1_agreement=self.agreed / self.classified if self.classified else None,
            kl=float(self.kl[int(self.probable[0]), int(self.probable[1])]) / self.classified
            if self.classified
            else None,
            of_size=_share(self.apart, self.squares),
        )


def class_scores(output: Array) -> Array | None:
    """An output as (N, C) scores of C classes, float64; None if it cannot be that."""
    if output.ndim < 2 or output.dtype.kind != "f":
        return None
    wide = [axis for axis in range(1, output.ndim) if output.shape[axis] != 1]
    if len(wide) != 1 or output.shape[wide[0]] < 2:
        return None
    return output.reshape(len(output), output.shape[wide[0]]).astype(np.float64)


def _logarithms(scores: Array) -> Array:
    """Of probabilities, none of them zero."""
    clipped = scores.clip(_LEAST_PROBABILITY, None)
    return np.asarray(np.log(clipped / clipped.sum(axis=1, keepdims=True)))


def _kl(left: Array, right: Array) -> float:
    """Of two lists of logarithms, summed over rows."""
    total = float(np.where(left > -np.inf, np.exp(left) * (left - right), 0.0).sum())
    return np.inf if np.isnan(total) else max(total, 0.0)
