"""Options by group and field, in a file and one by one, are what typing them would be."""

from __future__ import annotations

import json
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune import Options, RecoverOptions, RefitOptions, cli
from onnxprune.console.config import config_text, configured
from onnxprune.console.flags import FIELDS, GROUPS
from onnxprune.errors import UsageError

KNOWN = {"run": ("data", "max_drop"), "refit": ("rounds", "judged"), "data": ("mean", "resize")}


def read(tmp_path, text: str, *arguments: str) -> list[str]:
    path = tmp_path / "run.toml"
    path.write_text(text)
    *found, last = configured(["m.onnx", "--config", str(path), *arguments], KNOWN)
    assert last == f"--config={path}"
    return found


def test_a_file_is_what_typing_its_options_would_be(tmp_path) -> None:
    text = '[run]\ndata = "a b"\n[refit]\nrounds = 2\njudged = false\n[data]\nmean = [0.5, 1]\n'
    typed = ["m.onnx", "--data=a b", "--rounds", "2", "--no-judged", "--mean", "0.5", "1"]
    assert read(tmp_path, text) == typed


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["--rounds", "0"], ["m.onnx", "--rounds", "0", "--judged"]),
        (["--rounds=0"], ["m.onnx", "--rounds=0", "--judged"]),
        (["--no-judged"], ["m.onnx", "--no-judged", "--rounds", "2"]),
        (["--set", "refit.judged=false"], ["m.onnx", "--no-judged", "--rounds", "2"]),
        (["--set=refit.rounds=7"], ["m.onnx", "--rounds", "7", "--judged"]),
    ],
)
def test_what_is_typed_replaces_what_the_file_says(tmp_path, typed, left) -> None:
    assert read(tmp_path, "[refit]\nrounds = 2\njudged = true\n", *typed) == left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "refit.round=2"], "no 'round', only rounds, judged; did you mean 'rounds'"),
        (["--set", "fit.rounds=2"], "unknown group 'fit', expected one of run, refit, data"),
        (["--set", "rounds=2"], "expected GROUP.FIELD=VALUE"),
        (["--rounds", "1", "--set", "refit.rounds=2"], "--rounds and --set refit.rounds are one option"),
        (["--set"], "--set needs a value"),
        (["--config", "no.toml"], "--config no.toml: cannot be read"),
        (["--config", "a.toml", "--config", "b.toml"], "takes one file"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        configured(arguments, KNOWN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 2", "'rounds' belongs to no group"),
        ("[refit]\nx = 1", "has no 'x'"),
        ("[refit", "expected a TOML file"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line_with_its_name(tmp_path, text, message) -> None:
    with pytest.raises(UsageError, match=rf"run\.toml: .*{message}"):
        read(tmp_path, text)


values = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.lists(st.integers(0, 9)),
)


@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), values, min_size=1)))
def test_what_is_written_is_read_again(groups) -> None:
    assert tomllib.loads(config_text(groups)) == groups


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("refit.relu_steps=[[0.5, 3]]", ["--relu-steps", "0.5", "3"]),
        ("plan.exclude=-a*", ["--exclude=-a*"]),
        ('plan.exclude=["a", "b"]', ["--exclude=a", "--exclude=b"]),
        ("bench.bench=false", ["--no-bench"]),
        ("data.scale=1/255", ["--scale=1/255"]),
        ("refit.strengths=[inf, 0]", ["--strengths", "inf", "0"]),
    ],
)
def test_a_value_is_one_of_toml_or_plain_text(text, words) -> None:
    assert configured(["m.onnx", "--set", text], FIELDS) == ["m.onnx", *words]


@pytest.mark.parametrize("typed", [["--speedup", "2"], ["--plan", "p.json"], ["--pareto", "points"]])
def test_a_typed_budget_takes_the_place_of_the_files(tmp_path, typed) -> None:
    (tmp_path / "run.toml").write_text('[budget]\nmacs = "50%"\n[run]\ndata = "x"\n')
    groups = {"run": ("data",), "budget": ("macs", "speedup")}
    found = configured(["m.onnx", *typed, "--config", str(tmp_path / "run.toml")], groups)
    assert found == ["m.onnx", *typed, "--data=x", f"--config={tmp_path / 'run.toml'}"]


def test_what_follows_two_dashes_is_left_at_the_end(tmp_path) -> None:
    assert configured(["--set", "refit.rounds=2", "--", "--set"], KNOWN) == ["--rounds", "2", "--", "--set"]


def test_several_meanings_of_outputs_are_read_again_and_replaced(capsys, tmp_path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[run]\noutput_kind = ["a=classes", "b=values"]\n')
    for arguments, kinds in (([], "a"), (["--output", "c=values"], "c")):
        # The file does not exist: what is typed was read before that is said.
        assert cli.main([str(tmp_path / "no.onnx"), "--config", str(path), *arguments]) == 3, kinds
        assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_can_be_repeated_from_the_options_that_it_wrote(capsys, tiny, tmp_path) -> None:
    given = ["--data", "synthetic", "--samples", "60", "--macs", "0.7", "--no-bench", "--no-cache", "--rounds", "0"]
    reports = []
    for name, arguments in (("a", [*given, "--config-out", "run.toml"]), ("b", ["--config", "run.toml"])):
        arguments = [str(tmp_path / one) if one == "run.toml" else one for one in arguments]
        record = tmp_path / f"{name}.json"
        assert cli.main([str(tiny), "-o", str(tmp_path / f"{name}.onnx"), *arguments, "--json", str(record)]) == 0
        reports.append(json.loads(record.read_text()))
    assert reports[0]["options"] == reports[1]["options"]
    assert reports[0]["options"]["refit"]["rounds"] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_file_that_was_read_is_not_written_over(capsys, tiny, tmp_path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[budget]\nmacs = "50%"\n')
    assert cli.main([str(tiny), "-o", str(tmp_path / "a.onnx"), "--config", str(path), "--config-out", str(path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert path.read_text() == '[budget]\nmacs = "50%"\n'


def test_every_group_is_a_record_of_the_options_and_of_the_package() -> None:
    groups = Options(recover=RecoverOptions()).groups()
    for name, kind in GROUPS.items():
        if name not in ("cache", "budget"):  # of the command line alone; what it means
            assert type(groups[name]) is kind
            assert getattr(onnxprune, kind.__name__) is kind


def test_the_effort_changes_only_what_is_at_its_default() -> None:
    quick, best = (Options(effort=effort, recipe="3c") for effort in ("quick", "best"))
    assert quick.at_effort(torch=True).refit == RefitOptions(refit="linear", rounds=0)
    assert best.at_effort(torch=True).recover is None  # a search for the largest speed-up trains nothing
    assert best.at_effort(torch=False).refit.rounds > RefitOptions().rounds
    assert best.least_points > quick.least_points
    chosen = Options(effort="quick", refit=RefitOptions(refit="ridge", rounds=3))
    assert chosen.at_effort(torch=True).refit == chosen.refit
    assert Options().at_effort(torch=True) == Options()
    assert math.isinf(quick.refit.strengths[0])
