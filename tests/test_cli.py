"""The command line: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import PackageNotFoundError

import numpy as np
import onnx
import pytest

from onnxprune import cli
from onnxprune.commands import doctor
from onnxprune.console.ending import EXIT_CODES
from onnxprune.console.flags import GROUPS, filled
from onnxprune.errors import EngineError, OnnxPruneError

QUICK = ["--samples", "120", "--no-bench", "--no-cache", "--refit", "linear"]
HALF = [*QUICK, "--macs", "2x", "--recipe", "prune"]


@pytest.fixture
def model(vgg, tmp_path):
    """A shipped model with its data, in a folder of its own."""
    for name in ("digits_vgg.onnx", "digits_vgg.calib.npz", "digits_vgg.test.npz"):
        shutil.copy(vgg.parent / name, tmp_path / name)
    return tmp_path / "digits_vgg.onnx"


def told(err: str) -> list[str]:
    """Lines of stderr without those of progress."""
    return [line for line in err.strip().splitlines() if not line.startswith("[")]


def ended(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_writes_the_model_the_json_and_the_plan(capsys, model, tmp_path):
    out, record, plan = (tmp_path / name for name in ("pruned.onnx", "report.json", "plan.json"))
    code, text, _ = ended(capsys, model, "-o", out, "--json", record, "--plan-out", plan, *HALF)
    assert code == 0
    onnx.checker.check_model(onnx.load(out), full_check=True)
    content = json.loads(record.read_text())
    assert content["schema"] == 2
    assert content["output"] == str(out)
    assert content["macs"]["after"] <= content["macs"]["before"] / 2
    assert content["plan"] == json.loads(plan.read_text())
    for word in ("MACs", "parameters", "written to", *(row["name"] for row in content["layers"])):
        assert word in text


@pytest.mark.slow
def test_json_of_a_run_holds_only_plain_numbers(capsys, model, tmp_path):
    record = tmp_path / "report.json"
    quick = [argument for argument in HALF if argument != "--no-bench"]
    assert ended(capsys, model, "-o", tmp_path / "p.onnx", "--json", record, *quick)[0] == 0
    content = json.loads(record.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["timing"]["ratio"] > 0


@pytest.mark.slow
def test_a_plan_file_replays(capsys, model, tmp_path):
    first, second, plan = (tmp_path / name for name in ("a.onnx", "b.onnx", "plan.json"))
    assert ended(capsys, model, "-o", first, "--plan-out", plan, *HALF)[0] == 0
    assert ended(capsys, model, "-o", second, "--plan", plan, *QUICK)[0] == 0
    assert first.read_bytes() == second.read_bytes()


def test_a_dry_run_shows_the_plan_and_writes_no_model(capsys, model, tmp_path):
    plan = tmp_path / "plan.json"
    code, text, _ = ended(capsys, model, "--dry-run", "--plan-out", plan, *HALF)
    assert code == 0
    assert "plan for" in text
    assert plan.is_file()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_plan_is_explained_on_demand_and_always_in_the_json(capsys, model, tmp_path):
    record = tmp_path / "plan.json"
    code, text, _ = ended(capsys, model, "--dry-run", "--explain", "--json", record, "--macs", "2x", *QUICK)
    assert code == 0
    assert "worse by" in text
    found = json.loads(record.read_text(), parse_constant=lambda name: pytest.fail(name))["explanation"]
    assert found["unit"] == "macs"
    assert found["price"] > 0
    assert {row["chosen"]["what"].split()[0] for row in found["reasons"]} & {"V,", "H,", "P", "one", "all"}
    assert "worse by" not in ended(capsys, model, "--dry-run", *HALF)[1]


@pytest.mark.slow
def test_quiet_prints_nothing(capsys, model, tmp_path):
    assert ended(capsys, model, "-o", tmp_path / "p.onnx", "-q", *HALF) == (0, "", "")


@pytest.mark.slow
def test_a_folder_of_images_and_an_array_are_data(capsys, model, tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    with np.load(tmp_path / "digits_vgg.calib.npz") as archive:
        pixels = archive["images"][:30]
    for index, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(images / f"{index}.png")
    np.save(tmp_path / "pixels.npy", pixels)
    for data in (images, tmp_path / "pixels.npy"):
        code, _, err = ended(capsys, model, "-o", tmp_path / "p.onnx", "--data", data, *HALF)
        assert (code, [line for line in told(err) if "FEW INPUTS" not in line]) == (0, [])


_PLANNED = ("MODEL", "-o", "DIR/p.onnx", "--plan", "DIR/plan.json")


def bad(message: str, code: int, *arguments):
    return pytest.param(arguments, code, message, id=message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        bad("nowhere.onnx: no such file", 3, "DIR/nowhere.onnx", "-o", "DIR/p.onnx"),
        bad("is an input of this command and would be overwritten", 2, "MODEL", "-o", "MODEL"),
        bad("would be overwritten; choose another output path", 2, "compare", "MODEL", "MODEL", "--json", "MODEL"),
        bad("no does not exist: create it", 9, "MODEL", "-o", "DIR/no/p.onnx"),
        bad("--speedup", 2, "MODEL", "-o", "DIR/p.onnx", "--speedup", "0.5"),
        bad("--speedup and --macs", 2, "MODEL", "-o", "DIR/p.onnx", "--speedup", "2", "--macs", "50%"),
        bad("out of reach", 5, "MODEL", "-o", "DIR/p.onnx", "--macs", "1000000x", "--recipe", "prune"),
        bad("nowhere", 4, "MODEL", "-o", "DIR/p.onnx", "--data", "DIR/nowhere"),
        bad("empty", 4, "MODEL", "-o", "DIR/p.onnx", "--data", "DIR/empty"),
        bad("--memory", 2, "MODEL", "-o", "DIR/p.onnx", "--memory", "lots"),
        bad("--exclude", 2, "MODEL", "-o", "DIR/p.onnx", "--exclude", "nothing*"),
        bad("plan.json", 5, "MODEL", "-o", "DIR/p.onnx", "--plan", "DIR/plan.json"),
        bad("--provider cuda", 7, "MODEL", "-o", "DIR/p.onnx", "--provider", "cuda"),
        bad("--max-drop", 6, "MODEL", "-o", "DIR/p.onnx", "--keep-ratio", "0.2", "--refit", "none", "--max-drop", "0"),
        bad("leave --macs out", 2, "MODEL", "-o", "DIR/p.onnx", "--plan", "DIR/plan.json", "--macs", "2x"),
        bad("leave --recipe, --no-sensitivity out", 2, *_PLANNED, "--recipe", "3c", "--no-sensitivity"),
        bad("leave --no-drop-branches out", 2, *_PLANNED, "--no-drop-branches"),
        bad("--ridge must be 0 or more", 2, "MODEL", "-o", "DIR/p.onnx", "--refit", "ridge", "--ridge", "-1"),
        bad("--rank-tol must be", 2, "MODEL", "-o", "DIR/p.onnx", "--selector", "lasso", "--rank-tol", "nan"),
        bad("can be made 1e+06 times cheaper", 2, "study", "MODEL", "--site", "stage1.conv2", "--speedups", "1000000"),
        bad("--no-such-option", 2, "MODEL", "-o", "DIR/p.onnx", "--no-such-option"),
        bad("--selector", 2, "MODEL", "-o", "DIR/p.onnx", "--selector", "best"),
    ],
)
def test_a_users_mistake_is_one_line_and_its_own_exit_code(capsys, model, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    given = [a.replace("MODEL", str(model)).replace("DIR", str(tmp_path)) for a in arguments]
    before = sorted(tmp_path.iterdir())
    found, out, err = ended(capsys, *given, *(QUICK[:4] if "-o" in given else []))
    assert (found, out) == (code, "")
    assert message.split(":")[0] in err
    assert len([line for line in told(err) if not line.startswith("onnxprune: warning: ")]) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_ctrl_c_leaves_no_file_and_says_so(capsys, model, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.commands.sweep.run_any", interrupted)
    code, _, err = ended(capsys, model, "-o", tmp_path / "p.onnx", *HALF)
    assert code == 130
    assert "interrupted" in err
    assert not list(tmp_path.glob("p.onnx*"))


def test_comparing_a_model_with_itself_finds_nothing(capsys, model, tmp_path):
    record = tmp_path / "c.json"
    code, text, _ = ended(capsys, "compare", model, model, "--max-drop", "0", "--json", record, "--no-bench")
    assert code == 0
    assert "100.00%" in text
    content = json.loads(record.read_text())
    assert content["within"] is True
    assert content["divergence"][0]["relative_error"] == 0


def test_comparing_with_a_worse_model_exits_with_8_after_saying_by_how_much(capsys, model, tmp_path):
    worse = onnx.load(model)
    for tensor in worse.graph.initializer:
        if len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, axis=0), tensor.name))
    onnx.save(worse, tmp_path / "worse.onnx")
    code, text, err = ended(capsys, "compare", model, tmp_path / "worse.onnx", "--max-drop", "1", "--no-bench")
    assert code == 8
    assert "top-1 accuracy" in text
    assert "--max-drop allows 1" in err


def test_labels_from_a_file_count(capsys, model, tmp_path):
    with np.load(tmp_path / "digits_vgg.test.npz") as archive:
        np.save(tmp_path / "x.npy", archive["images"])
        (tmp_path / "labels.txt").write_text("\n".join(map(str, archive["labels"])))
    given = ["--data", tmp_path / "x.npy", "--labels", tmp_path / "labels.txt", "--no-bench"]
    assert "top-1 accuracy  " in ended(capsys, "compare", model, model, *given)[1]


def test_a_model_with_a_fixed_batch_is_compared_at_that_batch(capsys, model, tmp_path):
    other = onnx.load(model)
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(other, tmp_path / "fixed.onnx")
    assert ended(capsys, "compare", model, tmp_path / "fixed.onnx", "--no-bench", "--max-drop", "0")[0] == 0


def test_models_that_do_not_take_the_same_inputs_are_refused(capsys, model, tmp_path):
    other = onnx.load(model)
    other.graph.input[0].name = other.graph.node[0].input[0] = "pixels"
    onnx.save(other, tmp_path / "other.onnx")
    code, _, err = ended(capsys, "compare", model, tmp_path / "other.onnx", "--no-bench")
    assert code == 3
    assert "pixels" in err


def test_every_error_class_has_an_exit_code_of_its_own():
    kinds = OnnxPruneError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    for kind in kinds:
        assert re.search(rf"\b{kind.exit_code}\b", EXIT_CODES)


def test_the_program_runs_as_a_module_and_says_its_version():
    found = subprocess.run([sys.executable, "-m", "onnxprune", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.strip()


def test_inspect_lists_layers_reasons_and_what_is_within_reach(capsys, model, tmp_path):
    record = tmp_path / "inspected.json"
    code, text, _ = ended(capsys, "inspect", model, "--json", record)
    assert code == 0
    content = json.loads(record.read_text())
    assert content["schema"] == 1
    last = content["layers"][-1]
    assert last["reason"] == "graph output 'logits'"
    assert last["inputs_prunable"]
    assert all(layer["reason"] == "" for layer in content["layers"][:-1])
    for word in (last["name"], last["reason"], "groups of channels may lose some", f"{content['halved']:.2f}x"):
        assert word in text


def test_inspect_refuses_a_size_that_is_none(capsys, model):
    code, _, err = ended(capsys, "inspect", model, "--size", 0)
    assert code == 2
    assert "--size must be 1 or more, found 0" in err


def test_bfloat16_is_declined_in_one_line(capsys, model, tmp_path):
    wide = onnx.load(model)
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    for tensor in wide.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            made = onnx.helper.make_tensor(tensor.name, onnx.TensorProto.BFLOAT16, values.shape, values.ravel())
            tensor.CopyFrom(made)
    del wide.graph.value_info[:]
    onnx.save(wide, tmp_path / "wide.onnx")
    code, out, err = ended(capsys, tmp_path / "wide.onnx", "-o", tmp_path / "out.onnx", *HALF)
    assert code == 3
    assert "bfloat16" in err
    assert "float16" in err
    assert out + err == err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--mean 0.485,0.456,0.406", "--mean 0.485 0.456 0.406"),
        ("--std=1,2,3 -o x.onnx", "--std 1 2 3 -o x.onnx"),
        ("--resize 224x160 --crop 224", "--resize 224 160 --crop 224"),
        ("--scale 1/4", "--scale 0.25"),
        ("--mean -1,.5,2 model.onnx", "--mean -1 .5 2 model.onnx"),
        ("--mean 1/0", "--mean 1/0"),
        ("--samples 3 4x.onnx", "--samples 3 4x.onnx"),
    ],
)
def test_numbers_may_be_one_word_and_fractions(typed, read):
    assert filled(typed.split()) == read.split()


def test_without_a_name_the_result_lies_beside_the_model(capsys, model, tmp_path):
    assert ended(capsys, model, *HALF)[0] == 0
    assert model.with_name(f"{model.stem}-pruned.onnx").is_file()


def test_a_cache_folder_that_cannot_be_written_is_no_end(capsys, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    given = [argument for argument in HALF if argument != "--no-cache"]
    code, _, err = ended(capsys, model, "-o", tmp_path / "p.onnx", *given)
    assert code == 0
    assert "warning: caching is off, so a stopped run cannot continue: " in err
    assert ended(capsys, model, "-o", tmp_path / "p.onnx", "--cache-dir", tmp_path / "file", *given)[0] == 2


def options_in(help_text: str) -> set[str]:
    """Options that a help text lists, by the first name of each line."""
    return set(re.findall(r"^│ [* ]*(?:MODEL )?(--[a-z-]+)", help_text, re.M)) - {"--help", "--version", "--model"}


def test_the_help_lists_thirty_options_and_help_all_every_one(capsys):
    short, everything = (options_in(ended(capsys, option)[1]) for option in ("--help", "--help-all"))
    assert len(short) <= 30
    assert short < everything
    names = [field.name for kind in GROUPS.values() for field in fields(kind)]
    assert {f"--{name.replace('_', '-')}" for name in names} - {"--epochs", "--seconds"} <= everything
    assert options_in(ended(capsys, "--help")[1]) == short


def test_the_doctor_says_what_there_is_and_what_is_missing_for_what(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = doctor.version

    def without_torch(name):
        if name == "torch":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", without_torch)
    code, out, err = ended(capsys, "doctor", "--json", tmp_path / "d.json")
    assert (code, err) == (0, "")
    assert "CPU" in out
    assert re.search(r"torch +not installed; for --recover", out)
    assert json.loads((tmp_path / "d.json").read_text())["auto"][-1] == "CPUExecutionProvider"


def test_the_doctor_ends_with_the_code_of_the_engine_where_there_is_none(capsys, monkeypatch):
    def none():
        raise EngineError("onnxruntime cannot be imported")

    monkeypatch.setattr(doctor, "onnxruntime", none)
    code, out, err = ended(capsys, "doctor")
    assert (code, "has none to take" in out) == (EngineError.exit_code, True)
    assert err == "onnxprune: error: onnxruntime cannot be imported\n"


def test_the_completion_is_written_for_the_shell_in_use(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["--install-completion", "--shell", "bash"]) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("--max-drop" in path.read_text() for path in written)
