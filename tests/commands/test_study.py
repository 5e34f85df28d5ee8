"""The study of single layers: every method, sizes that cost what they say, and what the command writes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from onnxprune import Options, cli
from onnxprune.commands.study import METHODS, run_study
from onnxprune.errors import UsageError

QUICK = Options(bench=False, samples=200)


@pytest.fixture(scope="module")
def study(narrow):
    return run_study(narrow, None, ["stage2.block1.conv2", "fc"], QUICK, (1.5, 3.0))


def test_every_method_that_a_layer_allows_is_there(study) -> None:
    conv = {point.method for point in study.points if point.site == "stage2.block1.conv2"}
    assert conv == set(METHODS)
    dense = {point.method for point in study.points if point.site == "fc"}
    assert dense
    assert not any("spatial" in method or "activation" in method for method in dense)


def test_layers_are_at_least_as_fast_as_asked_for(study) -> None:
    for point in study.points:
        assert point.speedup >= point.asked >= 1.5
        assert point.divergence[0].relative_error > 0


def test_faster_is_never_better(study) -> None:
    for site, method in {(point.site, point.method) for point in study.points}:
        line = [p for p in study.points if (p.site, p.method) == (site, method)]
        errors = [p.error for p in sorted(line, key=lambda p: p.speedup)]
        assert errors == sorted(errors)


def test_what_is_fitted_is_never_worse_than_what_is_not(study) -> None:
    found = {(p.site, p.method, round(p.speedup, 3)): p.error for p in study.points}
    for (site, method, speedup), error in found.items():
        plain = found.get((site, f"{method}, plain SVD, not fitted", speedup))
        assert plain is None or error <= plain


def test_errors_of_all_methods_are_measured_in_the_same_places(study) -> None:
    found = {(p.site, p.method, p.size): p for p in study.points}
    assert all((p.behind is None) == (p.site == "fc") for p in study.points)
    pairs = 0
    for (site, method, size), point in found.items():
        aware = found.get((site, f"{method}, behind the activation", size))
        if aware is not None:
            pairs += 1
            assert aware.behind <= point.behind * (1 + 1e-4)
    assert pairs


def test_the_command_writes_json_and_a_plot(capsys, narrow, tmp_path) -> None:
    out, plot = tmp_path / "study.json", tmp_path / "study.svg"
    arguments = ["study", str(narrow), "--site", "stage3.block1.conv1", "--speedups", "2", "4", "--samples", "100"]
    assert cli.main([*arguments, "--json", str(out), "--plot", str(plot)]) == 0
    content = json.loads(out.read_text())
    assert content["schema"] == 1
    assert {"site", "method", "asked", "size", "speedup", "error", "behind", "divergence"} == set(content["points"][0])
    assert plot.read_text().lstrip().startswith("<?xml")
    assert "stage3.block1.conv1" in capsys.readouterr().out


def test_bad_input_is_one_line(narrow, tmp_path, capsys) -> None:
    with pytest.raises(UsageError, match="--site 'nobody' matches no layer"):
        run_study(narrow, None, ["nobody"], QUICK)
    with pytest.raises(UsageError, match="--speedups must all be above 1"):
        run_study(narrow, None, ["fc"], replace(QUICK), (1.0,))
    assert cli.main(["study", str(narrow), "--site", "fc", "--plot", str(tmp_path / "plot.bmp")]) == 2
    assert "ends in .png or .svg" in capsys.readouterr().err
