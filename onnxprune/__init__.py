"""Make trained convolutional networks smaller and faster, on the ONNX file itself.

>>> import onnxprune
>>> result = onnxprune.prune("model.onnx", data="images/", speedup=2.0)  # doctest: +SKIP
>>> result.save("pruned.onnx")  # doctest: +SKIP
"""

from onnxprune._version import __version__
from onnxprune.api import compare, from_torch, inspect, pareto, prune, recover, to_torch
from onnxprune.compare import CompareOptions, Comparison
from onnxprune.data import DataOptions
from onnxprune.errors import OnnxPruneError
from onnxprune.inspection import Inspection
from onnxprune.options import Options
from onnxprune.pipeline import Result
from onnxprune.plan import Plan
from onnxprune.recovery.options import RecoverOptions
from onnxprune.recovery.pair import Recovered
from onnxprune.report.record import Report
from onnxprune.result import ModelResult
from onnxprune.sweep import Point

__all__ = [
    "CompareOptions",
    "Comparison",
    "DataOptions",
    "Inspection",
    "ModelResult",
    "OnnxPruneError",
    "Options",
    "Plan",
    "Point",
    "RecoverOptions",
    "Recovered",
    "Report",
    "Result",
    "__version__",
    "compare",
    "from_torch",
    "inspect",
    "pareto",
    "prune",
    "recover",
    "to_torch",
]
