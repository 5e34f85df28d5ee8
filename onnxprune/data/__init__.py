"""Calibration inputs: opening any source, preparing its samples for the model, and splitting them.

:func:`open_calibration` returns a :class:`Calibration`, which loads model-ready batches by index; :func:`split` parts
its samples into those to fit on, to choose between results by, and to report on (held-out).
"""

from __future__ import annotations

from onnxprune.data.calibration import Calibration
from onnxprune.data.opening import CalibrationSource, open_calibration
from onnxprune.data.preprocess import Preprocessing
from onnxprune.data.spec import InputSpec
from onnxprune.data.split import Split, split
from onnxprune.options.data import DataOptions

__all__ = [
    "Calibration",
    "CalibrationSource",
    "DataOptions",
    "InputSpec",
    "Preprocessing",
    "Split",
    "open_calibration",
    "split",
]
