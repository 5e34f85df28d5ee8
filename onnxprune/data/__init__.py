"""Calibration inputs: reading them from wherever they are, and preparing them as the model expects.

:func:`open_calibration` is the way in; what it returns hands out model-ready batches by index, and
:func:`split` says which of them to fit on, to choose by and to report on.
"""

from __future__ import annotations

from onnxprune.data.calibration import Calibration
from onnxprune.data.opening import CalibrationSource, open_calibration
from onnxprune.data.options import DataOptions, InputSpec
from onnxprune.data.preprocess import Preprocessing
from onnxprune.data.split import Split, split

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
