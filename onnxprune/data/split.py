"""Splitting the samples: to fit on, to choose between results by, and held-out to report on.

No number that decides or is reported may come from samples that an earlier step has seen, and having seen a
near-duplicate counts as having seen the sample. A part therefore consists of whole blocks of neighbours in the order of
the inputs, and of whole groups of near-duplicates. The samples to fit on are split into two halves by blocks, too:
a fit to one half is judged on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.data.distinct import near_duplicates
from onnxprune.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.data.calibration import Calibration

    Indices = NDArray[np.int64]

__all__ = ["Split", "split"]

_BLOCKS = 50  # blocks of all samples
_HALF_BLOCKS = 16  # blocks of the samples to fit on, alternating between the halves
_HELD_SHARE, _MOST_HELD = 0.1, 256


@dataclass(frozen=True)
class Split:
    """Parts of the samples; all indices int64, disjoint, sorted.

    Attributes:
        fit: samples to fit on.
        choose: samples to choose between fitted results by; empty unless requested.
        held: held-out samples, to report on.
        halves: (len(calibration),) int8, the half (0 or 1) of each sample in `fit`; 0 for all others.
        distinct: number of samples of all parts, near-duplicates counted once.
        distinct_held: number of held-out samples, near-duplicates counted once.
    """

    fit: Indices
    choose: Indices
    held: Indices
    halves: NDArray[np.int8]
    distinct: int
    distinct_held: int

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each part, and of distinct ones, for the report."""
        found = {"fit": len(self.fit), "chosen_by": len(self.choose), "held_back": len(self.held)}
        return {**found, "distinct": self.distinct}


def split(calibration: Calibration, samples: int | None, *, choosing: bool = False, seed: int = 0) -> Split:
    """Draw samples at random, without replacement, and split them.

    About a tenth of the samples is held out, at least 1 and at most 256; with `choosing`, as many again are set apart
    to choose by.

    Args:
        calibration: inputs to draw from.
        samples: number of samples to draw; None, or more than there are: all.
        choosing: set samples apart to choose between results by.
        seed: seed of the draw, 0 or more.

    Raises:
        UsageError: the seed is negative.
        DataError: fewer than 2 samples (3 with `choosing`), by `samples` or in the data.
    """
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, found {seed}")
    count = len(calibration) if samples is None else min(samples, len(calibration))
    least = 3 if choosing else 2
    if count < least:
        raise DataError(
            f"{calibration.description['source']}: {count} samples (there are {len(calibration)}, "
            f"--samples {samples}), expected at least {least}, one to fit and one to verify"
            f"{' and one to choose by' if choosing else ''}: provide more"
        )
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.permutation(len(calibration))[:count]).astype(np.int64)
    known = groups = near_duplicates(calibration, drawn)
    distinct = int(known.max()) + 1
    if distinct < least:  # too few to keep near-duplicates together; the count of distinct samples reports it
        groups = np.arange(count, dtype=np.int64)
    wanted = min(_MOST_HELD, max(1, round(count * _HELD_SHARE)))
    parts = _parts(groups, [wanted, wanted if choosing else 0], generator)
    halves = np.zeros(len(calibration), dtype=np.int8)
    halves[drawn[parts == 0]] = _halves(groups[parts == 0])
    held = parts == 1
    distinct_held = len(np.unique(known[held]))
    return Split(drawn[parts == 0], drawn[parts == 2], drawn[held], halves, distinct, distinct_held)


def _parts(groups: Indices, wanted: list[int], generator: np.random.Generator) -> Indices:
    """Assign whole groups to parts: part k = 1, 2, ... gets about ``wanted[k - 1]`` samples, part 0 the rest."""
    sizes = np.bincount(groups)
    block = _blocks(sizes, _BLOCKS)
    order = generator.permutation(int(block.max()) + 1)
    part, left = np.zeros(len(sizes), dtype=np.int64), len(sizes)
    for number, count in enumerate(wanted, 1):
        taken = 0
        for group in np.concatenate([np.flatnonzero(block == place) for place in order]):
            free = not part[group] and left > 1 + sum(1 for later in wanted[number:] if later)
            if free and (taken == 0 or taken + sizes[group] <= count) and taken < count:
                part[group], taken, left = number, taken + int(sizes[group]), left - 1
    return np.asarray(part[groups], dtype=np.int64)


def _halves(groups: Indices) -> Indices:
    """Assign samples to halves, (n,) of 0 and 1; both halves are non-empty if there are two samples."""
    numbers, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) < 2:
        return np.arange(len(groups), dtype=np.int64) * 2 // max(len(groups), 1)
    half = _blocks(sizes, _HALF_BLOCKS) % 2
    if half.min() == half.max():
        half = (np.arange(len(numbers)) != int(np.argmax(sizes))).astype(np.int64)
    return np.asarray(half[number], dtype=np.int64)


def _blocks(sizes: Indices, most: int) -> Indices:
    """Assign consecutive groups to at most `most` blocks with about equally many samples."""
    middle = np.cumsum(sizes) - sizes / 2
    found = np.floor(middle * most / max(int(sizes.sum()), 1))
    _, number = np.unique(found, return_inverse=True)
    return number.astype(np.int64)
