"""Evaluation of shape arithmetic by our own pass, by onnxscript, and by onnxruntime's basic optimisations.

For each network: whether `inspect` says the same when ``onnxscript.optimizer.fold_constants`` does the work instead
of our pass; and what onnxruntime's basic level changes besides: layers that it takes away and weights that it renames,
by which plans, options and checkpoints know them.

Run: ``python benchmarks/shape_folding.py --zoo FOLDER``, with onnxscript installed, which the package does not need.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

import onnx
import onnxruntime
from common import ROOT, machine, table
from onnxscript import optimizer

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import normalize

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def _inspected(model: onnx.ModelProto) -> str:
    try:
        return repr(onnxprune.inspect(model))
    except OnnxPruneError as error:
        return str(error)


def _by_onnxscript(path: Path) -> tuple[str, str]:
    """Whether our pass is needed, and whether onnxscript's does as well."""
    wanted = _inspected(onnx.load(path))
    with mock.patch.object(normalize, "fold_constants", return_value=False):
        needed = _inspected(onnx.load(path)) != wanted
        model = onnx.load(path)
        optimizer.fold_constants(model, onnx_shape_inference=True)
        found = _inspected(model)
    words = "equal" if found == wanted else found if len(found) < 120 else "another report"
    return "yes" if needed else "no", words


def _by_onnxruntime(path: Path) -> tuple[int, int]:
    """Layers and weights of the file whose names are gone after onnxruntime's basic optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        before, after = onnx.load(path), onnx.load(options.optimized_model_filepath)
    layers = [{n.name for n in m.graph.node if n.op_type in _LAYERS} for m in (before, after)]
    weights = [{w.name for w in m.graph.initializer} for m in (before, after)]
    return len(layers[0] - layers[1]), len(weights[0] - weights[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo", help="folder with models/")
    given = parser.parse_args()
    rows = []
    for path in sorted((given.zoo / "models").glob("*.onnx")):
        rows.append([path.stem, *_by_onnxscript(path), *_by_onnxruntime(path)])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    print(table(["network", "needed", "by onnxscript", "layers lost by onnxruntime", "weights renamed"], rows))


if __name__ == "__main__":
    main()
