"""Near-duplicate inputs: bursts, frames of a video, one photo under two names.

Two inputs are near-duplicates if the squared distance between their signatures (means over a coarse grid) is at most
1 % of the mean squared distance between two inputs. Near-duplicates must not be on both sides of a split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.data.calibration import Calibration

__all__ = ["near_duplicates"]

_VALUES = 256  # values per signature, about
_NEAR = 0.01
_BATCH = 32
_ROWS = 512  # signatures compared at once


def near_duplicates(calibration: Calibration, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of near-duplicates of each sample: (n,) int64, groups numbered in order of their first members.

    A sample joins the first earlier near-duplicate that leads a group, so that no chain of small steps joins samples
    that are far apart. Synthetic inputs have no near-duplicates.

    Args:
        calibration: the inputs; each sample is read once.
        samples: (n,) indices of the samples.
    """
    if calibration.synthetic:
        return np.arange(len(samples), dtype=np.int64)
    parts = [_signatures(calibration, samples[at : at + _BATCH]) for at in range(0, len(samples), _BATCH)]
    return _grouped(np.concatenate(parts))


def _signatures(calibration: Calibration, samples: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the signatures of some samples: (n, values) float32."""
    loaded = calibration.load([int(sample) for sample in samples])
    return np.concatenate([_coarse(array) for array in loaded.values()], axis=1)


def _coarse(array: NDArray[Any]) -> NDArray[np.float32]:
    """Average (n, ...) over a coarse grid on all axes but the first: (n, values) float32."""
    values: NDArray[Any] = array.astype(np.float32)
    wide = [axis for axis in range(1, values.ndim) if values.shape[axis] > 1]
    side = max(int(_VALUES ** (1 / max(len(wide), 1))), 1)
    for axis in wide:
        extent = values.shape[axis]
        if extent > side:
            starts = np.arange(side) * extent // side
            shape = [1] * values.ndim
            shape[axis] = side
            values = np.add.reduceat(values, starts, axis=axis) / np.diff([*starts, extent]).reshape(shape)
    return np.asarray(values.reshape(len(values), -1), dtype=np.float32)


def _grouped(signatures: NDArray[np.float32]) -> NDArray[np.int64]:
    centred = signatures - signatures.mean(axis=0)
    squares = np.square(centred).sum(axis=1)
    limit = _NEAR * 2 * float(squares.mean())
    leaders = np.ones(len(centred), dtype=np.bool_)
    first = np.arange(len(centred), dtype=np.int64)
    for start in range(0, len(centred), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = squares[rows, None] + squares - 2 * centred[rows] @ centred.T
        for place, row in enumerate(apart <= limit, start):
            earlier = np.flatnonzero(row[:place] & leaders[:place])
            if len(earlier):
                leaders[place], first[place] = False, earlier[0]
    _, number = np.unique(first, return_inverse=True)
    return number.astype(np.int64)
