"""Where the loss is taken, what it is, what is compared between the layers, and other views of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine.helpers import parse
from graph.families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import InputSpec
from onnxprune.engine.meaning import meanings
from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.options.data import DataOptions
from onnxprune.options.recovery import RecoverOptions
from onnxprune.recovery import train
from onnxprune.recovery.augment import augmentation_for
from onnxprune.recovery.ends import End, loss_ends
from onnxprune.recovery.features import common_tensors, leading_tensor, pooled
from onnxprune.recovery.loss import Loss, balanced_loss
from onnxprune.torchnet.trainable import trainable

CONV = "w = Constant <value = float[4,3,1,1] {1,0,0,0,1,0,0,0,1,1,1,1}> () c = Conv (x, w) "


def ends_of(body: str, outputs: str, **asked: str):
    net = load(parse(CONV + body, "float[N,3,4,4] x", outputs))[0]
    return loss_ends(net, trainable(net), outputs=meanings(net, asked))


def test_logits_are_compared_where_a_softmax_ends_the_network():
    ends, notes = ends_of("g = GlobalAveragePool (c) f = Flatten (g) y = Softmax (f)", "float[N,4] y")
    assert ends == (End("f", 1),)
    assert notes == ()
    ends, _ = ends_of("g = GlobalAveragePool (c) s = Softmax <axis = 1> (g) y = Flatten (s)", "float[N,4] y")
    assert ends == (End("g", 1),)


def test_numbers_are_compared_as_numbers_and_what_may_be_scores_as_both():
    assert ends_of("y = Relu (c)", "float[N,4,4,4] y")[0] == (End("y"),)
    assert ends_of("g = GlobalAveragePool (c) y = Flatten (g)", "float[N,4] y")[0] == (End("y", 1, both=True),)
    # Scores of many places, and not of many classes.
    one = "s = ReduceSum <keepdims = 0> (c, a) y = Reshape (s, r)"
    ints = "a = Constant <value = int64[1] {1}> () r = Constant <value = int64[3] {0, 16, 1}> () "
    assert ends_of(ints + one, "float[N,16,1] y")[0] == (End("y"),)


def test_the_users_word_decides_what_the_loss_compares():
    maps, row = ("y = Relu (c)", "float[N,4,4,4] y"), ("g = GlobalAveragePool (c) y = Flatten (g)", "float[N,4] y")
    assert ends_of(*maps, y="pixels")[0] == (End("y", 1),)
    assert ends_of(*row, y="classes")[0] == (End("y", 1),)
    assert ends_of(*row, y="values")[0] == (End("y"),)
    softmax = "g = GlobalAveragePool (c) f = Flatten (g) y = Softmax (f)"
    assert ends_of(softmax, "float[N,4] y", y="values")[0] == (End("y"),)


def test_what_stands_behind_the_last_layer_without_a_gradient_is_cut_off_and_said():
    ends, notes = ends_of(
        "r = Relu (c) y = ArgMax <axis = 1> (r) z = Sigmoid (r)", "int64[N,1,4,4] y, float[N,4,4,4] z"
    )
    assert set(ends) == {End("r", 1), End("z")}, "an ArgMax reads scores, a Sigmoid gives numbers"
    assert [note.text for note in notes] == ["ArgMax: the loss is taken in front of it"]
    ends, notes = ends_of("r = Relu (c) h = Hardmax (r) d = Det (r) y = Relu (h)", "float[N,4,4,4] y, float[N,4] d")
    assert ends == (End("r"),), "neither runs with torch, and nothing behind them is compared"
    assert len(notes) == 2


def test_an_operator_in_front_of_a_layer_cannot_be_cut_off():
    second = "v = Constant <value = float[1,4,1,1] {1,1,1,1}> () "
    with pytest.raises(ModelError, match="Hardmax"):
        ends_of(second + "h = Hardmax (c) y = Conv (h, v)", "float[N,1,4,4] y")


def test_tensors_of_both_networks_are_found_in_order_and_without_those_that_lost_channels():
    net = fold(load(FAMILIES["resnet_basic"]())[0])[0]
    ends = loss_ends(net, trainable(net))[0]
    names = common_tensors(net, net, trainable(net), [end.tensor for end in ends])
    order = [tensor.name for node in net.nodes for tensor in node.outputs]
    assert 2 <= len(names) <= 8
    assert sorted(names, key=order.index) == list(names)
    thin = net.draft()
    thin.tensors()[names[1]].shape = [1, 5, 16, 16]
    assert names[1] not in common_tensors(net, thin, trainable(net), [end.tensor for end in ends])


CLASSIFIER = (
    "r = Relu (c) g = GlobalAveragePool (r) f = Flatten (g) v = Constant <value = float[2,4] {1,2,3,4,5,6,7,8}> () "
)


def lead_of(body: str, outputs: str = "float[N,2] y", input_: str = "float[N,3,4,4] x") -> str | None:
    net, other = (load(parse(CONV + body, shape, outputs))[0] for shape in ("float[N,3,4,4] x", input_))
    ends = loss_ends(net, trainable(net))[0]
    return leading_tensor(net, other, trainable(net), [end.tensor for end in ends])


def test_the_lead_is_in_front_of_the_last_layer():
    dense = "y = Gemm <transB = 1> (f, v)"
    assert lead_of(CLASSIFIER + dense) == "f"
    assert lead_of(CLASSIFIER + dense, input_="float[N,3,8,6] x") == "f"
    assert lead_of(CLASSIFIER + "l = Gemm <transB = 1> (f, v) y = Softmax (l)") == "f"


def test_without_one_last_layer_there_is_no_lead():
    two = "y = Gemm <transB = 1> (f, v) u = Constant <value = float[1,4] {1,2,3,4}> () z = Gemm <transB = 1> (f, u)"
    assert lead_of(CLASSIFIER + two, "float[N,2] y, float[N,1] z") is None
    assert lead_of("g = GlobalAveragePool (c) y = Flatten (g)", "float[N,4] y") is None
    beside = "l = Gemm <transB = 1> (f, v) s = ReduceMean <axes = [1], keepdims = 1> (f) y = Add (l, s)"
    assert lead_of(CLASSIFIER + beside) is None


def test_a_lead_with_fewer_channels_is_none():
    net = fold(load(FAMILIES["resnet_basic"]())[0])[0]
    names = [end.tensor for end in loss_ends(net, trainable(net))[0]]
    lead = leading_tensor(net, net, trainable(net), names)
    assert lead is not None
    thin = net.draft()
    pools = [node.outputs[0].name for node in thin.nodes if node.op == "GlobalAveragePool"]
    for name in (lead, *pools):
        thin.tensors()[name].shape = [1, 5, *thin.tensors()[name].shape[2:]]
    assert leading_tensor(net, thin, trainable(net), names) is None


def test_the_lead_is_compared_by_the_means_of_its_channels():
    large, small = values(0, 5, 4, 6, 6), values(1, 5, 4, 3, 3)
    seen = {"y": values(2, 5, 3), "m": large}, {"y": values(3, 5, 3), "m": small}
    loss = balanced_loss((End("y", 1),), (), 4.0, 0.5, [seen], "m")
    assert loss.names == ("y", "m")
    shifted = small - pooled(small)[:, :, None, None] + pooled(large)[:, :, None, None]
    assert float(loss.whole({"m": large}, {"m": shifted})) == pytest.approx(0, abs=1e-10)
    assert float(loss.whole({"m": large}, {"m": small})) > 0.1


def values(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@given(st.integers(0, 100), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_nothing_for_equal_answers_and_above_it_for_others(seed, temperature):
    wanted = {"c": 3 * values(seed, 6, 5), "y": values(seed + 1, 6, 2, 3, 3)}
    other = {"c": 3 * values(seed + 2, 6, 5), "y": values(seed + 3, 6, 2, 3, 3)}
    loss = balanced_loss((End("c", 1), End("y")), (), temperature, 0.5, [(wanted, other)])
    assert float(loss.whole(wanted, wanted)) == pytest.approx(0, abs=1e-4)
    assert float(loss.whole(wanted, other)) > 0.1


def test_what_is_added_to_all_classes_alike_is_not_for_nothing():
    wanted = {"c": values(0, 6, 5)}
    loss = Loss((End("c", 1),), (), 4.0, {"c": 1.0})
    shifted = {"c": wanted["c"] + 2}
    assert float(loss.at_ends(wanted, shifted)) > 0.1


def test_at_the_start_outputs_count_alike_and_features_have_their_share():
    wanted = {"a": values(0, 8, 4, 2, 2), "b": values(1, 8, 3), "f": values(2, 8, 4, 2, 2), "g": values(3, 8, 4, 2, 2)}
    found = {"a": 1.5 * wanted["a"], "b": wanted["b"] + 0.01, "f": 0.9 * wanted["f"], "g": -wanted["g"]}
    loss = balanced_loss((End("a"), End("b")), ("f", "g"), 4.0, 0.5, [(wanted, found)])
    assert loss.features == ("f",), "g has nothing in common"
    alone = [
        w * float(loss.error(end.tensor, wanted, found)) for w, end in zip(loss.end_weights, loss.ends, strict=True)
    ]
    assert alone[0] == pytest.approx(alone[1], rel=1e-3)
    both = float(loss.whole(wanted, found)), float(loss.at_ends(wanted, found))
    assert both[0] == pytest.approx(1.5 * both[1], rel=1e-3)
    assert float(loss.blockwise(wanted, found)) == pytest.approx(2 * both[1], rel=1e-3)


@pytest.mark.parametrize("shape,kind", [((None, 3, 16, 12), "f4"), ((None, 16, 12, 3), "f4"), ((None, 9, 9, 1), "u1")])
@given(seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_views_have_the_shape_and_type_of_images_and_values_between_theirs(shape, kind, seed):
    augment = augmentation_for([InputSpec("x", shape, np.dtype(kind))], DataOptions())
    assert augment.name == "x"
    batch = np.random.default_rng(seed).integers(0, 256, (7, *shape[1:])).astype(kind)
    views = augment({"x": batch}, np.random.default_rng(seed))["x"]
    assert (views.shape, views.dtype) == (batch.shape, batch.dtype)
    assert views.min() >= batch.min()
    assert views.max() <= batch.max()
    assert not np.array_equal(views, batch)
    np.testing.assert_array_equal(views, augment({"x": batch}, np.random.default_rng(seed))["x"])


@pytest.mark.parametrize(
    "specs,options,word",
    [
        ([InputSpec("x", (None, 43844, 1), np.dtype("f4"))], DataOptions(), "no image"),
        ([InputSpec(n, (None, 3, 8, 8), np.dtype("f4")) for n in "ab"], DataOptions(), "2 inputs"),
        ([InputSpec("x", (None, 3, 8, 3), np.dtype("f4"))], DataOptions(), "no image"),
    ],
)
def test_what_is_no_image_is_left_alone_aloud(specs, options, word):
    augment = augmentation_for(specs, options)
    assert word in augment.text
    feeds = {"x": np.ones((2, 3), np.float32)}
    assert augment(feeds, np.random.default_rng(0))["x"] is feeds["x"]
    assert "as asked" in augmentation_for(specs, options, wanted=False).text


@pytest.mark.parametrize(
    "given,word",
    [
        ({"epochs": 0}, "--recover"),
        ({"seconds": 0.0}, "--recover"),
        ({"epochs": 1, "seconds": 1.0}, "not both"),
        ({"train_batch": 0}, "--train-batch"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"temperature": float("inf")}, "--temperature"),
        ({"features": -1.0}, "--features"),
        ({"blockwise": 1.5}, "--blockwise"),
    ],
)
def test_options_that_cannot_be_used_are_refused(given, word):
    with pytest.raises(UsageError, match=word):
        RecoverOptions(**given)


def test_only_a_gpu_that_has_bfloat16_computes_with_it(monkeypatch):
    assert not train._autocast(torch.device("cpu"))._enabled
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        asked = []
        monkeypatch.setattr(torch, "autocast", lambda *given, asked=asked, **more: asked.append((given, more)))
        train._autocast(torch.device("cuda"))
        assert asked == [(("cuda", torch.bfloat16), {"enabled": has})]


def test_a_softmax_whose_input_the_other_network_does_not_have_is_compared_itself():
    body = "g = GlobalAveragePool (c) f = Flatten (g) y = Softmax (f)"
    net = load(parse(CONV + body, "float[N,3,4,4] x", "float[N,4] y"))[0]
    assert loss_ends(net, trainable(net), {"y"})[0] == (End("y", 1, probabilities=True),)
    logits, other = values(0, 6, 5), values(1, 6, 5)
    kl = [
        Loss((end,), (), 4.0, {"y": 1e12}).at_ends({"y": a}, {"y": b})
        for end, a, b in (
            (End("y", 1), logits, other),
            (End("y", 1, probabilities=True), logits.softmax(1), other.softmax(1)),
        )
    ]
    assert float(kl[0]) == pytest.approx(float(kl[1]), rel=1e-4)


@given(st.integers(0, 200), st.integers(1, 200))
def test_either_stage_rises_falls_to_nothing_and_the_second_is_gentler(blocks, together):
    total = blocks + together
    shares = [train._share(step, blocks, total) for step in range(total)]
    assert all(0 < share <= 1 for share in shares)
    first, second = shares[:blocks], shares[blocks:]
    for stage, top in ((first, 1.0), (second, train._TOGETHER if blocks else 1.0)):
        if len(stage) > 100:
            assert max(stage) == pytest.approx(top, rel=0.01)
            assert stage[0] < top / 2
            assert stage[-1] < top / 100
