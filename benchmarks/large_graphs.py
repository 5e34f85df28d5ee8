"""Seconds of `inspect` on residual networks of 56 to 448 blocks and on a file of 95 MB, and of ``onnxprune --help``.

The best of three each.

Run: ``python benchmarks/large_graphs.py``; with PYTHONPATH set to another checkout it measures that one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from common import machine, table
from onnx import helper, numpy_helper

import onnxprune

_WIDTH, _SIDE = 16, 16
_BLOCKS = (56, 112, 224, 448)


def residual(blocks: int, width: int = _WIDTH) -> onnx.ModelProto:
    """A stem, blocks of two 3x3 convs with a shortcut, and a global pool."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(inputs: int, source: str, result: str, name: str) -> None:
        kernel = (0.1 * rng.standard_normal((width, inputs, 3, 3))).astype(np.float32)
        weights.extend([numpy_helper.from_array(kernel, f"w_{name}")])
        weights.extend([numpy_helper.from_array(np.zeros(width, np.float32), f"b_{name}")])
        nodes.append(helper.make_node("Conv", [source, f"w_{name}", f"b_{name}"], [result], name, pads=[1] * 4))

    def plain(op: str, sources: list[str], result: str) -> None:
        nodes.append(helper.make_node(op, sources, [result], f"make_{result}"))

    conv(3, "x", "stem", "stem")
    plain("Relu", ["stem"], "now")
    tensor = "now"
    for block in range(blocks):
        conv(width, tensor, f"a{block}", f"first{block}")
        plain("Relu", [f"a{block}"], f"r{block}")
        conv(width, f"r{block}", f"c{block}", f"second{block}")
        plain("Add", [f"c{block}", tensor], f"s{block}")
        plain("Relu", [f"s{block}"], f"t{block}")
        tensor = f"t{block}"
    plain("GlobalAveragePool", [tensor], "pooled")
    plain("Flatten", ["pooled"], "y")
    ends = [helper.make_tensor_value_info("x", 1, ["N", 3, _SIDE, _SIDE])]
    made = [helper.make_tensor_value_info("y", 1, ["N", width])]
    graph = helper.make_graph(nodes, "residual", ends, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _best(call: Callable[[], object]) -> float:
    found = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows: list[list[object]] = []
    for blocks in _BLOCKS:
        model = residual(blocks)
        seconds = _best(partial(onnxprune.inspect, model))
        rows.append([f"inspect, {len(model.graph.node)} nodes", f"{seconds:.2f}"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.onnx"
        onnx.save(residual(20, 256), path)
        command = [sys.executable, "-m", "onnxprune", "inspect", str(path)]
        seconds = _best(lambda: subprocess.run(command, capture_output=True, check=True))
        rows.append([f"onnxprune inspect, {path.stat().st_size / 1e6:.0f} MB", f"{seconds:.2f}"])
    command = [sys.executable, "-m", "onnxprune", "--help"]
    rows.append(["--help", f"{_best(lambda: subprocess.run(command, capture_output=True, check=True)):.2f}"])
    print(machine(), f"onnxprune {onnxprune.__version__}\n")
    print(table(["command", "seconds"], rows))


if __name__ == "__main__":
    main()
