"""Which networks can be pruned, and how far: ours, onnxsim's structured pruning and Torch-Pruning, side by side.

Fourteen families as torchvision defines them, exported at several opsets by torch's two exporters. Half of the channels
of every group that may lose any are removed; onnxsim is asked for a sparsity of 0.5, Torch-Pruning for a ratio of 0.5
on the torch module itself, its classifier left alone. A cell is the MACs before over those after. All get the initial
values, at which exporters merge biases and BatchNorms of different layers; onnxsim a second time with those drawn at
random. Ours also says how far the outputs are from those of the full network with the channels zeroed, with matrices
drawn so that activations do not vanish. "broken": the result does not run, or (ours) differs; "fails": the tool raised
an error.

Run: ``python benchmarks/coverage.py`` where torchvision, onnxscript, onnxsim and torch-pruning are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import logging
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from common import machine, table

from onnxprune.commands.inspect import run_inspection
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.model.save import finished_model
from onnxprune.planning.assignment import Assignment
from onnxprune.planning.cost import cost_model
from onnxprune.steps.prepare import folded

FAMILIES = (
    *("vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
    *("densenet121", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet", "regnet_y_400mf", "mnasnet1_0"),
    "convnext_tiny",
)
_SIDE = 224
_TOLERANCE = 1e-4


def _torchvision() -> Any:
    """torchvision; where its compiled operators do not load, which none of these networks needs, without them."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        found = importlib.util.find_spec("torchvision")
        if found is None or found.origin is None:
            raise
        text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
        for name in set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', text)):
            torch.library.define(f"torchvision::{name}", "() -> Tensor")
        return importlib.import_module("torchvision")


def _module(models: Any, family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": True} if family == "googlenet" else {}
    module: torch.nn.Module = models.get_model(family, weights=None, **options)
    return module.eval()


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and BatchNorms at values of their own."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.1)
            if part.running_mean is not None and part.running_var is not None:  # none where nothing is tracked
                torch.nn.init.normal_(part.running_mean, std=0.1)
                torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
        elif isinstance(part, torch.nn.Conv2d | torch.nn.Linear) and part.bias is not None:
            torch.nn.init.normal_(part.bias, std=0.1)
    return module


def _exported(module: torch.nn.Module, opset: int, dynamo: bool) -> onnx.ModelProto | str:
    """The graph, or that the exporter fails."""
    buffer = io.BytesIO()
    example = torch.zeros(1, 3, _SIDE, _SIDE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                module,
                (example,),
                None if dynamo else cast("Any", buffer),
                opset_version=opset,
                dynamo=dynamo,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter raises is a result
        return f"no export: {type(error).__name__}"
    return made.model_proto if made is not None else onnx.load_from_string(buffer.getvalue())


def _run(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, _SIDE, _SIDE)).astype(np.float32)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


def _lively(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with weights drawn so that activations keep their size; at some initial weights they vanish."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(1)
    for tensor in copy.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            spread = (2 / max(int(np.prod(tensor.dims[1:])), 1)) ** 0.5
            drawn = (rng.standard_normal(tuple(tensor.dims)) * spread).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(drawn, tensor.name))
    return copy


def _ours(model: onnx.ModelProto) -> str:
    net, _, _ = folded(_lively(model), "model")
    channels = channel_map(net)
    rng = np.random.default_rng(0)
    removed = {g.name: rng.choice(g.size, g.size // 2, replace=False) for g in channels.prunable}
    alive = alive_without(channels, removed)
    smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
    cost = cost_model(net, channels, {net.input_names[0]: (1, 3, _SIDE, _SIDE)})
    keep = Assignment({g.name: g.size - g.size // 2 for g in channels.prunable})
    ratio = cost.macs() / cost.macs(keep)
    left, right = _run(smaller), _run(zero(net, channels, alive).to_model())
    apart = float(np.abs(left - right).max() / max(np.abs(right).max(), 1e-12))
    return f"{ratio:.2f} ({apart:.0e})" if apart < _TOLERANCE else f"broken ({apart:.0e})"


def _onnxsim(model: onnx.ModelProto) -> str:
    onnxsim = importlib.import_module("onnxsim")
    pruned = onnxsim.apply_structured_pruning(model, sparsity=0.5)
    try:
        _run(pruned)
    except Exception:  # whatever onnxruntime says of it
        return "broken"
    return f"{run_inspection(model).macs / run_inspection(pruned).macs:.2f}"


def _torch_pruning(models: Any, family: str) -> str:
    tp = importlib.import_module("torch_pruning")
    module = _module(models, family)
    example = torch.zeros(1, 3, _SIDE, _SIDE)
    ignored: list[torch.nn.Module] = []
    ignored += [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
    ignored += [m for m in module.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 1000]
    before, _ = tp.utils.count_ops_and_params(module, example)
    pruner = tp.pruner.MagnitudePruner(
        module, example, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=ignored
    )
    pruner.step()
    try:
        with torch.no_grad():
            module(example)
    except RuntimeError:
        return "broken"
    after, _ = tp.utils.count_ops_and_params(module, example)
    return f"{before / after:.2f}"


def _tried(work: Callable[[], str]) -> str:
    """What it says, or that it fails, and how."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except Exception as error:  # whatever a tool raises is a result
        return f"fails: {type(error).__name__}"


def main() -> None:
    """Print a table: one row a family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(FAMILIES))
    parser.add_argument("--opsets", nargs="*", type=int, default=[11, 13, 17, 20])
    parser.add_argument("--dynamo", nargs="*", type=int, default=[20], help="opsets of the newer exporter")
    parser.add_argument("--peers-at", type=int, default=17, help="opset that onnxsim gets")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    models = _torchvision().models
    graphs = [(opset, False) for opset in options.opsets] + [(opset, True) for opset in options.dynamo]
    rows = []
    for family in options.only:
        start = time.perf_counter()
        module = _module(models, family)
        row = [family]
        peer = again = ""
        for opset, dynamo in graphs:
            model = _exported(module, opset, dynamo)
            row.append(model if isinstance(model, str) else _tried(partial(_ours, model)))
            if opset == options.peers_at and not dynamo and not isinstance(model, str):
                peer = _tried(partial(_onnxsim, model))
                drawn = _exported(_randomised(_module(models, family)), opset, False)
                again = drawn if isinstance(drawn, str) else _tried(partial(_onnxsim, drawn))
        row += [peer, again, _tried(partial(_torch_pruning, models, family))]
        rows.append(row)
        print(f"{row} {time.perf_counter() - start:.0f} s", flush=True)
    print(machine())
    header = ["family", *(f"ours, {'dynamo ' if dynamo else ''}opset {opset}" for opset, dynamo in graphs)]
    print(table([*header, f"onnxsim, opset {options.peers_at}", "onnxsim, drawn", "Torch-Pruning"], rows))


if __name__ == "__main__":
    main()
