"""Make trained convolutional networks smaller and faster, on the ONNX file itself.

>>> import onnxprune
>>> result = onnxprune.prune("model.onnx", data="images/", speedup=2.0)  # doctest: +SKIP
>>> result.save("pruned.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module

from onnxprune._version import __version__

TYPE_CHECKING = False  # that of `typing`, whose import would be half of this module's time
if TYPE_CHECKING:
    from typing import Any

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

_MODULES = {
    "BenchOptions": "onnxprune.options.inputs",
    "BudgetOptions": "onnxprune.options.budget",
    "CompareOptions": "onnxprune.commands.compare",
    "Comparison": "onnxprune.commands.compare",
    "DataOptions": "onnxprune.options.data",
    "EngineOptions": "onnxprune.options.engine",
    "InputOptions": "onnxprune.options.inputs",
    "Inspection": "onnxprune.commands.inspect",
    "ModelResult": "onnxprune.commands.result",
    "OnnxPruneError": "onnxprune.errors",
    "Options": "onnxprune.options.run",
    "Plan": "onnxprune.planning",
    "PlanOptions": "onnxprune.options.planning",
    "Point": "onnxprune.commands.sweep",
    "RecoverOptions": "onnxprune.options.recovery",
    "Recovered": "onnxprune.commands.recover",
    "RefitOptions": "onnxprune.options.solve",
    "Report": "onnxprune.commands.record",
    "Result": "onnxprune.commands.prune",
    "SelectOptions": "onnxprune.options.solve",
    "compare": "onnxprune.api",
    "from_torch": "onnxprune.api",
    "inspect": "onnxprune.api",
    "pareto": "onnxprune.api",
    "prune": "onnxprune.api",
    "recover": "onnxprune.api",
    "to_torch": "onnxprune.api",
}
"""Module of each name, imported when the name is first used: ``onnxprune --help`` needs none of them."""


def __getattr__(name: str) -> Any:
    """Import a name of the package, or a module of it."""
    if name in _MODULES:
        found = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return found
    if not name.startswith("_"):
        try:
            return import_module(f"onnxprune.{name}")
        except ModuleNotFoundError:
            pass
    raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the names of the package."""
    return sorted({*globals(), *_MODULES})
