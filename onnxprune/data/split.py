"""Which samples are fitted on, chosen by, and reported on.

No number that decides or is reported may come from samples that an earlier step has seen, and a near-duplicate of a
sample is as good as that sample: whole blocks of neighbours in the order of the inputs go to one part, and groups of
near-duplicates are kept together. The samples that are fitted on fall into two halves in the same way, since fits to
one half are judged on the other.
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

_BLOCKS = 50  # of all samples
_HALF_BLOCKS = 16  # of those that are fitted on, in turn of one half and of the other
_HELD_SHARE, _MOST_HELD = 0.1, 256


@dataclass(frozen=True)
class Split:
    """Parts of the samples; all indices int64, disjoint, sorted.

    Attributes:
        fit: to fit on.
        choose: to choose between results that were fitted; empty unless asked for.
        held: to report on.
        halves: (len(calibration),) int8, the half (0 or 1) of each sample that is fitted on.
        distinct: number of samples of all parts, near-duplicates counted once.
        distinct_held: number of those to report on, counted so.
    """

    fit: Indices
    choose: Indices
    held: Indices
    halves: NDArray[np.int8]
    distinct: int
    distinct_held: int

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of samples, for the report."""
        found = {"fit": len(self.fit), "chosen_by": len(self.choose), "held_back": len(self.held)}
        return {**found, "distinct": self.distinct}


def split(calibration: Calibration, samples: int | None, *, choosing: bool = False, seed: int = 0) -> Split:
    """Draw samples at random, without replacement, and part them.

    A tenth of the samples is reported on, at least one and at most 256, and as many are chosen by.

    Args:
        calibration: what to draw from.
        samples: how many; None, or more than there are, for all.
        choosing: set samples apart to choose by.
        seed: of the draw; 0 or more.

    Raises:
        UsageError: the seed is out of range.
        DataError: fewer than two samples (three, if some are to choose by), by `samples` or in the data.
    """
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, found {seed}")
    count = len(calibration) if samples is None else min(samples, len(calibration))
    least = 3 if choosing else 2
    if count < least:
        raise DataError(
            f"{calibration.description['source']}: {count} samples (there are {len(calibration)}, "
            f"--samples {samples}), expected at least {least}, one to fit and one to verify"
            f"{' and one to choose by' if choosing else ''}: give more"
        )
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.permutation(len(calibration))[:count]).astype(np.int64)
    known = groups = near_duplicates(calibration, drawn)
    distinct = int(known.max()) + 1
    if distinct < least:  # they cannot be kept together: that there are so few is all that can be said
        groups = np.arange(count, dtype=np.int64)
    wanted = min(_MOST_HELD, max(1, round(count * _HELD_SHARE)))
    parts = _parts(groups, [wanted, wanted if choosing else 0], generator)
    halves = np.zeros(len(calibration), dtype=np.int8)
    halves[drawn[parts == 0]] = _halves(groups[parts == 0])
    held = parts == 1
    distinct_held = len(np.unique(known[held]))
    return Split(drawn[parts == 0], drawn[parts == 2], drawn[held], halves, distinct, distinct_held)


def _parts(groups: Indices, wanted: list[int], generator: np.random.Generator) -> Indices:
    """The part of each sample: 1, 2 ... for about as many as wanted of each, 0 for the rest; whole groups only."""
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
    """The half of each sample: (n,) of 0 and 1; both halves have samples where there are two."""
    numbers, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) < 2:
        return np.arange(len(groups), dtype=np.int64) * 2 // max(len(groups), 1)
    half = _blocks(sizes, _HALF_BLOCKS) % 2
    if half.min() == half.max():
        half = (np.arange(len(numbers)) != int(np.argmax(sizes))).astype(np.int64)
    return np.asarray(half[number], dtype=np.int64)


def _blocks(sizes: Indices, most: int) -> Indices:
    """The block of each of some groups in a row, blocks being about equally large."""
    middle = np.cumsum(sizes) - sizes / 2
    found = np.floor(middle * most / max(int(sizes.sum()), 1))
    _, number = np.unique(found, return_inverse=True)
    return number.astype(np.int64)
