"""Trials on a network with a loud and a faint branch that are equal otherwise: errors in the faint one count less."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxprune
from onnxprune import Options
from onnxprune.engine.divergence import DivergenceMeter, mean_distance
from onnxprune.engine.frontier import Batch
from onnxprune.graph.channels.sites import matrix
from onnxprune.graph.edit.weights import with_weights
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.progress import silent
from onnxprune.steps.prepare import prepare
from onnxprune.steps.sensitivity import Damage, spread


def branches() -> onnx.ModelProto:
    """x -> conv, Relu, conv, twice, the second branch a hundredth of the first in the sum."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 8, 8, 8] x) => (float[N, 8, 8, 8] y) {
            a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, a1)
            ar = Relu(a)
            as = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(ar, a2)
            b = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, b1)
            br = Relu(b)
            bs = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(br, b2)
            bt = Mul(bs, faint)
            y = Add(as, bt)
        }
    """)
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((48, 8, 3, 3)) / 8, rng.standard_normal((8, 48, 3, 3)) / 20
    weights = {"a1": first, "b1": first, "a2": second, "b2": second, "faint": np.array(0.01)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    for node, name in zip(model.graph.node, ("a.1", "a.r", "a.2", "b.1", "b.r", "b.2", "mul", "add"), strict=True):
        node.name = name
    return model


@pytest.mark.parametrize("recipe", ["prune", "3c"])
def test_errors_that_the_outputs_hardly_notice_count_less(recipe) -> None:
    inputs = {"x": np.random.default_rng(1).standard_normal((64, 8, 8, 8)).astype(np.float32)}
    macs = {}
    for weighed in (False, True):
        options = Options(recipe=recipe, sensitivity=weighed, align=4, points=20, refit=RefitOptions(refit="linear"))
        result = onnxprune.prune(branches(), data=inputs, macs="2x", options=options, dry_run=True)
        rows = {row.name: row.macs.after for row in result.report.layers}
        macs[weighed] = rows["b.1"] + rows["b.2"], rows["a.1"] + rows["a.2"]
    assert macs[True][0] < 0.6 * macs[True][1]
    assert macs[True][0] < macs[False][0]


@pytest.mark.parametrize(("sizes", "count", "batches"), [((10, 10, 4), 12, 1), ((10, 10, 4), 500, 2), ((4,), 50, 1)])
def test_samples_are_spread_over_all_of_the_calibration(sizes, count, batches) -> None:
    full, start, made = max(sizes), 0, []
    for size in sizes:
        made.append(Batch(tuple(range(start, start + size)) + (0,) * (full - size), size))
        start += size
    found = spread(made, count)
    assert len(found) == batches
    assert all(len(batch.samples) == full for batch in found)
    taken = [sample for batch in found for sample in batch.samples[: batch.real]]
    assert len(set(taken)) == len(taken)
    assert {0, start - 1} <= set(taken)


def test_the_damage_is_that_of_the_whole_network_in_whatever_order_it_is_asked_for() -> None:
    """Only what is behind the changed weights runs again, from tensors that are held."""
    inputs = {"x": np.random.default_rng(1).standard_normal((24, 8, 8, 8)).astype(np.float32)}
    options = Options(bench=False, budget=BudgetOptions(macs="2x").budget())
    with prepare(branches(), inputs, options, silent) as run, Damage(run, run.batches) as damage:
        sites, feeds = run.channels.sites, run.inputs.calibration.load(run.batches[0].samples)
        for names in (["a.1"], ["a.2"], ["b.2"], ["a.1", "b.2"], ["b.1"], ["a.2"]):
            halved = {sites[name]: tuple(0.5 * part for part in matrix(run.net, sites[name])) for name in names}
            whole = run.engine.session(with_weights(run.net, halved).to_model(), label="whole").run(feeds)
            meter = DivergenceMeter(run.inputs.outputs)
            meter.add(run.engine.session(run.net.to_model(), label="original").run(feeds), whole, len(feeds["x"]))
            assert damage.of(halved) == pytest.approx(mean_distance(meter.finish()), rel=1e-4)


def test_outputs_that_are_constants_do_not_hinder_the_trials() -> None:
    model = branches()
    model.graph.output.append(onnx.helper.make_tensor_value_info("faint", 1, []))
    inputs = {"x": np.random.default_rng(1).standard_normal((24, 8, 8, 8)).astype(np.float32)}
    options = Options(recipe="prune", align=4, points=20, refit=RefitOptions(refit="linear"))
    assert onnxprune.prune(model, data=inputs, macs="2x", options=options, dry_run=True).report.macs.ratio >= 2
