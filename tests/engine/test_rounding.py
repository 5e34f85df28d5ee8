"""Two networks that compute the same: what rounding explains passes, mistakes do not, however small the outputs are."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph.nets import build
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxprune import Options
from onnxprune.engine.batching import group_batches
from onnxprune.engine.rounding import beyond_rounding, difference, least_difference, moved, rounding_noise
from onnxprune.engine.sessions import Engine
from onnxprune.errors import VerifyError
from onnxprune.graph.edit.remove import alive_without, remove
from onnxprune.graph.model.save import finished_model
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.progress import silent
from onnxprune.steps import verify
from onnxprune.steps.prepare import prepare

SIZES = {"tiny outputs": (1.0, -12.0, "Sigmoid"), "large outputs": (3e4, 1e5, "Identity")}
FIRST = (0, 2, 5)  # channels that are removed of each layer
BODY = """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) ra = Relu(a)
    b = Conv<pads=[1,1,1,1]>(x, w2, b2) rb = Relu(b)
    j = Concat<axis=1>(ra, rb)
    z = Conv<pads=[1,1,1,1]>(j, w3, b3)
"""


def network(kind: str, end: str = "") -> onnx.ModelProto:
    """Two convs, a Concat, a conv that reads it, and outputs of the kind's size."""
    size, shift, activation = SIZES[kind]
    generator = np.random.default_rng(1)
    weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 3, 3, 3), "b2": (8,)}
    last = {
        "w3": (size * generator.standard_normal((4, 16, 3, 3)) / 12).astype(np.float32),
        "b3": (size * generator.standard_normal(4) + shift).astype(np.float32),
    }
    outputs = "int64[N,8,8] y" if end else "float[N,4,8,8] y"
    return build(BODY + (end or f"y = {activation}(z)"), {**weights, **last}, outputs=outputs)


@contextmanager
def job(model, inputs, data=None):
    options = Options(bench=False, data=data or DataOptions(), engine=EngineOptions(provider="cpu", threads=1))
    with prepare(model, inputs, options, silent) as run:
        yield run, group_batches(run.inputs.held, run.inputs.specs, 4)[0]


@pytest.fixture(params=SIZES)
def work(request):
    inputs = np.random.default_rng(3).standard_normal((40, 3, 8, 8)).astype(np.float32)
    with job(network(request.param), inputs) as opened:
        yield opened


def alive_in(work):
    return alive_without(work.channels, {group.name: FIRST for group in work.channels.prunable})


def changed(name, change):
    """A `remove` that afterwards puts a constant wrong."""

    def broken(net, channels, before, after):
        smaller = remove(net, channels, before, after)
        for tensor in smaller.tensors().values():
            if tensor.name == name:
                full = net.tensors()[name].values
                tensor.values = np.ascontiguousarray(change(full, tensor.values))
        return smaller

    return broken


LEFT = [channel for channel in range(8) if channel not in FIRST]
BROKEN = {
    "a wrong channel of the reader": ("w3", lambda full, right: full[:, [*LEFT[1:], 0, *(8 + c for c in LEFT)]]),
    "an offset of Concat that is one too small": ("w3", lambda full, right: full[:, [*LEFT, *(7 + c for c in LEFT)]]),
    "the bias of a removed channel": ("b1", lambda full, right: full[: len(right)]),
    "a weight of one channel": ("w2", lambda full, right: np.concatenate([full[:1], right[1:]])),
}


def test_removal_passes(work):
    assert verify.check_removal(work[0], alive_in(work[0]), work[1]) >= 0


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_in_the_removal_is_found(work, name, monkeypatch):
    monkeypatch.setattr(verify, "remove", changed(*BROKEN[name]))
    blamed = {"w3": "'z'", "b1": "'a'", "w2": "'b'"}[BROKEN[name][0]]
    with pytest.raises(VerifyError, match=f"tensor {blamed} is the first to differ, by"):
        verify.check_removal(work[0], alive_in(work[0]), work[1])


def test_a_fold_that_changes_the_weights_is_found(work):
    job_, _ = work
    verify.check_loading(job_)
    folded = job_.net.draft()
    weight = folded.tensors()["w3"]
    weight.values = weight.values * np.float32(1.1)
    with pytest.raises(VerifyError, match="changed output 'y' by"):
        verify.check_loading(replace(job_, network=replace(job_.network, net=folded)))


