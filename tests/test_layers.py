"""The rooms of the package import downward only: no circle, and nothing depends on what stands above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent
FLOORS = (  # the lowest first; a room may import from the floors below its own, not from its neighbours
    ("errors",),
    ("_version", "files", "note", "progress"),
    ("options",),
    ("data", "solve"),
    ("graph.model",),
    ("graph.channels",),
    ("graph.edit",),
    ("engine",),
    ("torchnet",),
    ("planning",),
    ("cache",),
    ("steps",),
    ("recovery",),
    ("commands",),
    ("report",),
    ("console",),
    ("api", "cli"),
    ("__init__", "__main__"),
)
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
    "rich": {"report", "console", "cli"},
    "sklearn": {"solve"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "graph" and len(parts) > 1 else parts[0]


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of the package that a file imports, for types only too, and the other packages that it imports."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            name, _, rest = node.module.partition(".")
            if name != "onnxprune":
                others.add(name)
                continue
            for alias in node.names:
                full = f"{rest}.{alias.name}".lstrip(".")
                own.add(full if full in MODULES else rest or "__init__")
    return own, others - {"onnxprune"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_floors_only(module):
    own, _ = imports(MODULES[module])
    here = room(module)
    wrong = [other for other in own if room(other) != here and LEVEL[room(other)] >= LEVEL[here]]
    assert not wrong, f"{module} ({here}) imports {wrong}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports(path)[0] - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_it_belongs(library):
    users = {room(module) for module, path in MODULES.items() if library in imports(path)[1]}
    assert users <= LIBRARIES[library]


def test_only_the_doors_know_the_reports():
    users = {room(module) for module, path in MODULES.items() for other in imports(path)[0] if room(other) == "report"}
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
