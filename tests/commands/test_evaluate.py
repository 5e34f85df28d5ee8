"""The user's own measure: what it is given, what it decides, and how its mistakes are told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graph.nets import build
from runs import SMALL

import onnxprune
from onnxprune import CompareOptions, Options, cli
from onnxprune.data import InputSpec
from onnxprune.engine.evaluation import Evaluator
from onnxprune.engine.sessions import Engine
from onnxprune.engine.usercode import load_function
from onnxprune.errors import EvaluateError, LostTooMuchError, UsageError
from onnxprune.options.budget import WITHIN_DROP
from onnxprune.options.engine import EngineOptions
from onnxprune.options.solve import RefitOptions

pytestmark = pytest.mark.slow

CPU = Engine.open(EngineOptions(provider="cpu"))


@pytest.fixture
def near(tiny):
    """Minus the mean distance to the original's outputs on ten inputs, and how often it was asked."""
    with np.load(tiny.with_suffix(".calib.npz")) as archive:
        x = archive["x"][:10]
    wanted = CPU.session(tiny, label="tiny").run({"x": x})
    asked: list[float] = []

    def nearness(run) -> float:
        found = run({"x": x})
        asked.append(0.0 - float(np.mean([np.abs(found[name] - wanted[name]).mean() for name in wanted])))
        return asked[-1]

    return nearness, asked


def test_the_report_has_both_values_and_the_original_is_measured_once(tiny, near):
    measure, asked = near
    report = onnxprune.prune(tiny, options=replace(SMALL, evaluate=measure)).report
    assert report.evaluation.name == "nearness"
    assert [report.evaluation.before, report.evaluation.after] == asked
    assert report.evaluation.before == 0 > report.evaluation.after
    assert report.options["evaluate"] == "nearness"


def test_a_drop_is_allowed_in_the_unit_of_the_measure_and_nothing_else_counts(tiny, near):
    measure, asked = near
    options = replace(SMALL, evaluate=measure)
    onnxprune.prune(tiny, keep_ratio=0.5, options=options)
    drop = -asked[-1]
    assert onnxprune.prune(tiny, keep_ratio=0.5, options=replace(options, max_drop=1.01 * drop)).model is not None
    with pytest.raises(LostTooMuchError, match=r"nearness: 0 -> -.* lost, --max-drop allows .*nothing was written"):
        onnxprune.prune(tiny, keep_ratio=0.5, options=replace(options, max_drop=0.99 * drop))


def test_where_there_is_a_measure_the_outputs_do_not_decide(vgg):
    outputs = Options(bench=False, samples=60, refit=RefitOptions(refit="none"), max_drop=0.0)
    with pytest.raises(LostTooMuchError, match="--max-drop allows 0"):
        onnxprune.prune(vgg, keep_ratio=0.4, options=outputs)
    assert onnxprune.prune(vgg, keep_ratio=0.4, options=replace(outputs, evaluate=lambda run: 1)).model is not None


def test_a_search_is_decided_by_the_measure_and_measures_the_original_once(tiny, near, machine):
    measure, asked = near
    onnxprune.prune(tiny, macs="1.5x", options=replace(SMALL, evaluate=measure))
    limit = -asked[-1]
    asked.clear()
    machine(overhead=0.0)
    searched = replace(SMALL, evaluate=measure, max_drop=limit, budget=WITHIN_DROP)
    found = onnxprune.prune(tiny, options=searched)
    assert asked.count(0.0) == 1
    assert -limit <= found.report.evaluation.after
    assert min(asked) < -limit
    assert found.report.macs.ratio >= 1.4


def test_a_sweep_ends_at_the_first_point_that_loses_too_much_by_the_measure(tiny, near):
    measure, asked = near
    onnxprune.prune(tiny, macs="1.5x", options=replace(SMALL, evaluate=measure))
    options = replace(SMALL, evaluate=measure, max_drop=-1.001 * asked[-1])
    asked.clear()
    points = list(onnxprune.pareto(tiny, speedups=(1.5, 4.0, 6.0), options=options))
    assert [point.result is None for point in points] == [False, True]
    assert "nearness" in points[-1].why
    assert points[0].to_dict()["evaluation"]["after"] == asked[1]
    assert asked.count(0.0) == 1


def test_a_comparison_is_decided_by_the_measure(tiny, near):
    measure, _ = near
    smaller = onnxprune.prune(tiny, options=SMALL).model
    options = CompareOptions(bench=False, evaluate=measure, max_drop=0.0)
    found = onnxprune.compare(tiny, smaller, options=options)
    assert found.drop == found.evaluation.drop > 0
    assert found.drop_kind == "nearness lost"
    assert not found.within
    assert onnxprune.compare(tiny, smaller, options=replace(options, max_drop=found.drop)).within


