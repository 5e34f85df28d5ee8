"""The wheel holds the package, its licence and its command, and nothing else."""

from __future__ import annotations

import email
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import onnxprune.__main__ as door
from onnxprune import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "onnxprune"
# What a checkout may hold beside the sources: leftovers of another build would end up in the wheel.
BESIDE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "venv", "shared", "models")

pytestmark = pytest.mark.long


def missing() -> str:
    """What the build needs and this environment lacks; empty if nothing."""
    absent = [name for name in ("pip", "setuptools") if find_spec(name) is None]
    if absent:
        return " and ".join(absent)
    version = importlib.metadata.version("setuptools")
    makes_wheels = tuple(map(int, version.split(".")[:2])) >= (70, 1)
    return "" if makes_wheels or find_spec("wheel") else f"wheel, beside setuptools {version}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, bytes]:
    """Content of the wheel's files by name."""
    lacking = missing()
    if lacking:
        pytest.skip(f"NO WHEEL: {lacking} is not installed, so what a user would install is not tested")
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=BESIDE)
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--wheel-dir", str(folder / "built"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "built").iterdir()
    assert built.name == f"onnxprune-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def described(wheel: dict[str, bytes], name: str) -> str:
    """A text of the folder that describes the wheel."""
    return wheel[f"onnxprune-{__version__}.dist-info/{name}"].decode()


def test_every_source_file_and_the_marker_of_types_are_in_the_wheel_and_nothing_else(wheel):
    sources = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in PACKAGE.rglob("*.py")}
    sources["onnxprune/py.typed"] = (PACKAGE / "py.typed").read_bytes()
    assert {name: text for name, text in wheel.items() if ".dist-info/" not in name} == sources


def test_the_licence_is_in_the_wheel_and_named(wheel):
    texts = [text for name, text in wheel.items() if name.endswith("/LICENSE")]
    assert texts == [(ROOT / "LICENSE").read_bytes()]
    metadata = email.message_from_string(described(wheel, "METADATA"))
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])


def test_the_command_of_the_wheel_is_the_command_line(wheel):
    points = ConfigParser()
    points.read_string(described(wheel, "entry_points.txt"))
    ((name, value),) = points["console_scripts"].items()
    assert name == "onnxprune"
    assert importlib.metadata.EntryPoint(name, value, "console_scripts").load() is door.main


def test_names_and_modules_are_there_when_they_are_first_used():
    code = (
        "import onnxprune\n"
        "assert onnxprune.note.RunWarning and onnxprune.errors.UsageError and onnxprune.options.run.Options\n"
        "assert all(getattr(onnxprune, name) is not None for name in onnxprune.__all__)\n"
        "assert not hasattr(onnxprune, 'nothing_of_this_name')\n"
        "assert set(onnxprune.__all__) <= set(dir(onnxprune))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
