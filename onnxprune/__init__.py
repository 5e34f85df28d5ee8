"""Make trained convolutional networks smaller and faster, on the ONNX file itself.

>>> import onnxprune
>>> result = onnxprune.prune("model.onnx", data="images/", speedup=2.0)  # doctest: +SKIP
>>> result.save("pruned.onnx")  # doctest: +SKIP
"""

from onnxprune._version import __version__
from onnxprune.api import compare, inspect, prune
from onnxprune.compare import Comparison
from onnxprune.data import DataOptions
from onnxprune.errors import OnnxPruneError
from onnxprune.inspection import Inspection
from onnxprune.options import Options
from onnxprune.pipeline import Result
from onnxprune.plan import Plan
from onnxprune.report.record import Report

__all__ = [
    "Comparison",
    "DataOptions",
    "Inspection",
    "OnnxPruneError",
    "Options",
    "Plan",
    "Report",
    "Result",
    "__version__",
    "compare",
    "inspect",
    "prune",
]