def test_a_recovery_shows_the_candidate_before_and_after(tiny, near):
    pytest.importorskip("torch")
    measure, asked = near
    smaller = onnxprune.prune(tiny, options=SMALL).model
    options = replace(SMALL, evaluate=measure, recover=onnxprune.RecoverOptions(epochs=1))
    found = onnxprune.recover(tiny, smaller, options=options).report.evaluation
    assert (found.before, found.after, found.start) == tuple(asked)
    assert found.before > found.start


def test_with_a_training_what_comes_out_of_it_is_measured(tiny, near):
    pytest.importorskip("torch")
    measure, asked = near
    options = replace(SMALL, evaluate=measure, recover=onnxprune.RecoverOptions(epochs=1))
    result = onnxprune.prune(tiny, options=options)
    assert len(asked) == 2
    assert measure(lambda inputs: CPU.session(result.model, label="result").run(inputs)) == pytest.approx(asked[1])


OPEN = build("y = Conv(x, w)", {"w": (4, 3, 1, 1)}, outputs="float[N,4,8,8] y")
FOURS = build("y = Conv(x, w)", {"w": (4, 3, 1, 1)}, inputs="float[4,3,8,8] x", outputs="float[4,4,8,8] y")
MEAN = build("y = ReduceMean<keepdims=0>(x)", {}, inputs="float[4,3,8,8] x", outputs="float y")


def ran(model: onnx.ModelProto, batch: int | None, inputs: dict) -> dict:
    """What `run` gives of a model that fixes this batch."""
    found: list[dict] = []

    def measure(run) -> float:
        found.append(run(inputs))
        return 0

    Evaluator.open(measure, model, [InputSpec("x", (batch, 3, 8, 8), np.dtype(np.float32))], CPU)
    return found[0]


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_a_model_that_fixes_its_batch_is_fed_in_pieces_and_padding_is_cut(count):
    x = np.random.default_rng(0).standard_normal((count, 3, 8, 8))
    np.testing.assert_allclose(ran(FOURS, 4, {"x": x})["y"], ran(OPEN, None, {"x": x})["y"], rtol=1e-6)


def test_an_output_without_a_batch_is_given_for_one_whole_batch_and_refused_for_more():
    x = np.ones((8, 3, 8, 8), np.float32)
    assert ran(MEAN, 4, {"x": x[:4]})["y"] == 1
    with pytest.raises(EvaluateError, match=r"runs 4 inputs at a time, but output 'y' has shape \(\)"):
        ran(MEAN, 4, {"x": x})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixels": np.zeros((1, 3, 8, 8))}, "expected inputs x; found pixels"),
        ({}, "expected inputs x; found nothing"),
        ({"x": np.zeros((3, 8, 8))}, r"input 'x' \(N, 3, 8, 8\) float32, found float64 \(3, 8, 8\)"),
        ({"x": np.zeros((1, 3, 8, 8), complex)}, "found complex128"),
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "onnxruntime cannot run it"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, "at least 1"),
    ],
)
def test_inputs_that_do_not_fit_are_the_measures_mistake_with_its_line(inputs, message):
    with pytest.raises(EvaluateError, match=rf"test_evaluate.py:\d+: .*{message}"):
        ran(FOURS, 4, inputs)


SOURCE = """
import helper
first = 1
def steady(run):
    print("measuring")
    return helper.VALUE
def broken(run):
    raise ZeroDivisionError("no boxes")
def inner(run):
    return helper.fails()
def wordy(run):
    return "0.5"
def silent(run): pass
def unknown(run):
    return float("nan")
def leaving(run):
    raise SystemExit(0)
def nothing(): return 1
"""
HELPER = """
VALUE = 0.75
def fails():
    return [][0]
"""


@pytest.fixture
def measures(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "helper", raising=False)  # of another test's folder
    folder = tmp_path / "measures"
    folder.mkdir()
    (folder / "measure.py").write_text(SOURCE)
    (folder / "helper.py").write_text(HELPER)
    (folder / "typo.py").write_text("def steady(run)\n    return 1\n")
    (folder / "early.py").write_text("x = 1\nraise SystemExit(0)\n")
    return folder


