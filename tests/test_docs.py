"""Every command and every Python snippet of the README and of docs/usage.md runs, in a folder with the files they name.

The text that runs is the text of the pages. What takes minutes is made short underneath: a sweep has two points, a
search ends early, a training takes a step an epoch, a study has three methods, and the times of layers and networks are
numbers of our own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import onnxprune
from onnxprune import Options, cli, study, sweep
from onnxprune.runtime.timing import Latency, Timing

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/usage.md")
PROGRAMS = ("onnxprune", "pip", "python", "sh", "trtexec")
ELSEWHERE = {
    "sh tools/demo.sh": "sets up a virtual environment from the package index",
    "sh tools/test.sh": "sets up a virtual environment from the package index, and runs all tests",
    "pip install '.[cpu]'": "changes the environment that the tests run in",
    "pip install '.[cpu,recover]'": "changes the environment that the tests run in",
    "pip install '.[plot]'": "changes the environment that the tests run in",
    "python benchmarks/shipped_models.py": "a benchmark of minutes",
}
"""Commands that cannot run here, and why."""
_PHOTOS = 60
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@dataclass(frozen=True)
class Piece:
    """Something to run: a command, or the lines of a Python snippet."""

    page: str
    line: int
    kind: str
    text: str


def pieces(page: str) -> Iterator[Piece]:
    """Indented commands, fenced snippets, and commands within a line, in the order of the page."""
    fence, held = None, []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        opened = re.match(r"```(\w*)$", line)
        if opened and fence is None:
            fence, held, start = opened[1], [], number + 1
        elif opened:
            yield Piece(page, start, fence, "\n".join(held) + "\n")
            fence = None
        elif fence is not None:
            held.append(line)
        elif re.match(r" {4}\S", line):
            yield Piece(page, number, "command", line.strip())
        else:
            # `onnxprune inspect` in a sentence is a name.
            for text in re.findall(rf"`(?!onnxprune \w+`)((?:{'|'.join(PROGRAMS)}) [^`]+)`", line):
                yield Piece(page, number, "command", text)


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    """The shipped net of digits, at half of its width, as an ImageNet model would be: RGB in, ImageNet's normalisation,
    VGG's names."""
    options = Options(bench=False, samples=200)
    model = onnxprune.prune(ROOT / "models" / "digits_vgg.onnx", keep_ratio=0.5, options=options).model
    assert model is not None
    with np.load(ROOT / "models" / "digits_vgg.calib.npz") as file:
        mean, std = file["mean"], file["std"]
    for node in model.graph.node:
        node.name = re.sub(r"^stage(\d)\.(\w+?)(\d)$", r"\2\1_\3", re.sub("^fc", "head.fc", node.name))
    weight = (IMAGENET[1] / std / 3).astype(np.float32).reshape(1, 3, 1, 1)
    bias = ((IMAGENET[0].mean() - mean) / std).astype(np.float32)
    gray = helper.make_node("Conv", ["input", "gray.weight", "gray.bias"], ["gray"], "gray")
    model.graph.node[0].input[0] = "gray"
    model.graph.node.insert(0, gray)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weight, "gray.weight"), numpy_helper.from_array(bias, "gray.bias")]
    )
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.checker.check_model(model, full_check=True)
    return model


