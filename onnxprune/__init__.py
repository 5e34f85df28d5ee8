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
from onnxprune.options import BenchOptions, InputOptions, Options, PlanOptions
from onnxprune.pipeline import Result
from onnxprune.plan import BudgetOptions, Plan
from onnxprune.recovery.options import RecoverOptions
from onnxprune.recovery.pair import Recovered
from onnxprune.report.record import Report
from onnxprune.result import ModelResult
from onnxprune.runtime.providers import EngineOptions
from onnxprune.solve import RefitOptions, SelectOptions
from onnxprune.sweep import Point

__all__ = [
    "BenchOptions",
    "BudgetOptions",
    "CompareOptions",
    "Comparison",
    "DataOptions",
    "EngineOptions",
    "InputOptions",
    "Inspection",
    "ModelResult",
    "OnnxPruneError",
    "Options",
    "Plan",
    "PlanOptions",
    "Point",
    "RecoverOptions",
    "Recovered",
    "RefitOptions",
    "Report",
    "Result",
    "SelectOptions",
    "__version__",
    "compare",
    "from_torch",
    "inspect",
    "pareto",
    "prune",
    "recover",
    "to_torch",
]
