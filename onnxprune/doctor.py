"""What this installation can do, and what is missing for what."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from onnxprune._version import __version__
from onnxprune.errors import EngineError, UsageError
from onnxprune.runtime.providers import EngineOptions, onnxruntime, resolve
from onnxprune.stages.checkpoint import default_cache_dir, make_cache_dir, own_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Checkup", "run_doctor"]

SCHEMA = 1
_PACKAGES = {
    "onnx": "",
    "onnx-graphsurgeon": "",
    "numpy": "",
    "scipy": "",
    "onnxruntime": "the CPU: pip install 'onnxprune[cpu]'",
    "onnxruntime-gpu": "CUDA and TensorRT: pip install 'onnxprune[gpu]'",
    "torch": "--recover and to_torch: pip install 'onnxprune[recover]'",
    "safetensors": "--recover: pip install 'onnxprune[recover]'",
    "matplotlib": "plots of study and --pareto: pip install 'onnxprune[plot]'",
}
"""Packages, and what each is for where it may be missing."""


@dataclass(frozen=True)
class Checkup:
    """What was found.

    Attributes:
        versions: of this package, Python and the packages that are installed, by name.
        missing: what is not installed, and what it would be for.
        providers: execution providers of this onnxruntime; empty where there is none.
        auto: execution providers that ``--provider auto`` takes, best first.
        cores: physical and logical.
        memory: bytes that the machine has.
        cache: the folder of the cache.
        problems: what will not work, one line each.
    """

    versions: Mapping[str, str]
    missing: Mapping[str, str]
    providers: tuple[str, ...]
    auto: tuple[str, ...]
    cores: tuple[int, int]
    memory: int
    cache: Path
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"schema": SCHEMA, **asdict(self), "cache": str(self.cache)}


def run_doctor() -> Checkup:
    """Look at the installation; the folder of the cache is made if it can be."""
    found, missing, problems = {"onnxprune": __version__, "Python": platform.python_version()}, {}, []
    for name, use in _PACKAGES.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing[name] = use
    # One of the two gives the module `onnxruntime`, and it is enough.
    if "onnxruntime-gpu" in found:
        missing.pop("onnxruntime", None)
    providers: tuple[str, ...] = ()
    auto: tuple[str, ...] = ()
    try:
        providers = tuple(onnxruntime().get_available_providers())
        auto = resolve(EngineOptions(), providers)
    except EngineError as error:
        problems.append(str(error))
    cache = default_cache_dir()
    try:
        make_cache_dir(own_folder(cache))
    except UsageError as error:
        problems.append(str(error))
    logical = os.cpu_count() or 1
    cores = psutil.cpu_count(logical=False) or logical, logical
    return Checkup(found, missing, providers, auto, cores, psutil.virtual_memory().total, cache, tuple(problems))
