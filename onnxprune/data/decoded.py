"""Calibration of images whose prepared samples are kept in files, so that each image is decoded once.

A run reads its inputs several times: for statistics, for the trials, for both networks of the compression, for the
verification and for the measurement of latency.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.calibration import Calibration, ImageCalibration
from onnxprune.data.images import FolderImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decoded", "decoded_once"]

_MOST_BYTES = 2 << 30  # of all files; further images are decoded each time
_DISK_SHARE = 8  # of the free space: activations are held there, too


class Decoded:
    """A :class:`Calibration` of images with its prepared samples in a folder; deleting the folder is left to others."""

    def __init__(self, source: ImageCalibration, folder: Path) -> None:
        """Keep the samples of ``source`` in ``folder``."""
        self._source, self._folder = source, folder
        self._left = min(_MOST_BYTES, shutil.disk_usage(folder).free // _DISK_SHARE)
        self._kept: set[int] = set()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs: one."""
        return self._source.inputs

    @property
    def description(self) -> dict[str, object]:
        """Record of the source for the report."""
        return self._source.description

    @property
    def synthetic(self) -> bool:
        """True if the inputs are synthetic."""
        return self._source.synthetic

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,) int64; None without labels."""
        return self._source.labels

    def __len__(self) -> int:
        return len(self._source)

    def digest(self) -> str:
        """Return the digest of the source."""
        return self._source.digest()

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return prepared samples: read from their files, or decoded if they have no file yet."""
        chosen = [int(index) for index in indices]
        missing = list(dict.fromkeys(index for index in chosen if index not in self._kept))
        if len(missing) == len(chosen):
            fresh = self._source.load(chosen)
            self._keep(chosen, fresh[self.inputs[0]])
            return fresh
        found = dict(zip(missing, self._source.load(missing)[self.inputs[0]], strict=True)) if missing else {}
        self._keep(missing, found.values())
        rows = [found[index] if index in found else np.load(self._path(index)) for index in chosen]
        return {self.inputs[0]: np.stack(rows)}

    def _path(self, index: int) -> Path:
        return self._folder / f"input-{index}.npy"

    def _keep(self, indices: Sequence[int], samples: Any) -> None:
        """Write samples to files while there is room; a full disk ends the keeping, not the run."""
        for index, sample in zip(indices, samples, strict=True):
            if index in self._kept or sample.nbytes > self._left:
                continue
            try:
                np.save(self._path(index), sample, allow_pickle=False)
            except OSError:
                self._path(index).unlink(missing_ok=True)
                self._left = 0
                return
            self._left -= sample.nbytes
            self._kept.add(index)


def decoded_once(calibration: Calibration, folder: Path) -> Calibration:
    """Keep the samples of image files in a folder after their first use; return other calibrations as they are."""
    if isinstance(calibration, ImageCalibration) and isinstance(calibration.images, FolderImages):
        return Decoded(calibration, folder)
    return calibration
