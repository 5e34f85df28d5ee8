"""Python interface: prune, compare, inspect, recover, and conversion to and from torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxprune.commands.compare import CompareOptions, Comparison, run_comparison
from onnxprune.commands.inspect import Inspection, run_inspection
from onnxprune.commands.prune import Result
from onnxprune.commands.recover import Recovered, run_recovery
from onnxprune.commands.result import ModelResult
from onnxprune.commands.sweep import SPEEDUPS, Point, run_any, run_pareto
from onnxprune.engine.sessions import Engine
from onnxprune.errors import UsageError
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.data import OPEN_SIDE
from onnxprune.options.reading import ReadOptions
from onnxprune.options.run import Options
from onnxprune.planning import Plan
from onnxprune.progress import Progress, silent
from onnxprune.torchnet import require_torch

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
    """Make a network smaller and faster, and return the pruned model, its plan and a report.

    Give at most one of `speedup`, `latency_ms`, `macs`, `params`, `keep_ratio` and `plan`. Without any of them and
    without a budget in `options`, search for the fastest network within ``options.max_drop`` (default then: 1 point
    of agreement, or 1 % relative error).

    Args:
        model: path, bytes or ModelProto of the original; it is not changed.
        data: calibration inputs: path of an image folder, ``.npy`` or ``.npz``, an array (n, ...), a dict of arrays, an
            iterable of either, or a reader with ``get_next()``; ``"synthetic"`` for synthetic inputs. None:
            ``<model>.calib.npz`` next to the model.
        speedup: target time of the original divided by time of the result, above 1, measured with the engine and the
            bench batch of `options`.
        latency_ms: target milliseconds of one run, measured with the engine and the bench batch of `options`.
        macs: share of the multiply-accumulates to keep: 0.5, "50%" or "2x".
        params: share of the parameters to keep: 0.5, "50%" or "2x".
        keep_ratio: share of the channels to keep in every group: 0.5, "50%" or "2x".
        plan: plan to carry out instead of a budget: a `Plan` or the path of a plan file.
        dry_run: return the plan and its predicted cost, without a model.
        options: all other options; default `Options()`. A budget argument replaces the budget of `options`.
        progress: callback (stage, done, total, detail).

    Raises:
        UsageError: an argument cannot be used, or two contradict each other.
        ModelError: the model cannot be read, or is not a model that can be pruned.
        DataError: the inputs cannot be read, or do not fit the model.
        PlanError: nothing can be pruned, the plan does not fit the model, or the budget is out of reach.
        VerifyError: the result failed its verification, or loses more than ``options.max_drop``.
        EngineError: onnxruntime cannot run the model.
        EvaluateError: ``options.evaluate`` failed, or returned no finite number.
    """
    chosen = options or Options()
    given = (speedup, macs, params, keep_ratio, latency_ms)
    if plan is not None and any(value is not None for value in given):
        raise UsageError("expected a plan or a budget, found both: give one of them")
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
    """Prune a network to several speed-ups from one calibration, and yield one verified and timed point for each.

    Args:
        model: path, bytes or ModelProto of the original; it is not changed.
        data: calibration inputs, as for `prune`.
        speedups: target speed-ups in increasing order, each above 1. The first one that is out of reach, or loses more
            than ``options.max_drop``, ends the series.
        options: all other options; default `Options()`. Of its budget, only the cost that it limits is used.
        progress: callback (stage, done, total, detail).

    Raises:
        LostTooMuchError: the first speed-up loses more than ``options.max_drop``.
        OutOfReachError: the first speed-up is out of reach.
        OnnxPruneError: any other error of `prune`.
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
    """Compare two models on the same inputs: outputs, accuracy, cost and latency.

    A drop beyond ``options.max_drop`` raises no error; see `Comparison.within`.

    Args:
        original: path, bytes or ModelProto of the first model.
        candidate: path, bytes or ModelProto of the second model; its inputs and outputs must match the first one's.
        data: inputs, as for `prune`. None: ``<original>.test.npz`` next to the first model, else
            ``<original>.calib.npz``.
        labels: class of each input: n integers, or a file (``.npy``, ``.npz`` with ``labels``, or text with one integer
            per line). None: the labels in `data`, if it has any.
        options: all other options; default `CompareOptions()`.
        progress: callback (stage, done, total).

    Raises:
        UsageError: an option cannot be used.
        ModelError: a model cannot be read, or the inputs or outputs of the models differ.
        DataError: the inputs or the labels cannot be read, or do not fit the models.
        EngineError: onnxruntime cannot run a model.
        EvaluateError: ``options.evaluate`` failed, or returned no finite number.
    """
    return run_comparison(original, candidate, data, labels, options or CompareOptions(), progress)


