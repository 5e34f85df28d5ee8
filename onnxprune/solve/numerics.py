"""Cholesky factors of second-moment matrices, independent of the scale of every column.

Factorises ``A + (ridge + jitter) D^2`` with ``D = diag(A)^(1/2)`` through the correlation form
``D^-1 A D^-1 + (ridge + jitter) I``: multiplying any column by a constant changes nothing but that column's
own result. Columns without variance get a zero row and a unit diagonal, so they take no part in any solution.
The jitter starts at the rounding of float32 sums and grows tenfold until the factor exists.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import linalg
from threadpoolctl import ThreadpoolController

__all__ = [
    "JITTER",
    "Array",
    "Array32",
    "Factor",
    "Indices",
    "blas_threads_for",
    "factorise",
    "fourth_moments",
    "mirror_lower",
    "scale_of",
    "solve_lower",
    "trusted_scale",
]

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

JITTER = 1e-7
_JITTER_LIMIT = 1e-1
_RARE, _RARE_SHARE = 50.0, 0.01  # effective samples below which a column is rare: a number, and a share of all
_ONE_THREAD_COLUMNS = 2500


@contextmanager
def blas_threads_for(columns: int, most: int = _ONE_THREAD_COLUMNS) -> Iterator[None]:
    """Limit BLAS to one thread for systems of up to `most` columns, whose small calls then run 2 to 4 times faster.

    The limit applies to the process, so systems must not be solved in several Python threads at once.
    """
    if columns > most:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@dataclass(frozen=True)
class Factor:
    """Cholesky factor of ``A + (ridge + jitter) D^2``.

    ``lower``: L of the correlation form, (p, p) float64. ``inverse_scale``: 1/D, (p,) float64, zero for a
    column without variance. ``jitter``: jitter that was needed for the factor to exist.
    """

    lower: Array
    inverse_scale: Array
    jitter: float

    def solve(self, right: Array) -> Array:
        """Compute ``(A + ...)^-1 right``: (p, m) float64."""
        half = linalg.cho_solve(
            (self.lower, True), self.inverse_scale[:, None] * right, overwrite_b=True, check_finite=False
        )
        return np.asarray(self.inverse_scale[:, None] * half, dtype=np.float64)

    def whiten(self, right: Array) -> Array:
        """Compute ``L^-1 D^-1 right``: (p, m) float64; its sum of squares is ``right^T (A + ...)^-1 right``."""
        return solve_lower(self.lower, self.inverse_scale[:, None] * right)

    @cached_property
    def inverse(self) -> Array:
        """Inverse of the correlation form, ``(D^-1 A D^-1 + ...)^-1``: (p, p) float64, both triangles."""
        if not len(self.lower):
            return np.zeros((0, 0))  # LAPACK refuses an empty matrix
        inverse, info = linalg.lapack.dpotri(self.lower, lower=1)
        if info:
            raise AssertionError(f"dpotri: the diagonal of a Cholesky factor is zero at {info}")
        return mirror_lower(np.asarray(inverse, dtype=np.float64))


def mirror_lower(matrix: Array) -> Array:
    """Copy the lower triangle of (p, p) ``matrix`` onto its upper one, in place."""
    width = 256
    for start in range(0, len(matrix), width):
        stop = start + width
        block = matrix[start:stop, start:stop]
        block[...] = np.tril(block) + np.tril(block, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
    return matrix


def solve_lower(lower: Array, right: Array) -> Array:
    """Compute ``lower^-1 right`` for lower triangular (p, p) and (p, m)."""
    return np.asarray(linalg.solve_triangular(lower, right, lower=True, check_finite=False), dtype=np.float64)


def scale_of(gram: Array) -> Array:
    """Compute ``diag(gram)^(1/2)``: (p,) float64, zero for a variance that rounding made negative."""
    return np.sqrt(np.maximum(np.diagonal(gram), 0.0))


def fourth_moments(rows: Array32) -> Array:
    """Compute the mean of the fourth powers of (n, p) float32 ``rows``: (p,) float64."""
    peak = np.maximum(rows.max(axis=0, initial=0.0), -rows.min(axis=0, initial=0.0))
    squares = np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0)  # no power is out of range
    np.square(squares, out=squares)
    return np.asarray(np.einsum("np,np->p", squares, squares) * peak.astype(np.float64) ** 4 / max(len(rows), 1))


def trusted_scale(gram: Array, fourth: Array, count: int) -> Array:
    """Compute ``scale_of``, with zero also for rare columns, which vary in a few samples only.

    Args:
        gram: second moments, (p, p).
        fourth: fourth moments, (p,).
        count: number of samples, n.

    Returns:
        Scale, (p,); zero if the effective number of samples, ``n E[x^2]^2 / E[x^4]``, is less than 50 and less than
        1 % of all.
    """
    scale = scale_of(gram)
    mattering = np.divide(count * scale**4, fourth, out=np.zeros_like(scale), where=(scale > 0) & (fourth > 0))
    scale[mattering < min(_RARE, _RARE_SHARE * count)] = 0.0
    return scale


def _nearest(gram: Array, inverse_scale: Array) -> Array:
    """Return the nearest matrix without negative eigenvalues, in the correlation form."""
    scale = np.divide(1.0, inverse_scale, out=np.zeros_like(inverse_scale), where=inverse_scale > 0)
    values, vectors = linalg.eigh(gram * inverse_scale * inverse_scale[:, None], check_finite=False)
    found = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray(scale[:, None] * found * scale, dtype=np.float64)


def factorise(gram: Array, *, ridge: float = 0.0, jitter: float = JITTER, scale: Array | None = None) -> Factor:
    """Factorise ``gram + (ridge + jitter) D^2``.

    Args:
        gram: (p, p) float64, symmetric, positive semidefinite to rounding.
        ridge: strength of the ridge, relative to D^2.
        jitter: least jitter, relative to D^2, that makes the factor exist.
        scale: D, (p,) float64; default ``diag(gram)^(1/2)``.
    """
    scale = scale_of(gram) if scale is None else scale
    inverse_scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    while True:
        scaled = gram * inverse_scale
        scaled *= inverse_scale[:, None]
        diagonal = np.einsum("ii->i", scaled)
        diagonal += ridge + jitter
        diagonal[scale <= 0] = 1.0
        try:
            lower = linalg.cholesky(scaled.T, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:
            if jitter >= 10:  # there are numbers in it that are none
                raise
            if jitter >= _JITTER_LIMIT:
                gram = _nearest(gram, inverse_scale)
            jitter *= 10
        else:
            return Factor(np.asarray(lower, dtype=np.float64), inverse_scale, jitter)
