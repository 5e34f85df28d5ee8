"""What tests of whole runs share: quick options, and the accuracy of a network on the digits."""

from __future__ import annotations

from dataclasses import replace

import onnx

import onnxprune
from onnxprune import Options
from onnxprune.commands.compare import CompareOptions
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions

PLANNED = Options(bench=False, samples=300, refit=RefitOptions(refit="linear"))
QUICK = replace(PLANNED, recipe="prune", align=16, budget=BudgetOptions(macs="2x").budget())

SMALL = Options(
    bench=False,
    recipe="prune",
    align=4,
    points=20,
    refit=RefitOptions(refit="linear"),
    budget=BudgetOptions(macs="2x").budget(),
)
"""Of networks of a few narrow layers."""


def accuracy(model: onnx.ModelProto, path) -> float:
    found = onnxprune.compare(path, model, options=CompareOptions(bench=False))
    assert found.accuracy is not None
    return found.accuracy[1]