def as_imagenet(images: np.ndarray) -> np.ndarray:
    """(n, side, side, 1) uint8 pixels as (n, 3, side, side) float32, normalised."""
    values = (images.astype(np.float32) / 255 - IMAGENET[0].astype(np.float32)) / IMAGENET[1].astype(np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    """What the pages speak of: model.onnx, photos/ with a folder in it, labels, and inputs in files."""
    onnx.save(trained, tmp_path / "model.onnx")
    with np.load(ROOT / "models" / "digits_vgg.calib.npz") as file:
        np.savez(tmp_path / "calibration.npz", images=as_imagenet(file["images"][:_PHOTOS]))
    with np.load(ROOT / "models" / "digits_vgg.test.npz") as file:
        images, labels = file["images"], file["labels"]
    np.savez(tmp_path / "test.npz", images=as_imagenet(images[_PHOTOS:]), labels=labels[_PHOTOS:])
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index, image in enumerate(images[:_PHOTOS]):
        place = tmp_path / "photos" / ("more" if index >= _PHOTOS // 2 else "") / f"{index:03}.png"
        Image.fromarray(image[..., 0]).convert("RGB").resize((18, 18), Image.Resampling.BILINEAR).save(place)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, labels[:_PHOTOS])))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def timed(*_: object, **__: object) -> Timing:
    """A result that is half as fast again."""
    return Timing(Latency(3, 3.1, 9, 3), Latency(2, 2.1, 9, 2), 1.5, 1.45, 1.55, "CPU", 1, 1, 3)


@pytest.fixture(autouse=True)
def short(monkeypatch, machine) -> None:
    """Shorten what would take minutes, and fix what depends on the machine's load."""
    monkeypatch.setattr(sweep.run_pareto, "__defaults__", ((1.5, 2.0),))
    monkeypatch.setattr(sweep, "_CLOSE", 2.0)
    monkeypatch.setattr(sweep, "_FIRST", 1.1)
    monkeypatch.setattr(sweep, "_DROP", 20.0)
    monkeypatch.setattr(study, "METHODS", {name: study.METHODS[name] for name in ("prune obs", "spatial", "channel")})
    for name, value in (("_STEPS", 2), ("_LEAST_STEPS", 1), ("_LEAST_EPOCHS", 1)):
        monkeypatch.setattr(f"onnxprune.recovery.distil.{name}", value)
    monkeypatch.setattr("onnxprune.pipeline.interleaved", timed)
    machine(overhead=0.0)


def your_training(module) -> None:
    """What the pages leave to the reader."""
    for weight in module.parameters():
        weight.data.mul_(0.999)


def carried_out(piece: Piece, capsys, names: dict[str, object]) -> None:
    """Run a piece; a snippet that begins with the name of a file is that file. `names`: of the page's snippets."""
    where = f"{piece.page}:{piece.line}"
    if piece.kind == "command" and piece.text not in ELSEWHERE:
        words = shlex.split(piece.text)
        assert words[0] == "onnxprune", f"{where}: {piece.text} is neither run nor listed in ELSEWHERE"
        try:
            code = cli.main(words[1:])
        except SystemExit as ended:
            code = ended.code
        assert not code, f"{where}: {piece.text}: exit code {code}: {capsys.readouterr().err}"
    elif piece.kind == "python":
        named = re.match(r"# (\w+\.py)\n", piece.text)
        if named:
            Path(named[1]).write_text(piece.text)
        else:
            exec(compile(piece.text, where, "exec"), names)


def test_all_that_the_readme_says_can_be_typed(folder, capsys):
    pytest.importorskip("torch")
    usage = list(pieces("docs/usage.md"))
    carried_out(next(piece for piece in usage if piece.text.startswith("# measure.py")), capsys, {})
    names: dict[str, object] = {"your_training": your_training}
    for piece in pieces("README.md"):
        carried_out(piece, capsys, names)
    made = {path.name for path in folder.iterdir()}
    assert made >= {"pruned.onnx", "faster.onnx", "points", "better.onnx", "study.png", "trained.onnx"}


def test_all_that_the_usage_page_says_can_be_typed(folder, capsys, monkeypatch):
    pytest.importorskip("torch")
    onnxprune.prune("model.onnx", data="calibration.npz").save("pruned.onnx")
    monkeypatch.delitem(sys.modules, "measure", raising=False)
    names: dict[str, object] = {"your_training": your_training}
    for piece in pieces("docs/usage.md"):
        carried_out(piece, capsys, names)
    sys.modules.pop("measure", None)
    assert {path.name for path in folder.iterdir()} >= {"good.onnx", "inspected.json", "study.json", "trained.onnx"}
