"""A smaller picture as part of the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.builder import Builder
from PIL import Image
from runs import SMALL

import onnxprune
from onnxprune import Plan
from onnxprune.commands import pictures as chosen_pictures
from onnxprune.errors import LostTooMuchError, ModelError, PlanError, UsageError
from onnxprune.graph.edit.picture import with_picture
from onnxprune.graph.model.net import values_of
from onnxprune.graph.model.outputs import last_layer
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.progress import silent
from onnxprune.steps.picture import resized
from onnxprune.steps.prepare import prepare

SIDE = 64
OPTIONS = replace(SMALL, recipe=None, samples=None)
NONE = RefitOptions(refit="none")


def network() -> onnx.ModelProto:
    """A network that needs each of its few channels, and sees little more in a large picture than in a small one."""
    b = Builder(3)
    h = b.one("Relu", b.conv("x", 3, 8, stride=2))
    h = b.one("Relu", b.conv(h, 8, 8, stride=2))
    h = b.one("Relu", b.conv(h, 8, 8))
    return b.finish({b.head(h, 8, 5): ["N", 5]}, SIDE)


def pictures(count: int = 60) -> np.ndarray:
    """Smooth pictures, each with a colour of its own."""
    generator = np.random.default_rng(0)
    noise = 0.5 * generator.standard_normal((count, 3, 8, 8)) + 2 * generator.standard_normal((count, 3, 1, 1))
    noise = noise.astype(np.float32)
    large = [[Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for plane in one] for one in noise]
    return np.stack([np.stack([np.asarray(plane) for plane in one]) for one in large]).astype(np.float32)


@pytest.fixture(scope="module")
def smaller():
    return onnxprune.prune(network(), data=pictures(), macs="2x", options=OPTIONS)


def test_a_smaller_picture_is_chosen_where_it_loses_less(smaller):
    report = smaller.report
    assert report.picture is not None
    assert report.picture[0] < SIDE
    assert report.macs.ratio >= 2
    assert any(note.subject == "picture" for note in report.notes)
    kept = onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, input_size="keep"))
    assert kept.report.picture is None
    assert not any(note.subject == "picture" for note in kept.report.notes)
    assert report.divergence[0].distance < kept.report.divergence[0].distance


def test_the_file_takes_and_returns_what_the_original_does(smaller):
    before, after = network().graph, smaller.model.graph
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    assert "Resize" in [node.op_type for node in after.node]


def test_the_features_are_as_large_as_the_originals_in_front_of_the_last_layer():
    data = pictures()
    with prepare(network(), data, OPTIONS, silent) as run:
        small = resized(run, (44, 44)).net
        plain = with_picture(run.network.full, run.network.place, (44, 44))
        head, first = (last_layer(net) for net in (small, plain))
        factor = float((values_of(head.inputs[1]) / values_of(first.inputs[1])).mean())
        features = [answers(net, data, head.inputs[0].name) for net in (run.network.full, plain)]
    wanted, found = features
    assert factor == pytest.approx((wanted * found).sum() / (found * found).sum(), rel=0.02)
    assert not np.allclose(values_of(head.inputs[1]), values_of(first.inputs[1]))


def test_a_fit_that_is_worse_than_the_picture_alone_is_not_taken(smaller, monkeypatch):
    """A rehearsal that promised too much."""
    told = iter([10.0, *[1e-9] * 9])  # of the original size, and of each picture that loses channels
    monkeypatch.setattr(chosen_pictures, "_rehearsed", lambda run, curves: next(told))
    monkeypatch.setattr(chosen_pictures.Chosen, "instead_of", spied := Spy(chosen_pictures.Chosen.instead_of))
    result = onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, refit=NONE))
    assert spied.answers[0] is not None
    assert any("with all channels after all" in note.text for note in result.report.notes)
    assert all(group.keep == group.channels for group in result.plan.groups)
    assert result.report.macs.ratio >= 2


class Spy:
    """A method that remembers what it returned."""

    def __init__(self, function) -> None:
        self.function, self.answers = function, []

    def __get__(self, instance, owner):
        def call(*given):
            self.answers.append(self.function(instance, *given))
            return self.answers[-1]

        return call


def answers(net, data: np.ndarray, name: str) -> np.ndarray:
    model = net.to_model()
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"x": data})[0]


def test_the_plan_replays_with_its_picture(smaller):
    assert smaller.plan.to_dict()["version"] == 4
    plan = Plan.from_dict(smaller.plan.to_dict())
    again = onnxprune.prune(network(), data=pictures(), plan=plan, options=replace(SMALL, recipe=None, align=None))
    assert again.report.picture == smaller.report.picture
    assert again.report.macs == smaller.report.macs


def test_a_picture_in_a_plan_that_the_model_cannot_take_is_an_error(smaller, vgg):
    plan = Plan((), picture=(20, 20))
    options = replace(SMALL, recipe=None, align=None)
    with pytest.raises(ModelError, match="cannot be resized"):
        onnxprune.prune(vgg, plan=plan, options=options)


def test_a_picture_in_a_plan_is_not_larger_than_the_models():
    options = replace(SMALL, recipe=None, align=None)
    with pytest.raises(ModelError, match="96x96 pixels are more than its 64x64"):
        onnxprune.prune(network(), data=pictures(), plan=Plan((), picture=(96, 96)), options=options)


@pytest.mark.parametrize("picture", [[1], [0, 5], "64x64", [True, 5], [64, 64, 3]])
def test_a_picture_in_a_plan_is_two_numbers(picture):
    content = {**Plan(()).to_dict(), "picture": picture}
    with pytest.raises(PlanError, match="'picture' must be a height and a width"):
        Plan.from_dict(content)


@pytest.mark.parametrize("asked", ["auto", "52"])
def test_a_model_may_take_the_smaller_picture_itself(smaller, asked):
    result = onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, input_size=asked))
    height, width = result.report.picture
    assert result.report.fed_smaller
    assert [dim.dim_value for dim in result.model.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, height, width]
    assert list(result.model.graph.output) == list(network().graph.output)
    assert "Resize" not in [node.op_type for node in result.model.graph.node]
    assert result.report.macs.ratio >= 2
    if asked == "auto":
        assert result.report.picture == smaller.report.picture
        assert not smaller.report.fed_smaller
    else:
        assert height == 52
        assert [group.keep < group.channels for group in result.plan.groups].count(True) > 0


def test_a_model_that_takes_the_smaller_picture_is_timed_on_it(machine):
    result = onnxprune.prune(
        network(), data=pictures(), macs="2x", options=replace(OPTIONS, input_size="auto", bench=True)
    )
    assert result.report.timing is not None


@pytest.mark.parametrize(
    ("asked", "message"),
    [("64", "the picture is 64x64 pixels: give less"), ("big", "takes inside, keep"), ("0", "takes inside, keep")],
)
def test_a_size_that_cannot_be_is_one_line(asked, message):
    with pytest.raises(UsageError, match=message):
        onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, input_size=asked))


@pytest.mark.parametrize("asked", ["8", "auto"])
def test_a_size_for_a_picture_that_cannot_be_resized_is_an_error(vgg, asked):
    with pytest.raises(UsageError, match=rf"--input-size {asked}: .* is below 64x64"):
        onnxprune.prune(vgg, macs="2x", options=replace(OPTIONS, input_size=asked))


def test_methods_that_only_remove_channels_leave_the_picture_alone():
    result = onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, recipe="prune"))
    assert result.report.picture is None


def test_a_time_budget_is_met_by_a_timed_picture(machine):
    timed = machine(0.01)
    result = onnxprune.prune(network(), data=pictures(), speedup=1.9, options=OPTIONS)
    assert result.report.picture is not None
    assert any(ratio >= 1.9 * 0.97 for ratio in timed)


def test_the_search_within_a_drop_tries_smaller_pictures(machine):
    machine(0.0)
    options = replace(OPTIONS, max_drop=25.0)
    result = onnxprune.prune(network(), data=pictures(), options=options)
    without = onnxprune.prune(network(), data=pictures(), options=replace(options, input_size="keep"))
    assert result.report.macs.ratio > without.report.macs.ratio


def test_a_drop_that_no_picture_keeps_is_refused():
    noise = np.random.default_rng(0).standard_normal((60, 3, SIDE, SIDE)).astype(np.float32)
    with pytest.raises(LostTooMuchError):
        onnxprune.prune(network(), data=noise, macs="3x", options=replace(OPTIONS, max_drop=0.1))


def test_a_network_on_a_smaller_picture_is_trained_on_the_original_on_its_own():
    pytest.importorskip("torch")
    course = RecoverOptions(epochs=3, train_batch=12, learning_rate=1e-3)
    result = onnxprune.prune(network(), data=pictures(), macs="2x", options=replace(OPTIONS, recover=course))
    assert result.report.picture is not None
    assert result.report.recovery is not None
    before, after = result.report.recovery.held
    assert after <= before
