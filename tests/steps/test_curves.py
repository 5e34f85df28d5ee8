"""What a plan rests on: the errors that it promises are those on inputs that nobody fitted."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnxprune import Options
from onnxprune.commands.prune import opened
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.progress import silent
from onnxprune.solve import kept_columns, refit, removal_order
from onnxprune.steps.curves import error_curves
from onnxprune.steps.prepare import Prepared
from onnxprune.steps.statistics import Need, gathered, group_problems, parts_of

INPUTS, FEATURES, LEFT = 60, 128, 50


def pooled_head() -> onnx.ModelProto:
    """Features behind a global pool: an input gives the last layer one row."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4, 8, 8] x) => (float[N, 40] y) {
            a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, a1)
            ar = Relu(a)
            b = Conv<kernel_shape=[1, 1]>(ar, b1)
            br = Relu(b)
            pooled = GlobalAveragePool(br)
            flat = Flatten(pooled)
            y = Gemm<transB = 1>(flat, head)
        }
    """)
    rng = np.random.default_rng(0)
    weights = {"a1": (32, 4, 3, 3), "b1": (FEATURES, 32, 1, 1), "head": (40, FEATURES)}
    for name, shape in weights.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for node, name in zip(model.graph.node, ("a", "ar", "b", "br", "pool", "flat", "head"), strict=True):
        node.name = name
    return model


def problems_of(run: Prepared) -> list:
    """Regressions of the last layer on what it reads."""
    group = next(group for group in run.channels.prunable if group.size == FEATURES)
    (need,) = next(iter(parts_of(run, [Need(group.name, group.consumers, group)])))
    (found,) = group_problems(run, group, gathered(run, [need], 0, 1)).values()
    return found


def test_behind_a_global_pool_the_curve_tells_the_error_on_new_inputs() -> None:
    """60 inputs "explain" any answer by 60 channels; the curve that decides must not believe it."""
    draws = np.random.default_rng(1).standard_normal((INPUTS + 600, 4, 8, 8)).astype(np.float32).cumsum(-1) / 2
    options = Options(sensitivity=False, bench=False, budget=BudgetOptions(macs="2x").budget())
    with (
        opened(pooled_head(), {"x": draws[:INPUTS]}, options, silent) as run,
        opened(pooled_head(), {"x": draws[INPUTS:]}, options, silent) as other,
    ):
        group = next(group for group in run.channels.prunable if group.size == FEATURES)
        promised = error_curves(run, [group]).rankings[group.name].curve[FEATURES - LEFT]
        ours, theirs = problems_of(run), problems_of(other)
        columns = kept_columns(ours[0], removal_order(ours, FEATURES, options.select)[FEATURES - LEFT :])
        solution = refit(ours[0], columns, RefitOptions(refit="linear", rounds=0))
        judge = theirs[0].moments.columns(columns).total
        true = judge.error(solution.weight, solution.bias) / float(judge.power.sum())
    assert solution.error < 0.25 * true  # what a plan by the samples of the fit would go by
    assert 0.6 * true < promised < 1.7 * true
