"""What tests of whole runs share: quick options, and the accuracy of a network on the digits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune import Options
from onnxprune.cache import Cache, scratch_parent, sealed, unsealed
from onnxprune.commands.compare import CompareOptions
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
PLANNED = Options(bench=False, samples=300, refit=RefitOptions(refit="linear"))
QUICK = replace(PLANNED, recipe="prune", align=16, budget=BudgetOptions(macs="2x").budget())

SMALL = Options(
    bench=False,
    recipe="prune",
    align=4,
    points=20,
    refit=RefitOptions(refit="linear"),
    budget=BudgetOptions(macs="2x").budget(),
)
"""Of networks of a few narrow layers."""


def accuracy(model: onnx.ModelProto, path) -> float:
    found = onnxprune.compare(path, model, options=CompareOptions(bench=False))
    assert found.accuracy is not None
    return found.accuracy[1]


def stored(folder: Path) -> list[str]:
    """Names of all values that a cache folder holds."""
    with sqlite3.connect(scratch_parent(folder) / "store" / "cache.db") as store:
        return [str(name).rpartition("/")[2] for (name,) in store.execute("SELECT key FROM Cache")]


def damage_store(folder: Path, damaged: Callable[[bytes], bytes]) -> int:
    """Change every value that a cache folder holds, and seal it again; return how many there are."""
    store = Cache(folder, dict)._store
    with sqlite3.connect(scratch_parent(folder) / "store" / "cache.db") as rows:
        keys = [str(name) for (name,) in rows.execute("SELECT key FROM Cache")]
    for key in keys:
        content = unsealed(key, store.get(key))
        assert content is not None
        store.set(key, sealed(key, damaged(content)))
    return len(keys)


def zoo_folder() -> Path:
    """The folder of real models beside the repository; skips the test where there is none."""
    if not (ZOO / "models").is_dir():
        pytest.skip(f"NO ZOO: {ZOO} is absent, so nothing is tested on real models beyond the shipped ones")
    return ZOO