def test_factors_of_other_weights_are_found(work):
    job_, batch = work
    verify.check_rewritten(job_, job_.net, finished_model(job_.net), batch)
    other = job_.net.draft()
    weight = other.tensors()["w1"]
    weight.values = weight.values[::-1].copy()
    with pytest.raises(VerifyError, match="output 'y' of the result differs by"):
        verify.check_rewritten(job_, job_.net, finished_model(other), batch)


def test_integers_may_flip_where_rounding_flips_them_and_nowhere_else():
    engine = Engine.open(EngineOptions(provider="cpu", threads=1))
    inputs = np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype(np.float32)
    model = network("large outputs", "y = ArgMax<axis=1, keepdims=0>(z)")
    labels = engine.session(model, label="labels").run({"x": inputs})
    few, many = {"y": labels["y"].copy()}, {"y": labels["y"].copy()}
    few["y"].flat[:2] += 1
    many["y"].flat[:20] += 1
    assert beyond_rounding(engine, few, labels, (model,), {"x": inputs}) is None
    found = beyond_rounding(engine, many, labels, (model,), {"x": inputs})
    assert found is not None
    assert str(found) == "by 0.078 of its elements where rounding explains 0.01"


def test_a_tensor_that_cancels_may_differ_by_more_than_one_that_does_not():
    engine = Engine.open(EngineOptions(provider="cpu", threads=1))
    weights = {"w": (4, 3, 1, 1), "big": np.full(4, 3e3, np.float32)}
    body = "z = Conv(x, w, big) y = Sub(z, three) u = Identity(z)"
    model = build(
        body, {**weights, "three": np.array(3e3, np.float32)}, outputs="float[N,4,8,8] y, float[N,4,8,8] u", names=True
    )
    inputs = np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype(np.float32)
    noise = rounding_noise(engine, model, {"x": inputs}, ("y", "u"))
    assert noise["u"] < 1e-6
    assert noise["y"] > 100 * noise["u"]


@given(
    arrays.arrays(st.sampled_from([np.float16, np.float32, np.float64]), 20, elements=st.floats(-100, 100, width=16))
)
@settings(deadline=None)
def test_floats_move_by_one_unit_and_zeros_do_not(values):
    found = moved(values, np.random.default_rng(0))
    assert found.dtype == values.dtype
    assert (found[values == 0] == 0).all()
    apart = np.abs(found.astype(np.float64) - values.astype(np.float64))
    assert (apart == np.where(values == 0, 0, np.spacing(np.abs(values)))).all()


def test_integers_do_not_move():
    values = np.arange(5)
    assert moved(values, np.random.default_rng(0)) is values


def test_a_difference_is_a_share_and_sees_shapes_infinities_and_missing_numbers():
    reference = np.array([1.0, -4.0, np.inf, np.nan])
    assert difference(reference, reference) == 0
    assert difference(np.array([2.0, -4.0, np.inf, np.nan]), reference) == 0.25
    assert difference(np.zeros(3), reference) == np.inf
    assert np.isnan(difference(np.full(4, np.nan), reference))
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert least_difference(np.dtype(np.float16)) > 1000 * least_difference(np.dtype(np.float32))


@pytest.mark.parametrize(
    ("left", "right", "close"),
    [
        ([0, 1, 2, 3] * 50, [0, 1, 2, 3] * 50, True),
        ([0, 1, 2, 3] * 50, [0, 1, 2, 3] * 49 + [0, 1, 2, 4], True),
        ([0, 1, 2, 3] * 50, [1, 1, 2, 3] * 50, False),
        ([0.0, np.inf], [0.0, np.inf], True),
        ([0.0, np.inf], [0.0, 1.0], False),
    ],
)
def test_numbers_of_classes_are_compared_one_by_one(left, right, close):
    reference = np.array(right)
    assert (difference(np.array(left), reference) <= least_difference(reference.dtype)) == close


def test_yunet_on_pixels_of_0_to_1_has_outputs_that_round_by_a_hundredth_and_is_pruned_all_the_same(zoo):
    inputs = np.random.default_rng(0).random((8, 3, 128, 128)).astype(np.float32)
    generator = np.random.default_rng(5)
    worst = 0.0
    with job(str(zoo / "models" / "det_yunet_n_dynamic.onnx"), inputs) as (work, batch):
        for share in (0.1, 0.2, 0.4, 0.7):
            removed = {
                group.name: generator.choice(group.size, int(share * group.size), replace=False)
                for group in work.channels.prunable
            }
            worst = max(worst, verify.check_removal(work, alive_without(work.channels, removed), batch))
    assert worst > 1e-3
