"""The Python interface: functions in front of the pipeline, the comparison and the inspection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxprune.compare import CompareOptions, Comparison, run_comparison
from onnxprune.data.recipe import OPEN_SIDE
from onnxprune.errors import UsageError
from onnxprune.inspection import Inspection, run_inspection
from onnxprune.options import Options
from onnxprune.pipeline import Result
from onnxprune.plan import BudgetOptions, Plan
from onnxprune.recovery import require_torch
from onnxprune.recovery.pair import Recovered, run_recovery
from onnxprune.result import ModelResult
from onnxprune.runtime.sessions import Engine
from onnxprune.stages.workload import Progress, silent
from onnxprune.sweep import SPEEDUPS, Point, run_any, run_pareto

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import numpy as np
    import onnx
    import torch

    from onnxprune.data import CalibrationSource

    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["compare", "from_torch", "inspect", "pareto", "prune", "recover", "to_torch"]


def prune(
    model: Model,
    *,
    data: CalibrationSource | None = None,
    speedup: float | None = None,
    latency_ms: float | None = None,
    macs: str | float | None = None,
    params: str | float | None = None,
    keep_ratio: str | float | None = None,
    plan: Plan | str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    options: Options | None = None,
    progress: Progress = silent,
) -> Result:
    """Make a network smaller and faster.

    Without a budget or a plan, the fastest network that loses no more than ``options.max_drop`` (1 point of agreement,
    or 1 % of relative error, where that is None) is looked for.

    Args:
        model: path, bytes or ModelProto; it is not changed.
        data: calibration inputs: a path, an array, a dict of arrays, an iterable of either, or a reader with
            ``get_next()``.
        speedup: time of the original over that of the result, measured with the options' engine and bench batch.
        latency_ms: milliseconds of one run, measured with the options' engine and bench batch.
        macs: multiply-accumulates left: 0.5, "50%" or "2x".
        params: parameters left: 0.5, "50%" or "2x".
        keep_ratio: channels left in every group: 0.5, "50%" or "2x".
        plan: do this instead of a budget.
        dry_run: stop when the plan is made.
        options: everything else; a budget given above replaces its.
        progress: called with stage, done, total.

    Raises:
        OnnxPruneError: one of its kinds, see `onnxprune.errors`.
    """
    chosen = options or Options()
    given = (speedup, macs, params, keep_ratio, latency_ms)
    if plan is not None and any(value is not None for value in given):
        raise UsageError("a plan says what is kept: give no budget with it")
    asked = BudgetOptions(
        speedup=speedup, macs=macs, params=params, keep_ratio=keep_ratio, latency_ms=latency_ms
    ).budget(chosen.budget)
    planned = Plan.load(plan) if plan is not None and not isinstance(plan, Plan) else plan
    return run_any(model, data, replace(chosen, budget=asked), plan=planned, dry_run=dry_run, progress=progress)


def pareto(
    model: Model,
    *,
    data: CalibrationSource | None = None,
    speedups: Sequence[float] = SPEEDUPS,
    options: Options | None = None,
    progress: Progress = silent,
) -> Iterator[Point]:
    """Prune a network to one speed-up after the other, from one calibration; each is verified and timed.

    Args:
        model: path, bytes or ModelProto; it is not changed.
        data: calibration inputs, as for `prune`.
        speedups: from small to large; the first that is out of reach, or loses more than ``options.max_drop``, ends it.
        options: everything else; of the budget, only what it counts.
        progress: called with stage, done, total.

    Raises:
        OnnxPruneError: what is not a matter of the speed-up.
    """
    return run_pareto(model, data, options or Options(), progress, speedups)


def compare(
    original: Model,
    candidate: Model,
    *,
    data: CalibrationSource | None = None,
    labels: str | os.PathLike[str] | Sequence[int] | np.ndarray[Any, Any] | None = None,
    options: CompareOptions | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Two models side by side on the same inputs.

    Args:
        original: path, bytes or ModelProto. candidate: the same.
        data: inputs, as for `prune`; None: ``<original>.test.npz`` beside the first model if there is one. labels:
            a file or integers; None: those of the data, if it has any.
        options: everything else.
        progress: called with stage, done, total.

    Raises:
        OnnxPruneError: one of its kinds, see `onnxprune.errors`; a drop beyond ``max_drop`` is no error here, see
            `Comparison.within`.
    """
    return run_comparison(original, candidate, data, labels, options or CompareOptions(), progress)


def inspect(model: Model, *, size: int = OPEN_SIDE) -> Inspection:
    """What of a network can be pruned, layer by layer, and what stands in the way; nothing is run.

    Args:
        model: path, bytes or ModelProto.
        size: of every axis of an input that is left open, the batch apart, which is 1.

    Raises:
        OnnxPruneError: one of its kinds, see `onnxprune.errors`.
    """
    return run_inspection(model, size=size)


def recover(
    original: Model,
    candidate: Model,
    *,
    data: CalibrationSource | None = None,
    options: Options | None = None,
    progress: Progress = silent,
) -> Recovered:
    """Train a smaller network on the original's answers, without labels; torch is needed (extra ``recover``).

    Args:
        original: path, bytes or ModelProto of the network that is asked.
        candidate: of the one that is trained: any with the same inputs and outputs; it is not changed.
        data: inputs, as for `prune`.
        options: `Options.recover` says how; also used is what it says of inputs, engine, memory and cache.
        progress: called with stage, done, total, and how it goes in words.

    Raises:
        OnnxPruneError: one of its kinds, see `onnxprune.errors`.
    """
    return run_recovery(original, candidate, data, options or Options(), progress)


def to_torch(
    model: Model,
    *,
    batchnorm: bool = False,
    data: CalibrationSource | None = None,
    samples: int = 512,
    options: Options | None = None,
) -> torch.nn.Module:
    """A network as a torch module, to train as one likes; torch is needed (extra ``recover``).

    Its state dict is keyed by the initializers' names (see `onnxprune.recovery.program.TorchNet`), its normalisations
    are folded, and it comes in evaluation mode: call ``train()`` before training.

    Args:
        model: path, bytes or ModelProto.
        batchnorm: put a fresh BatchNorm behind each conv, with statistics from `data` and a scale and shift that undo
            them, so that the outputs are what they were. Its parameters lie under ``norms``.
        data: inputs, as for `prune`.
        samples: how many of them give the statistics.
        options: what is said of inputs, and of layers to freeze (`Options.recover`).

    Raises:
        OnnxPruneError: one of its kinds, see `onnxprune.errors`.
    """
    require_torch()
    from onnxprune.recovery.opened import opened_module  # with torch, which not everybody has

    return opened_module(model, data, options or Options(), batchnorm=batchnorm, samples=samples)


def from_torch(module: torch.nn.Module, *, options: Options | None = None) -> ModelResult:
    """The way back from `to_torch`: the same graph with the trained weights, fresh normalisations folded again.

    Args:
        module: what `to_torch` made.
        options: of them, the engine that the result is checked with.

    Raises:
        UsageError: the module is another.
        VerifyError: a weight is not finite, or the result does not answer as the module does.
    """
    require_torch()
    from onnxprune.recovery.module import folded  # with torch, which not everybody has

    return ModelResult(folded(module, Engine.open((options or Options()).engine)))
