"""Make trained convolutional networks smaller and faster, on the ONNX file itself.

>>> import onnxprune
>>> result = onnxprune.prune("model.onnx", data="images/", speedup=2.0)  # doctest: +SKIP
>>> result.save("pruned.onnx")  # doctest: +SKIP
"""

from onnxprune._version import __version__
from onnxprune.api import compare, from_torch, inspect, pareto, prune, recover, to_torch
from onnxprune.commands.compare import CompareOptions, Comparison
from onnxprune.commands.inspect import Inspection
from onnxprune.commands.prune import Result
from onnxprune.commands.record import Report
from onnxprune.commands.recover import Recovered
from onnxprune.commands.result import ModelResult
from onnxprune.commands.sweep import Point
from onnxprune.errors import OnnxPruneError
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.inputs import BenchOptions, InputOptions
from onnxprune.options.planning import PlanOptions
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.run import Options
from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.planning import Plan

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
