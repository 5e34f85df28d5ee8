"""Peak memory of whole runs, against ``--memory``.

Each run is a process of its own; its peak is what the system reports for it. The baseline is the peak of a process that
only loads the model and its inputs, and runs one input.

Run: ``python benchmarks/peak_memory.py --data FOLDER [--only resnet56]``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from common import arguments, machine, table
from onnx import helper, numpy_helper

from onnxprune.options.inputs import parse_bytes

_CONVS = 500
_BASELINE = """
import sys
from onnxprune.options.data import DataOptions
from onnxprune.data import open_calibration
from onnxprune.graph.model.load import load
from onnxprune.engine.inputs import input_specs
from onnxprune.options.engine import EngineOptions
from onnxprune.engine.sessions import Engine
model, data = sys.argv[1:3]
options = DataOptions(preset=sys.argv[3]) if len(sys.argv) > 3 else DataOptions()
net, _ = load(model)
inputs = open_calibration(data, input_specs(net), options)
Engine.open(EngineOptions()).session(net.to_model(), label=model).run(inputs.load([0]))
"""


@dataclass(frozen=True)
class _Case:
    """``data``: inputs, of which ``samples`` are used; ``preset``: how they are prepared."""

    name: str
    model: Path
    data: Path
    samples: int
    memory: str
    preset: str | None = None

    def options(self) -> list[str]:
        """What the command line is told of the inputs."""
        return [] if self.preset is None else ["--preset", self.preset]


def _peak(command: Sequence[str]) -> float:
    """Peak resident megabytes of a child process."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss / 1024


def _many_convs(folder: Path) -> tuple[Path, Path]:
    """A chain of residual blocks of two small convs each, and 300 inputs for it."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    tensor, channels = "x", 3

    def conv(source: str, outputs: int, size: float) -> str:
        kernel = size * rng.standard_normal((outputs, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        name = f"conv{len(weights)}"
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.y"], name=name, pads=[1] * 4))
        return f"{name}.y"

    while len(weights) < _CONVS:
        inner = conv(tensor, 16, 1.0)
        nodes.append(helper.make_node("Relu", [inner], [f"{inner}.relu"], name=f"{inner}.relu"))
        if channels == 3:
            tensor, channels = f"{inner}.relu", 16
            continue
        branch = conv(f"{inner}.relu", 16, 0.1)
        nodes.append(helper.make_node("Add", [tensor, branch], [f"{branch}.sum"], name=f"{branch}.sum"))
        tensor = f"{branch}.sum"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "last"], ["y"], name="classifier"))
    weights.append(numpy_helper.from_array(rng.standard_normal((16, 10)).astype(np.float32), "last"))
    inputs = [helper.make_tensor_value_info("x", 1, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("y", 1, ["N", 10])]
    graph = helper.make_graph(nodes, "many", inputs, outputs, weights)
    model, data = folder / "many.onnx", folder / "many.npz"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    np.savez(data, x=rng.standard_normal((300, 3, 32, 32)).astype(np.float32))
    return model, data


def _cases(zoo: Path, data: Path, folder: Path) -> list[_Case]:
    models = zoo / "models"
    resnet, mobilenet = models / "cifar10_resnet56.onnx", models / "imagenet_mobilenet_v2.onnx"
    many, inputs = _many_convs(folder)
    cifar, photos = data / "cifar10_calib.npz", data / "photos"
    return [
        *(_Case("resnet56", resnet, cifar, count, "512MB", "imagenet") for count in (1000, 10000)),
        *(_Case("mobilenet_v2", mobilenet, photos, 1000, size, "imagenet") for size in ("256MB", "512MB", "2GB")),
        *(_Case(f"{_CONVS} convs", many, inputs, 300, size) for size in ("64MB", "512MB")),
    ]


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="*", help="cases whose name matches this pattern")
    parser.add_argument("--more", nargs="*", default=[], help="more options for the command line, without --")
    options = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in _cases(options.zoo, options.data, Path(folder)):
            if not fnmatchcase(case.name, options.only):
                continue
            preset = [case.preset] if case.preset else []
            baseline = _peak([sys.executable, "-c", _BASELINE, str(case.model), str(case.data), *preset])
            command = [sys.executable, "-m", "onnxprune", str(case.model), "-o", str(Path(folder) / "pruned.onnx")]
            command += ["--data", str(case.data), *case.options(), "--samples", str(case.samples), "--macs", "50%"]
            command += ["--no-bench", "-q"]
            command += ["--memory", case.memory, "--no-cache", *(f"--{option}" for option in options.more)]
            above = _peak(command) - baseline
            share = above / (parse_bytes("--memory", case.memory) / (1 << 20))
            rows.append([case.name, case.samples, case.memory, baseline, baseline + above, above, share])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine())
    print(table(["network", "inputs", "--memory", "baseline MB", "peak MB", "above it MB", "of --memory"], rows))


if __name__ == "__main__":
    main()
