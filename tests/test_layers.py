"""The rooms of the package import downward only: no circle, and nothing depends on what stands above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from rooms import FLOORS, PICTURE, imports, modules, picture, room

LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
LIBRARIES = {  # third-party packages that only these rooms may import
    "onnxruntime": {"engine"},
    "torch": {"torchnet", "recovery", "api"},  # the interface names its types
    "onnx": {
        "graph.model",
        "graph.channels",
        "graph.edit",
        "engine",
        "torchnet",
        "steps",
        "recovery",
        "commands",
        "api",
    },
    "onnx_graphsurgeon": {"graph.model", "graph.channels", "graph.edit"},
    "rich": {"report", "console", "cli"},
    "sklearn": {"solve"},
}


MODULES = modules()
IMPORTS = {module: imports(path, MODULES) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_floors_only(module):
    own, _ = IMPORTS[module]
    here = room(module)
    wrong = [other for other in own if room(other) != here and LEVEL[room(other)] >= LEVEL[here]]
    assert not wrong, f"{module} ({here}) imports {wrong}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: own - {module} for module, (own, _) in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_it_belongs(library):
    users = {room(module) for module, (_, others) in IMPORTS.items() if library in others}
    assert users <= LIBRARIES[library]


def test_only_the_doors_know_the_reports():
    users = {room(module) for module, (own, _) in IMPORTS.items() if "report" in map(room, own)}
    assert users - {"report"} <= {"cli", "api", "console"}


HEAVY = {"numpy", "onnx", "onnxruntime", "scipy", "sklearn", "torch", "matplotlib", "diskcache"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import onnxprune.cli", HEAVY),
        ("import onnxprune", HEAVY),
        ("import onnxprune.commands.sweep", {"sklearn", "scipy.stats", "scipy.interpolate", "torch", "matplotlib"}),
    ],
)
def test_what_is_not_used_is_not_imported(code, heavy):
    """The help comes at once, and a run waits for no package that it does not need."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not heavy & set(told.stdout.split())


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Functions of a file, and the number of their parameters without ``self`` and ``cls``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield node.name, sum(argument.arg not in ("self", "cls") for argument in given)


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) not in ("api", "cli", "console")])
def test_no_function_takes_more_than_seven_parameters(module):
    long = [(name, count) for name, count in parameters(MODULES[module]) if count > 7]
    assert not long


def test_files_can_be_read_in_one_sitting():
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    assert lengths[-1] < 450
    assert lengths[len(lengths) // 2] < 170


def test_the_picture_of_the_rooms_is_that_of_the_code():
    assert PICTURE.read_text(encoding="utf-8") == picture(), "python tools/rooms.py draws it"
