"""Choice of onnxruntime's execution provider."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.errors import EngineError
from onnxprune.options.engine import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TENSORRT", "onnxruntime", "resolve", "unused"]


_CPU, _CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_SILENT, _USUAL = 4, 2  # severities of onnxruntime's log
_LISTS = {"cpu": (_CPU,), "cuda": (_CUDA, _CPU), "tensorrt": (TENSORRT, _CUDA, _CPU)}


def onnxruntime() -> Any:
    """Import and return the onnxruntime module, its telemetry switched off.

    Newer builds for Linux and macOS, too, send events and keep an identifier of the machine unless a variable is set
    before the module is imported; a value that the user has set is left as it is.

    Raises:
        EngineError: onnxruntime cannot be imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}): pip install 'onnxprune[cpu]', or 'onnxprune[gpu]' for CUDA"
        ) from error
    module.disable_telemetry_events()
    return module


def resolve(
    options: EngineOptions,
    available: Sequence[str] | None = None,
    works: Callable[[str], bool] | None = None,
) -> tuple[str, ...]:
    """Return the providers to request from onnxruntime, best first; the CPU is always the last.

    Args:
        options: requested provider.
        available: providers that onnxruntime was built with; None to ask onnxruntime.
        works: function that tells whether a session runs on a provider; default a trial.

    Raises:
        EngineError: the requested provider is not available, or does not work on this machine.
    """
    offered = tuple(onnxruntime().get_available_providers()) if available is None else tuple(available)
    usable = works or (_works_quietly if options.provider == "auto" else _works)
    if options.provider == "auto":
        return _LISTS["cuda"] if _CUDA in offered and usable(_CUDA) else _LISTS["cpu"]
    wanted = _LISTS[options.provider]
    if wanted[0] not in offered:
        have = ", ".join(name.removesuffix("ExecutionProvider") for name in offered) or "none"
        raise EngineError(
            f"--provider {options.provider}: this onnxruntime was built without {wanted[0]} (it has {have}): "
            "pip install 'onnxprune[gpu]', or use --provider cpu"
        )
    if wanted[0] != _CPU and not usable(wanted[0]):
        raise EngineError(
            f"--provider {options.provider}: {wanted[0]} is installed but does not start here (no device, or "
            "its libraries are missing or do not match; onnxruntime says more above): check the driver, try "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu"
        )
    return tuple(name for name in wanted if name in offered)


def unused(options: EngineOptions, providers: Sequence[str], available: Sequence[str] | None = None) -> str:
    """Return a note if ``auto`` skipped CUDA because it does not start on this machine; else empty."""
    offered = tuple(onnxruntime().get_available_providers()) if available is None else tuple(available)
    if options.provider != "auto" or _CUDA not in offered or _CUDA in providers:
        return ""
    return "this onnxruntime has CUDA, but it does not start here, so the CPU was used; --provider cuda shows why"


def _works_quietly(provider: str) -> bool:
    """Call `_works` without onnxruntime's messages on the terminal."""
    ort = onnxruntime()
    ort.set_default_logger_severity(_SILENT)
    try:
        return _works(provider)
    finally:
        ort.set_default_logger_severity(_USUAL)


def _works(provider: str) -> bool:
    """Return True if a one-node model runs on a provider and has the right output."""
    ort = onnxruntime()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "works", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider, _CPU])
        if provider not in session.get_providers():
            return False
        return float(session.run(None, {"x": np.ones(1, np.float32)})[0][0]) == 2.0
    except Exception:  # onnxruntime raises many types of its own
        return False
