"""Every command and every Python snippet of the README and of docs/ runs, every link resolves, and the site is built.

The text that runs is the text of the pages, in a folder with the files that they name; a command that stands on several
pages runs once. What takes minutes is made short underneath: a sweep has two points, a search ends early, a training
takes a step an epoch, a study has three methods, and the times of layers and networks are numbers of our own.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.families import FAMILIES
from onnx import helper, numpy_helper
from PIL import Image

import onnxprune
from onnxprune import Options, Report, cli
from onnxprune.commands import study, sweep
from onnxprune.engine.timing import Latency, Timing
from onnxprune.options.solve import RefitOptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
LINKED = (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md")
PROGRAMS = ("onnxprune", "pip", "python", "sh", "trtexec")
ELSEWHERE = {
    "sh tools/demo.sh": "sets up a virtual environment from the package index",
    "python benchmarks/shape_folding.py": "needs onnxscript, and networks that are not in the repository",
    "python tools/rooms.py": "draws the picture that tests/test_layers.py compares",
    "sh tools/test.sh": "sets up a virtual environment from the package index, and runs all tests",
    "pip install '.[cpu]'": "changes the environment that the tests run in",
    "pip install '.[cpu,recover]'": "changes the environment that the tests run in",
    "pip install '.[plot]'": "changes the environment that the tests run in",
    "pip install '.[gpu]'": "changes the environment that the tests run in",
    "onnxprune model.onnx -o faster.onnx --data photos/ --preset imagenet --provider tensorrt --speedup 1.5": "needs a "
    "GPU with TensorRT",
    "trtexec --onnx=channels-16.onnx --fp16": "needs TensorRT",
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
            if fence == "yaml":
                for place, text in enumerate(held, start):
                    step = re.match(r"\s*- run: (.+)", text)
                    if step:
                        yield Piece(page, place, "command", step[1])
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
    options = Options(bench=False, samples=200, refit=RefitOptions(refit="linear"))
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


@pytest.fixture(scope="module")
def places(trained, tmp_path_factory) -> Path:
    """What the pages speak of: networks, photos/ with a folder in it, labels, inputs in files, and a measure."""
    place = tmp_path_factory.mktemp("pages")
    onnx.save(trained, place / "model.onnx")
    with np.load(ROOT / "models" / "digits_vgg.calib.npz") as file:
        np.savez(place / "calibration.npz", images=as_imagenet(file["images"][:_PHOTOS]))
    with np.load(ROOT / "models" / "digits_vgg.test.npz") as file:
        images, labels = file["images"], file["labels"]
    np.savez(place / "test.npz", images=as_imagenet(images[_PHOTOS:]), labels=labels[_PHOTOS:])
    (place / "photos" / "more").mkdir(parents=True)
    (place / "frames").mkdir()
    for index, image in enumerate(images[:_PHOTOS]):
        photo = Image.fromarray(image[..., 0]).convert("RGB").resize((18, 18), Image.Resampling.BILINEAR)
        photo.save(place / "photos" / ("more" if index >= _PHOTOS // 2 else "") / f"{index:03}.png")
        photo.resize((24, 18)).save(place / "frames" / f"{index:03}.png")
    (place / "labels.txt").write_text("\n".join(map(str, labels[:_PHOTOS])))
    detector = FAMILIES["yolo"]()
    last = next(node for node in detector.graph.node if detector.graph.output[0].name in node.output)
    last.output[0] = detector.graph.output[0].name = "output0"
    onnx.save(detector, place / "detector.onnx")
    options = Options(bench=False, refit=RefitOptions(refit="linear"))
    data = place / "calibration.npz"
    onnxprune.prune(place / "model.onnx", data=data, keep_ratio=0.95, options=options).save(place / "pruned.onnx")
    for piece in pieces("docs/tasks/own-metric.md"):
        if piece.text.startswith("# measure.py\n"):
            (place / "measure.py").write_text(piece.text)
    return place


@pytest.fixture
def folder(places, monkeypatch) -> Iterator[Path]:
    """The folder of the pages, as the one to work in and as home; what one page has made is there for the next."""
    monkeypatch.chdir(places)
    monkeypatch.syspath_prepend(places)
    monkeypatch.setenv("HOME", str(places))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "cache"))
    yield places
    sys.modules.pop("measure", None)


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that have run."""
    return set()


