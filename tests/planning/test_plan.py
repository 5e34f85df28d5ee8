"""The plan file: what is written is what is read, and whatever else is read is a plan error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import PlanError
from onnxprune.graph.channels.groups import ChannelMap, channel_map
from onnxprune.graph.model.net import Net
from onnxprune.planning import GroupPlan, Plan
from onnxprune.planning.assignment import Assignment

from .helpers import digits

GOOD: dict[str, Any] = {
    "format": "onnxprune-plan",
    "version": 1,
    "model": "net.onnx",
    "budget": "0.5 of the MACs",
    "groups": [
        {"producer": "conv1", "consumers": ["conv2"], "channels": 4, "keep": 2, "kept": [0, 3]},
        {"producer": "conv2", "consumers": [], "channels": 8, "keep": 8},
    ],
}


def half(channels: ChannelMap, *, named: bool) -> Plan:
    keep = {group.name: group.size // 2 for group in channels.prunable}
    kept = {name: tuple(2 * i for i in range(count)) for name, count in keep.items()} if named else keep
    return Plan.of(channels, Assignment(kept), model="digits.onnx", budget="half")


def write(folder: Path, content: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


names = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    groups = []
    for producer in draw(st.lists(names, unique=True, max_size=4)):
        size = draw(st.integers(1, 30))
        keep = draw(st.integers(0, size))
        kept = draw(st.none() | st.permutations(range(size)).map(lambda order, n=keep: tuple(sorted(order[:n]))))
        groups.append(GroupPlan(producer, tuple(draw(st.lists(names, max_size=2))), size, keep, kept))
    return Plan(tuple(groups), draw(st.text(max_size=5)), draw(st.text(max_size=5)))


@settings(max_examples=50, deadline=None)
@given(plans())
def test_a_plan_comes_back_from_json_as_it_was(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    plan = half(digits("vgg")[1], named=True)
    assert Plan.load(write(tmp_path, plan.to_json())) == plan
    assert Plan.load(str(write(tmp_path, plan.to_json()))) == plan


def test_kept_channels_are_read_in_order_whatever_their_order_in_the_file() -> None:
    content = copy.deepcopy(GOOD)
    content["groups"][0]["kept"] = [3, 0]
    assert Plan.from_dict(content).groups[0].kept == (0, 3)


def first(field: str, value: Any) -> dict[str, Any]:
    return {"groups": [{**GOOD["groups"][0], field: value}]}


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"format": "onnx"}, "format"),
    ({"format": None}, "format"),
    ({"format": ["onnxprune-plan"]}, "format"),
    ({"version": 5}, "version"),
    ({"version": None}, "version"),
    ({"version": "1"}, "version"),
    ({"version": True}, "version"),
    ({"version": [[1]]}, "version"),
    ({"model": 3}, "'model'"),
    ({"model": ["a"]}, "'model'"),
    ({"budget": None}, "'budget'"),
    ({"budget": {"macs": 0.5}}, "'budget'"),
    ({"groups": None}, "'groups'"),
    ({"groups": {}}, "'groups'"),
    ({"groups": "conv1"}, "'groups'"),
    ({"groups": [3]}, "groups[0]"),
    ({"groups": [GOOD["groups"][0], None]}, "groups[1]"),
    ({"groups": [GOOD["groups"][0], GOOD["groups"][0]]}, "conv1"),
    *((first("producer", value), "'producer'") for value in (None, "", 3, ["conv1"], {})),
    *((first("consumers", value), "'consumers'") for value in (None, "conv2", [3], [["conv2"]], {})),
    *((first("channels", value), "'channels'") for value in (None, "4", 4.0, True, [4], {})),
    *((first("keep", value), "'keep'") for value in (None, "2", 2.0, True, -1, 5)),
    *((first("kept", value), "'kept'") for value in (True, 2, "03", {}, [0], [0, 0], [0, 4], [-1, 0], [0, 1, 2])),
    *((first("kept", value), "'kept'") for value in ([0.0, 1.0], [False, True], ["0", "3"], [[0], [3]])),
]


@pytest.mark.parametrize(("change", "field"), MALFORMED, ids=[str(change)[:60] for change, _ in MALFORMED])
def test_a_malformed_field_is_one_line_with_the_file_and_the_field(
    change: dict[str, Any], field: str, tmp_path: Path
) -> None:
    path = write(tmp_path, {**GOOD, **change})
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert field in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["format", "version", "groups"])
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=field):
        Plan.load(write(tmp_path, {name: value for name, value in GOOD.items() if name != field}))


@pytest.mark.parametrize("field", ["producer", "channels", "keep"])
def test_a_missing_field_of_a_group_is_named(field: str, tmp_path: Path) -> None:
    group = {name: value for name, value in GOOD["groups"][0].items() if name != field}
    with pytest.raises(PlanError, match=rf"groups\[0\].*'{field}'"):
        Plan.load(write(tmp_path, {**GOOD, "groups": [group]}))


@pytest.mark.parametrize(
    "text",
    ["", "{", "nonsense", "[" * 100_000, '{"a":' * 50_000, "1" * 10_000, "\ufeff{}", "null", "[]", "3", '"x"', "NaN"],
)
def test_a_file_that_is_no_plan_is_one_line_with_the_file(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_a_plan_error(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PlanError, match=r"plan\.json"):
        Plan.load(path)


def test_a_missing_file_and_a_folder_are_plan_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(PlanError) as caught:
            Plan.load(path)
        assert str(path) in str(caught.value)


def test_a_file_far_too_large_for_a_plan_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(PlanError, match="too many"):
        Plan.load(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
entry_fields = st.sampled_from(["producer", "consumers", "channels", "keep", "kept"])


def read_or_error(content: Any) -> Plan | PlanError:
    try:
        return Plan.from_dict(content, "fuzz.json")
    except PlanError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(values, st.dictionaries(st.sampled_from(list(GOOD)), values), st.dictionaries(entry_fields, values))
def test_any_json_is_a_plan_or_a_plan_error(whole: Any, top: dict[str, Any], inner: dict[str, Any]) -> None:
    entry = {**GOOD["groups"][0], **inner}
    for content in (whole, {**GOOD, **top}, {**GOOD, "groups": [entry]}, {**GOOD, "groups": [entry, whole]}):
        found = read_or_error(content)
        if isinstance(found, PlanError):
            assert str(found).startswith("fuzz.json: ")
            assert "\n" not in str(found)
        else:
            assert Plan.from_dict(json.loads(found.to_json())) == found


@pytest.mark.parametrize("model", ["vgg", "resnet"])
@pytest.mark.parametrize("named", [True, False])
def test_a_plan_resolves_on_the_net_that_it_was_made_from(model: str, named: bool) -> None:
    channels = digits(model)[1]
    found = half(channels, named=named).assignment(channels)
    keep, kept = found.counts, found.selected
    assert keep == {group.name: group.size // 2 for group in channels.prunable}
    assert set(kept) == (set(keep) if named else set())
    assert all(np.array_equal(found, np.arange(keep[name]) * 2) for name, found in kept.items())
    assert all(found.dtype == np.int64 for found in kept.values())


def test_a_plan_names_only_the_groups_that_it_was_given() -> None:
    channels = digits("vgg")[1]
    plan = Plan.of(channels, Assignment({"stage2.conv1": 8}))
    assert [group.producer for group in plan.groups] == ["stage2.conv1"]
    assert plan.assignment(channels) == Assignment({"stage2.conv1": 8})


def with_other_head(net: Net) -> Net:
    """The same convs; another classifier of three classes on the last features, and an Identity behind the old."""
    net = net.draft()
    old = net.node("fc2")
    features, logits = old.inputs[0], old.outputs[0]
    weight = np.random.default_rng(0).standard_normal((features.shape[-1], 3)).astype(np.float32)
    second = gs.Variable("second", dtype=np.float32, shape=("N", 3))
    renamed = gs.Variable("renamed", dtype=np.float32, shape=logits.shape)
    net.graph.nodes.append(gs.Node("MatMul", "second_head", inputs=[features, gs.Constant("w2", weight)]))
    net.graph.nodes[-1].outputs = [second]
    net.graph.nodes.append(gs.Node("Identity", "rename", inputs=[logits], outputs=[renamed]))
    net.graph.outputs = [renamed, second]
    return Net.from_model(net.to_model())


@pytest.mark.parametrize("named", [True, False])
def test_a_plan_resolves_on_the_same_convs_under_another_head(named: bool) -> None:
    net, channels = digits("vgg")
    other = channel_map(with_other_head(net))
    assert [group.consumers for group in other.groups] != [group.consumers for group in channels.groups]
    plan = half(channels, named=named)
    assert plan.assignment(channels) == plan.assignment(other)


def test_a_plan_resolves_by_any_producer_of_a_group() -> None:
    channels = digits("resnet")[1]
    plan = Plan((GroupPlan("stage1.block2.conv2", (), 32, 16),))
    assert plan.assignment(channels).channels == {"stem.conv": 16}


def test_two_entries_for_one_group_are_a_plan_error() -> None:
    plan = Plan((GroupPlan("stem.conv", (), 32, 16), GroupPlan("stage1.block2.conv2", (), 32, 16)))
    with pytest.raises(PlanError, match=r"stage1\.block2\.conv2.*share"):
        plan.assignment(digits("resnet")[1])


def test_a_pinned_producer_is_a_plan_error_with_the_reason() -> None:
    with pytest.raises(PlanError, match=r"'fc2'.*graph output 'logits'"):
        Plan((GroupPlan("fc2", (), 10, 5),)).assignment(digits("vgg")[1])


def test_a_producer_that_another_head_pins_is_a_plan_error_with_the_reason() -> None:
    net, channels = digits("vgg")
    net = net.draft()
    net.graph.outputs.append(net.node("stage2.conv1").outputs[0])
    pinned = channel_map(Net.from_model(net.to_model()))
    with pytest.raises(PlanError, match=r"'stage2\.conv1' cannot be removed: graph output"):
        half(channels, named=False).assignment(pinned)


def test_a_missing_producer_is_a_plan_error_that_names_it() -> None:
    with pytest.raises(PlanError, match="no layer named 'nowhere'"):
        Plan((GroupPlan("nowhere", (), 4, 2),)).assignment(digits("vgg")[1])


def test_another_number_of_channels_is_a_plan_error_with_both_numbers() -> None:
    with pytest.raises(PlanError, match=r"'stage2\.conv1' produces 64 channels in this model, the plan expects 32"):
        Plan((GroupPlan("stage2.conv1", (), 32, 16),)).assignment(digits("vgg")[1])
