"""Outputs that are no classes, from end to end: what they are taken for, what they are held to, what is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph.nets import build
from onnx import numpy_helper

import onnxprune
from onnxprune import Options, cli
from onnxprune.commands.compare import CompareOptions
from onnxprune.console.flags import filled
from onnxprune.errors import PlanError, UsageError, VerifyError
from onnxprune.note import RunWarning
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions

HEAD = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(h) k = Conv<pads=[1,1,1,1]>(r, w2) q = Relu(k) "
POOLED = HEAD + "p = GlobalAveragePool(q) f = Flatten(p) "
WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3)}
BOX = {"wb": (4, 16), "bb": (4,)}
DATA = {"x": np.random.default_rng(0).standard_normal((120, 3, 8, 8)).astype(np.float32)}
OPTIONS = Options(
    bench=False, recipe="prune", refit=RefitOptions(refit="linear"), budget=BudgetOptions(macs="2x").budget()
)


def boxes() -> onnx.ModelProto:
    """A box (N, 4), an embedding (N, 8) of unit length, and an objectness (N, 64, 1)."""
    body = (
        POOLED + "box = Gemm<transB=1>(f, wb, bb) e = Gemm<transB=1>(f, we) n = ReduceL2<axes=[1]>(e) "
        "embedding = Div(e, n) o = Conv(q, wo) s = Sigmoid(o) objectness = Reshape(s, places)"
    )
    weights = {**WEIGHTS, **BOX, "we": (8, 16), "wo": (1, 16, 1, 1), "places": np.array([0, 64, 1])}
    return build(body, weights, outputs="float[N,4] box, float[N,8] embedding, float[N,64,1] objectness")


def row(end: str = "", *, leaning: bool = False) -> onnx.ModelProto:
    """One Gemm behind a pool, its output (N, 4); where it is leaning, the last column is always the largest."""
    weights = {**WEIGHTS, **BOX, **({"bb": np.array([0, 0, 0, 9], np.float32)} if leaning else {})}
    return build(POOLED + f"{'l' if end else 'y'} = Gemm<transB=1>(f, wb, bb) {end}", weights, outputs="float[N,4] y")


def shrunk(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The model with the weights and biases of its last Gemm times a factor: its largest output stays where it is."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in made.graph.initializer:
        if tensor.name in BOX:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(tensor), tensor.name))
    return made


def compared(original, candidate, max_drop: float = 5, labels=None, **outputs):
    options = CompareOptions(bench=False, max_drop=max_drop, outputs=outputs)
    return onnxprune.compare(original, candidate, data=DATA, labels=labels, options=options)


def lost(found) -> float:
    return next(output.relative_error for output in found.divergence)


pytestmark = pytest.mark.filterwarnings("ignore::onnxprune.note.RunWarning")


def test_boxes_embeddings_and_objectness_are_never_taken_for_classes():
    found = compared(boxes(), shrunk(boxes(), 0.9))
    assert [output.kind for output in found.divergence] == ["undecided", "values", "values"]
    found = compared(boxes(), shrunk(boxes(), 0.9), box="values")
    assert [output.kind for output in found.divergence] == ["values", "values", "values"]
    assert all(output.top1_agreement is None for output in found.divergence)


@pytest.mark.parametrize("outputs", [{}, {"y": "values"}])
def test_a_regressor_off_by_a_third_is_outside_five_points_though_its_largest_column_agrees(outputs):
    found = compared(row(), shrunk(row(), 0.67), **outputs)
    assert found.divergence[0].top1_agreement in (1, None)
    assert lost(found) > 0.3
    assert not found.within
    assert "relative error" in found.drop_kind
    assert ("--output y=classes" in found.hint) == (not outputs)


def test_the_same_scores_are_within_it_where_they_are_known_to_be_of_classes():
    original, candidate = row(), shrunk(row(), 0.67)
    assert compared(original, candidate, y="classes").within
    assert compared(original, candidate, labels=[0, 1, 2, 3] * 30).within
    softmax = "y = Softmax(l)"
    found = compared(row(softmax), shrunk(row(softmax), 0.67))
    assert found.divergence[0].kind == "classes"
    assert found.within


def test_labels_that_may_belong_to_two_outputs_ask_for_a_word():
    two = build(
        POOLED + "y = Gemm<transB=1>(f, wb, bb) z = Neg(y)", {**WEIGHTS, **BOX}, outputs="float[N,4] y, float[N,4] z"
    )
    with pytest.raises(UsageError, match="--output y=classes"):
        compared(two, two, labels=[0, 1, 2, 3] * 30)
    assert compared(two, two, labels=[0, 1, 2, 3] * 30, z="classes").accuracy is not None


def test_a_pruned_regressor_is_refused_where_it_loses_more_than_it_may():
    options = replace(OPTIONS, max_drop=5, refit=replace(OPTIONS.refit, refit="none"))
    with pytest.raises(VerifyError, match=r"'y': .*relative error.*--max-drop allows 5"):
        onnxprune.prune(row(leaning=True), data=DATA, keep_ratio=0.4, options=options)
    with pytest.raises(VerifyError, match="output 'box': "):
        onnxprune.prune(boxes(), data=DATA, keep_ratio=0.4, options=options)


def test_damage_is_the_first_warning_and_a_field_of_the_record():
    options = replace(OPTIONS, refit=replace(OPTIONS.refit, refit="none"))
    report = onnxprune.prune(row(), data=DATA, keep_ratio=0.2, options=options).report
    assert report.damaged
    assert report.warnings[0].startswith("DAMAGED: ")
    assert report.to_dict()["damaged"] is True
    whole = onnxprune.prune(row(), data=DATA, keep_ratio=0.95, options=OPTIONS).report
    assert (whole.damaged, [text for text in whole.warnings if "DAMAGED" in text]) == (False, [])


@pytest.mark.filterwarnings("default::onnxprune.note.RunWarning")
def test_too_few_inputs_for_a_promise_are_said_before_the_work_and_in_the_result():
    options = replace(OPTIONS, max_drop=60, outputs={"y": "classes"})
    with (
        pytest.warns(RunWarning, match="12 held-out inputs cannot show a drop of 1 points"),
        pytest.raises(PlanError, match="out of reach"),
    ):
        onnxprune.prune(row(), data=DATA, options=replace(options, max_drop=1), macs="9999x")
    few = {"x": DATA["x"][:20]}
    report = onnxprune.prune(row(), data=few, keep_ratio=0.9, options=options).report
    assert report.estimate
    assert any(text.startswith("ESTIMATE: on 2 inputs") for text in report.warnings)


def ended(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def files(tmp_path):
    """The regressor, one that is off by a third, and inputs."""
    for name, model in (("a.onnx", row()), ("b.onnx", shrunk(row(), 0.67))):
        onnx.save(model, tmp_path / name)
    np.save(tmp_path / "x.npy", DATA["x"])
    return [tmp_path / "a.onnx", tmp_path / "b.onnx", "--data", tmp_path / "x.npy", "--no-bench"]


def test_compare_ends_with_8_until_it_is_told_that_the_output_holds_classes(capsys, files, tmp_path):
    code, out, err = ended(capsys, "compare", *files, "--max-drop", 5, "--json", tmp_path / "c.json")
    assert code == 8
    assert "--output y=classes" in err
    assert out.lstrip("╭─ ").startswith("warning")
    assert "DAMAGED" in out.split("relative error")[0] + out.split("\n")[1]
    content = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["damaged"] is True
    for spelt in (["--output", "y=classes"], ["--output=y=classes"], ["--output-kind", "y=classes"]):
        assert ended(capsys, "compare", *spelt, *files, "--max-drop", 5)[0] == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [("q=classes", "no output has this name"), ("y=boxes", "unknown kind"), ("y=pixels", "has shape")],
)
def test_a_word_that_cannot_be_is_one_line_before_any_work(capsys, files, word, message):
    code, out, err = ended(capsys, "compare", *files[:2], "--output", word, "--data", "nowhere")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_an_output_file_may_have_an_equals_sign_in_its_name(capsys, files, tmp_path):
    target = tmp_path / "k=2.onnx"
    told = [files[0], *files[2:], "--align", 1, "--no-cache", "--output", target, "--output", "y=classes"]
    code, out, _ = ended(capsys, *told, "--max-drop", 90, "--macs", "1.5x")
    assert code == 0
    assert target.is_file()
    assert "classes: top-1 agreement" in out


@pytest.mark.parametrize(
    ("value", "kind"),
    [("y=classes", True), ("y=boxes", True), ("a=b=values", True), ("k=2.onnx", False), ("k=2", False), ("=x", False),
     ("out.onnx", False), ("./a=b", True), ("a=b/c.onnx", False)],
)  # fmt: skip
def test_a_value_of_output_is_a_kind_where_a_plain_word_stands_behind_an_equals_sign(value, kind):
    option = "--output-kind" if kind else "--output"
    assert filled(["m", "--output", value]) == ["m", option, value]
    assert filled([f"--output={value}"]) == [f"{option}={value}"]
    assert filled(["-o", value]) == ["-o", value]


def test_a_refused_regressor_leaves_nothing_and_ends_with_6(capsys, files, tmp_path):
    target = tmp_path / "p.onnx"
    onnx.save(row(leaning=True), files[0])
    told = [files[0], *files[2:], "-o", target, "--no-cache", "--keep-ratio", 0.4, "--align", 1, "--refit", "none"]
    code, _, err = ended(capsys, *told, "--max-drop", 5)
    assert code == 6
    assert "relative error" in err
    assert not target.exists()


def test_inspect_lists_what_each_output_means_and_why(capsys, tmp_path):
    onnx.save(boxes(), tmp_path / "m.onnx")
    code, out, _ = ended(capsys, "inspect", tmp_path / "m.onnx", "--json", tmp_path / "i.json")
    assert code == 0
    found = {one["name"]: one for one in json.loads((tmp_path / "i.json").read_text())["outputs"]}
    assert {name: one["kind"] for name, one in found.items()} == {
        "box": "undecided",
        "embedding": "values",
        "objectness": "values",
    }
    assert "Sigmoid" in found["objectness"]["evidence"]
    assert "output objectness (Nx64x1): values; Sigmoid" in out
