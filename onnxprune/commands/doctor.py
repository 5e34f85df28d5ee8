"""Check of the installation: versions, providers, cache, and missing packages with their uses."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from onnxprune._version import __version__
from onnxprune.cache import default_cache_dir, scratch_parent
from onnxprune.engine.providers import onnxruntime, resolve
from onnxprune.errors import EngineError, UsageError
from onnxprune.options.engine import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Checkup", "run_doctor"]

SCHEMA = 1
_PACKAGES = {
    "onnx": "",
    "onnx-graphsurgeon": "",
    "numpy": "",
    "scipy": "",
    "diskcache": "",
    "safetensors": "",
    "onnxruntime": "the CPU: pip install 'onnxprune[cpu]'",
    "onnxruntime-gpu": "CUDA and TensorRT: pip install 'onnxprune[gpu]'",
    "torch": "--recover and to_torch: pip install 'onnxprune[recover]'",
    "matplotlib": "plots of study and --pareto: pip install 'onnxprune[plot]'",
}
"""Packages, and the use of each optional one."""


@dataclass(frozen=True)
class Checkup:
    """Result of the check.

    Attributes:
        versions: versions of this package, Python and the installed packages, by name.
        missing: uses of the packages that are not installed, by name.
        providers: execution providers of the installed onnxruntime; empty without onnxruntime.
        auto: execution providers that ``--provider auto`` selects, best first.
        cores: numbers of physical and logical cores.
        memory: memory of the machine in bytes.
        cache: folder of the cache; None if there is no place for one.
        problems: one line for each defect.
    """

    versions: Mapping[str, str]
    missing: Mapping[str, str]
    providers: tuple[str, ...]
    auto: tuple[str, ...]
    cores: tuple[int, int]
    memory: int
    cache: Path | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {"schema": SCHEMA, **asdict(self), "cache": None if self.cache is None else str(self.cache)}


def run_doctor() -> Checkup:
    """Check the installation; the folder of the cache is created if possible."""
    found, missing, problems = {"onnxprune": __version__, "Python": platform.python_version()}, {}, []
    for name, use in _PACKAGES.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing[name] = use
    # Both packages provide the module `onnxruntime`; one of them is enough.
    if "onnxruntime-gpu" in found:
        missing.pop("onnxruntime", None)
    providers: tuple[str, ...] = ()
    auto: tuple[str, ...] = ()
    try:
        providers = tuple(onnxruntime().get_available_providers())
        auto = resolve(EngineOptions(), providers)
    except EngineError as error:
        problems.append(str(error))
    cache = None
    try:
        cache = default_cache_dir()
        scratch_parent(cache)
    except UsageError as error:
        problems.append(str(error))
    logical = os.cpu_count() or 1
    cores = psutil.cpu_count(logical=False) or logical, logical
    return Checkup(found, missing, providers, auto, cores, psutil.virtual_memory().total, cache, tuple(problems))