def timed(*_: object, **__: object) -> Timing:
    """A result that is half as fast again."""
    return Timing(Latency(3, 3.1, 9, 3), Latency(2, 2.1, 9, 2), 1.5, 1.45, 1.55, "CPU", 1, 1, 3)


@pytest.fixture(autouse=True)
def short(monkeypatch, machine) -> None:
    """Shorten what would take minutes, and fix what depends on the machine's load."""
    monkeypatch.setattr(sweep.run_pareto, "__defaults__", ((1.5, 2.0),))
    monkeypatch.setattr(sweep, "_CLOSE", 2.0)
    monkeypatch.setattr(sweep, "_FIRST", 1.1)
    monkeypatch.setattr(sweep, "_MOST", 1.2)
    monkeypatch.setattr(sweep, "_DROP", 20.0)
    monkeypatch.setattr(study, "METHODS", {name: study.METHODS[name] for name in ("prune obs", "spatial", "channel")})
    for name, value in (("_STEPS", 2), ("_LEAST_STEPS", 1), ("_LEAST_EPOCHS", 1)):
        monkeypatch.setattr(f"onnxprune.recovery.distil.{name}", value)
    monkeypatch.setattr("onnxprune.commands.prune.interleaved", timed)
    machine(overhead=0.0)


def your_training(module) -> None:
    """What the pages leave to the reader."""
    for weight in module.parameters():
        weight.data.mul_(0.999)


def carried_out(piece: Piece, capsys, names: dict[str, object], done: set[str]) -> None:
    """Run a piece; a snippet that begins with the name of a file is that file. `names`: of the page's snippets."""
    where = f"{piece.page}:{piece.line}"
    if piece.kind == "command" and piece.text not in ELSEWHERE and piece.text not in done:
        done.add(piece.text)
        words = shlex.split(piece.text)
        assert words[0] == "onnxprune", f"{where}: {piece.text} is neither run nor listed in ELSEWHERE"
        try:
            code = cli.main(words[1:])
        except SystemExit as ended:
            code = ended.code
        assert not code, f"{where}: {piece.text}: exit code {code}: {capsys.readouterr().err}"
    elif piece.kind == "python" and not piece.text.startswith("# measure.py\n"):
        exec(compile(piece.text, where, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(piece.kind in ("command", "python") for piece in pieces(page))]
)
def test_all_that_a_page_says_can_be_typed(page, folder, capsys, done):
    pytest.importorskip("torch")
    names: dict[str, object] = {"your_training": your_training}
    for piece in pieces(page):
        carried_out(piece, capsys, names, done)


def anchors(path: Path) -> set[str]:
    """What a link may name in a page: its headings, in lower case, with hyphens."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", LINKED)
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), f"{page}: {target}: there is no such file"
        assert path.is_relative_to(ROOT), f"{page}: {target}: lies outside of the repository"
        assert not anchor or anchor in anchors(path), f"{page}: {target}: {file or page} has no such heading"


def test_the_site_can_be_built(tmp_path):
    for package in ("mkdocs", "mkdocstrings_handlers"):
        if find_spec(package) is None:
            pytest.skip(f"NO {package.upper()}: the site is not built; pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not built.returncode, built.stdout + built.stderr
    options = (tmp_path / "reference" / "options" / "index.html").read_text()
    assert "--max-drop" in options
    assert "&lt;!-- reference" not in options


def test_the_json_page_names_every_field_of_a_report():
    page = (ROOT / "docs" / "reference" / "json.md").read_text()
    missing = [field.name for field in fields(Report) if f"`{field.name}`" not in page]
    assert not missing, f"docs/reference/json.md does not describe {', '.join(missing)}"
