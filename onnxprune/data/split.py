"""Which samples are fitted on, and which are held back to verify the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxprune.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.data.calibration import Calibration

__all__ = ["split"]


def split(
    calibration: Calibration,
    samples: int | None,
    held_out_fraction: float = 0.1,
    held_out_max: int = 256,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples at random, without replacement, and hold some of them back.

    Args:
        calibration: what to choose from.
        samples: how many, of which some are held back; None, or more than there are, for all.
        held_out_fraction: part of the chosen that is held back, at least one and at most `held_out_max`.
        held_out_max: see above.
        seed: of the choice; 0 or more.

    Returns:
        Indices (fit,) and (held,), int64, disjoint, each sorted.

    Raises:
        UsageError: an argument is out of range.
        DataError: fewer than two samples, by `samples` or in the data.
    """
    if not 0 < held_out_fraction < 1 or held_out_max < 1:
        raise UsageError(f"expected a held-out part in 0..1 of at least one, found {held_out_fraction}, {held_out_max}")
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, found {seed}")
    count = len(calibration) if samples is None else min(samples, len(calibration))
    if count < 2:
        raise DataError(
            f"{calibration.description['source']}: {count} samples (there are {len(calibration)}, "
            f"--samples {samples}), expected at least 2, one to fit and one to verify: give more"
        )
    chosen = np.random.default_rng(seed).permutation(len(calibration))[:count].astype(np.int64)
    held = min(held_out_max, count - 1, max(1, round(count * held_out_fraction)))
    return np.sort(chosen[held:]), np.sort(chosen[:held])