def ended(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_shows_and_records_both_values_and_leaves_its_output_alone(capsys, tiny, measures, tmp_path):
    out, record = tmp_path / "p.onnx", tmp_path / "run.json"
    quick = ["--align", "4", "--macs", "2x", "--no-bench", "--no-cache", "--json", record, "--max-drop", "0"]
    code, text, err = ended(capsys, tiny, "-o", out, "--evaluate", f"{measures}/measure.py:steady", *quick)
    assert (code, "ESTIMATE" in text + err) == (0, False)
    assert text.count("measuring\n") == 2
    assert "0.75 -> 0.75" in text
    assert json.loads(record.read_text())["evaluation"] == {
        "name": "steady",
        "before": 0.75,
        "after": 0.75,
        "start": None,
    }
    assert str(measures) not in sys.path
    given = ["--evaluate", f"{measures}/measure.py:steady", "--no-bench", "--max-drop", "0"]
    code, text, err = ended(capsys, "compare", tiny, out, *given)
    assert (code, "steady lost" in text, "ESTIMATE" in text + err) == (0, True, False)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "broken: FOLDER/measure.py:8: ZeroDivisionError: no boxes"),
        ("inner", "inner: FOLDER/helper.py:4: IndexError: list index out of range"),
        ("wordy", "wordy of the original: expected one finite number, found str '0.5'"),
        ("silent", "silent of the original: expected one finite number, found NoneType None"),
        ("unknown", "unknown of the original: expected one finite number, found nan"),
        ("leaving", "leaving: FOLDER/measure.py:17: SystemExit: 0"),
        ("nothing", "nothing: TypeError: nothing() takes 0 positional arguments but 1 was given"),
    ],
)
def test_what_goes_wrong_inside_is_one_line_with_its_place(capsys, tiny, measures, tmp_path, function, message):
    out = tmp_path / "p.onnx"
    given = ["--evaluate", f"{measures}/measure.py:{function}", "--no-cache", "--macs", "2x"]
    code, text, err = ended(capsys, tiny, "-o", out, *given)
    assert (code, text) == (EvaluateError.exit_code, "")
    told = [line for line in err.splitlines() if "FEW INPUTS" not in line]
    assert told == [f"onnxprune: error: {message.replace('FOLDER', str(measures))}"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("measure.py:nowhere", 2, "measure.py: nowhere does not exist; functions here: steady, broken, inner"),
        ("measure.py:first", 2, "measure.py: first is not callable"),
        ("absent.py:steady", 2, "absent.py: no such file"),
        ("measure.py", 2, "--evaluate takes FILE.py:FUNCTION, found"),
        ("helper.txt:steady", 2, "--evaluate takes FILE.py:FUNCTION, found"),
        ("typo.py:steady", 10, "typo.py:1: SyntaxError: expected ':'"),
        ("early.py:steady", 10, "early.py:2: SystemExit: 0"),
    ],
)
@pytest.mark.parametrize("command", [[], ["compare"], ["recover"]])
def test_a_measure_that_cannot_be_had_is_told_before_any_work(capsys, measures, command, given, code, message):
    models = ["nowhere.onnx"] if not command else ["nowhere.onnx", "neither.onnx"]
    out = [] if command == ["compare"] else ["-o", measures / "p.onnx"]
    found, text, err = ended(capsys, *command, *models, *out, "--evaluate", measures / given)
    assert (found, text) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_beyond_the_drop_nothing_is_written(capsys, tiny, tmp_path):
    (tmp_path / "falling.py").write_text("values = [1.0, 0.5]\ndef falling(run):\n    return values.pop(0)\n")
    given = ["--evaluate", tmp_path / "falling.py:falling", "--max-drop", "0.4", "--macs", "1.5x"]
    code, _, err = ended(capsys, tiny, "-o", tmp_path / "p.onnx", *given, "--align", "4", "--no-bench", "--no-cache")
    assert code == LostTooMuchError.exit_code
    assert "falling: 1 -> 0.5, 0.5 lost, --max-drop allows 0.4" in err
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize("options", [Options, CompareOptions])
def test_only_a_function_is_a_measure(options):
    with pytest.raises(UsageError, match="evaluate must be a function, found str"):
        options(evaluate="measure.py:steady")


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(2), np.array(0.5), np.array(3)])
def test_every_kind_of_number_is_a_value(value):
    assert Evaluator.open(lambda run: value, OPEN, [], CPU).before == float(value)


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array([0.5]), 1j, np.inf, [1.0]])
def test_nothing_else_is(value):
    with pytest.raises(EvaluateError, match="expected one finite number"):
        Evaluator.open(lambda run: value, OPEN, [], CPU)


def test_a_file_may_define_dataclasses(tmp_path):
    (tmp_path / "classes.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Measure:\n    factor: float = 2\n    def __call__(self, run): return self.factor\n"
        "measure = Measure()\n"
    )
    assert load_function(f"{tmp_path}/classes.py:measure")(None) == 2