def inspect(
    model: Model, *, size: int = OPEN_SIDE, until: Sequence[str] = (), set_input: Sequence[str] = ()
) -> Inspection:
    """Report for each layer whether it can be pruned, and the reason if not; the network is not run.

    Args:
        model: path, bytes or ModelProto.
        size: extent of every input axis that the model leaves open, 1 or more; an open batch axis is 1.
        until: names of tensors or nodes at which the inspection ends; default in front of selection operators.
        set_input: inputs that are no samples, and their values, ``NAME=NUMBER``.

    Raises:
        UsageError: `size` is below 1, or a name in `until` does not exist.
        ModelError: the model cannot be read, or is not a model that can be pruned.
    """
    return run_inspection(model, size=size, reading=ReadOptions(until=tuple(until), set_input=tuple(set_input)))


def recover(
    original: Model,
    candidate: Model,
    *,
    data: CalibrationSource | None = None,
    options: Options | None = None,
    progress: Progress = silent,
) -> Recovered:
    """Train a smaller network on the outputs of the original, without labels; needs torch (extra ``recover``).

    Args:
        original: path, bytes or ModelProto of the original, the teacher.
        candidate: path, bytes or ModelProto of the network to train; its inputs and outputs must match the original's.
            It is not changed.
        data: inputs, as for `prune`.
        options: ``recover`` holds the options of the training (None: the defaults); also used are the options of
            inputs, preprocessing, engine, memory, cache and outputs, and ``evaluate``.
        progress: callback (stage, done, total, detail).

    Raises:
        UsageError: an option cannot be used, or torch is not installed.
        ModelError: a model cannot be read or trained, or the inputs or outputs of the models differ.
        DataError: the inputs cannot be read, or do not fit the models.
        VerifyError: torch and onnxruntime give different outputs.
        EngineError: onnxruntime cannot run a model.
        EvaluateError: ``options.evaluate`` failed, or returned no finite number.
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
    """Convert a network to a torch module, for a training loop of your own; needs torch (extra ``recover``).

    The state dict is keyed by the initializers' names (see `onnxprune.torchnet.program.TorchNet`), normalisations are
    folded into the layers, and the module is in evaluation mode: call ``train()`` before training.

    Args:
        model: path, bytes or ModelProto.
        batchnorm: insert a fresh BatchNorm behind each conv, with statistics from `data` and the scale and shift that
            undo them, so that the outputs do not change. Its parameters have the prefix ``norms``.
        data: inputs for the statistics, as for `prune`; not read unless `batchnorm`.
        samples: number of inputs for the statistics, at most.
        options: options of the inputs, and the layers to freeze (``recover``); default `Options()`.

    Raises:
        UsageError: an option cannot be used, or torch is not installed.
        ModelError: the model cannot be read, or has a node without a counterpart in torch.
        DataError: the inputs cannot be read, or do not fit the model.
    """
    require_torch()
    from onnxprune.commands.convert import opened_module  # needs torch, an optional dependency

    return opened_module(model, data, options or Options(), batchnorm=batchnorm, samples=samples)


def from_torch(module: torch.nn.Module, *, options: Options | None = None) -> ModelResult:
    """Convert a module of `to_torch` back to a model: its graph with the trained weights, inserted BatchNorms folded.

    Args:
        module: the return value of `to_torch`, trained.
        options: only ``engine`` is used, to check the result; default `Options()`.

    Raises:
        UsageError: `module` was not made by `to_torch`, or torch is not installed.
        VerifyError: a weight is not finite, or the outputs of the result differ from the module's.
    """
    require_torch()
    from onnxprune.torchnet.module import folded  # needs torch, an optional dependency

    return ModelResult(folded(module, Engine.open((options or Options()).engine)))
