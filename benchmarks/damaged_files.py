"""What `inspect` and `prune` do with damaged files: tracebacks, crashes and hangs are counted.

Each file is a model of which something was changed at random: bytes flipped, cut out or zeroed; an integer of an
attribute or a constant; the type or shape of a tensor; a node removed, repeated or wired to another tensor.
`inspect` reads every file, and `prune` compresses every tenth of the files that `inspect` accepts, on a few random
inputs; both run in a second process. A traceback is any exception that is not one of the package's own, a crash the end
of that process, a hang 60 seconds without an answer (600 for `prune`).

Run: ``python benchmarks/damaged_files.py --files 3000`` for the shipped models; other models are arguments.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import machine, table
from onnx import AttributeProto, numpy_helper

import onnxprune
from onnxprune import Options
from onnxprune.commands.inspect import run_inspection
from onnxprune.errors import OnnxPruneError
from onnxprune.options.budget import BudgetOptions

_ROOT = Path(__file__).parents[1]
_INSPECT_S, _PRUNE_S, _PRUNED, _SAMPLES = 60, 600, 10, 16
_INTEGERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 64, 2**31 - 1, 2**62, 2**63 - 1)
_KINDS = (
    *(AttributeProto.UNDEFINED, AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR),
    *(AttributeProto.GRAPH, AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS, AttributeProto.TENSORS),
)
_OPTIONS = Options(bench=False, recipe="prune", samples=_SAMPLES, budget=BudgetOptions(macs="80%").budget())

Damage = Callable[[np.random.Generator, bytes], bytes]


def _bytes_flipped(rng: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, len(damaged), int(rng.integers(1, 20))):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _head_flipped(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip bytes where the nodes usually are: in a model of many weights others hit weights only."""
    first = int(min(len(content), 4000))
    return _bytes_flipped(rng, content[:first]) + content[first:]


def _cut_short(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(1, len(content)))]


def _cut_out(rng: np.random.Generator, content: bytes) -> bytes:
    first = int(rng.integers(0, len(content)))
    return content[:first] + content[first + int(rng.integers(1, 64)) :]


def _zeroed(rng: np.random.Generator, content: bytes) -> bytes:
    first, count = int(rng.integers(0, len(content))), int(rng.integers(1, 512))
    return content[:first] + bytes(len(content[first : first + count])) + content[first + count :]


def _in_the_model(change: Callable[[np.random.Generator, onnx.GraphProto], object]) -> Damage:
    def damage(rng: np.random.Generator, content: bytes) -> bytes:
        model = onnx.ModelProto.FromString(content)
        for _ in range(int(rng.integers(1, 3))):
            change(rng, model.graph)
        return bytes(model.SerializeToString())

    return damage


def _attribute(rng: np.random.Generator, graph: onnx.GraphProto) -> None:
    found = [attribute for node in graph.node for attribute in node.attribute]
    if not found:
        return
    attribute, value = found[int(rng.integers(len(found)))], int(rng.choice(_INTEGERS))
    if attribute.type == AttributeProto.INTS and attribute.ints and rng.random() < 0.8:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = value
    elif attribute.type == AttributeProto.INTS:
        attribute.ints.append(value)
    elif attribute.type == AttributeProto.INT and rng.random() < 0.8:
        attribute.i = value
    elif attribute.type == AttributeProto.FLOAT and rng.random() < 0.8:
        attribute.f = float(rng.choice([np.nan, np.inf, -1.0, 0.0, 1e38]))
    else:
        attribute.type = _KINDS[int(rng.integers(len(_KINDS)))]


def _constant(rng: np.random.Generator, graph: onnx.GraphProto) -> None:
    found = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64] or graph.initializer
    if not found:
        return
    tensor = found[int(rng.integers(len(found)))]
    array = numpy_helper.to_array(tensor).copy()
    if array.size:
        strange = rng.choice(_INTEGERS) if array.dtype.kind == "i" else rng.choice([np.nan, np.inf, 1e38])
        with np.errstate(all="ignore"):
            array.reshape(-1)[int(rng.integers(array.size))] = strange
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shape(rng: np.random.Generator, graph: onnx.GraphProto) -> None:
    values = [*graph.input, *graph.output, *graph.value_info]
    if rng.random() < 0.5 and graph.initializer:
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        if tensor.dims and rng.random() < 0.7:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(_INTEGERS))
        else:
            tensor.data_type = int(rng.integers(0, 24))
        return
    kind = values[int(rng.integers(len(values)))].type.tensor_type
    if kind.shape.dim and rng.random() < 0.6:
        kind.shape.dim[int(rng.integers(len(kind.shape.dim)))].dim_value = int(rng.choice(_INTEGERS))
    elif rng.random() < 0.5:
        kind.elem_type = int(rng.integers(0, 24))
    else:
        kind.ClearField("shape")


def _node(rng: np.random.Generator, graph: onnx.GraphProto) -> None:
    index = int(rng.integers(len(graph.node)))
    node, way = graph.node[index], int(rng.integers(6))
    names = [name for one in graph.node for name in (*one.input, *one.output)] or [""]
    other = str(rng.choice(names))
    if way == 0 and len(graph.node) > 1:
        del graph.node[index]
    elif way == 1:
        graph.node.append(node)
    elif way == 2:
        node.op_type = graph.node[int(rng.integers(len(graph.node)))].op_type
    elif way == 3 and node.input:
        node.input[int(rng.integers(len(node.input)))] = other
    elif way == 4 and node.output:
        node.output[int(rng.integers(len(node.output)))] = other
    elif node.input:
        del node.input[-1]


_DAMAGES: dict[str, Damage] = {
    "bytes flipped": _bytes_flipped,
    "bytes of the head flipped": _head_flipped,
    "cut short": _cut_short,
    "bytes cut out": _cut_out,
    "bytes zeroed": _zeroed,
    "attributes": _in_the_model(_attribute),
    "constants": _in_the_model(_constant),
    "shapes and types": _in_the_model(_shape),
    "nodes and edges": _in_the_model(_node),
}


@dataclass
class _Worker:
    """A process that answers what a command does with a file; a new one after a crash or a hang."""

    process: multiprocessing.process.BaseProcess | None = None
    pipe: Connection | None = None

    def ask(self, command: str, path: Path, seconds: float) -> str:
        if self.process is None or not self.process.is_alive():
            self.pipe, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.get_context("fork").Process(target=_work, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        assert self.pipe is not None
        self.pipe.send((command, str(path)))
        try:
            if self.pipe.poll(seconds):
                return str(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.process.join(10)
            return f"crash: exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join(10)
        return "hang"


def _work(pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    while True:
        command, path = pipe.recv()
        try:
            if command == "inspect":
                run_inspection(path)
            else:
                onnxprune.prune(path, data=_inputs(path), options=_OPTIONS)
            pipe.send("taken")
        except OnnxPruneError as error:
            lines = str(error).splitlines()
            pipe.send("refused" if len(lines) == 1 else f"traceback: {len(lines)} lines: {lines[:2]}")
        except BaseException:  # this is what is counted
            pipe.send("traceback: " + traceback.format_exc().strip())


def _shipped() -> list[Path]:
    return sorted([*(_ROOT / "models").glob("*.onnx"), *(_ROOT / "tests" / "networks").glob("*.onnx")])


def _inputs(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Random samples for every input that is no initializer, as its type says."""
    graph = onnx.load(path).graph
    weights, rng = {tensor.name for tensor in graph.initializer}, np.random.default_rng(0)
    found = {}
    for value in graph.input:
        kind = value.type.tensor_type
        sizes = [dim.dim_value if 0 < dim.dim_value < 1000 else 32 for dim in kind.shape.dim]
        if value.name not in weights:
            found[value.name] = rng.random([_SAMPLES, *sizes[1:]]).astype(
                onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            )
    return found


def main() -> None:
    """Print a table: a row a kind of damage; what was wrong goes to the folder of `--keep`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=_shipped())
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file, which makes a file again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that were not refused or taken as they should")
    given = parser.parse_args()
    print(machine(), flush=True)
    contents = [path.read_bytes() for path in given.models]
    counts: dict[str, Counter[str]] = {name: Counter() for name in _DAMAGES}
    slowest, worker, taken = 0.0, _Worker(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.onnx"
        for index in range(given.first, given.first + given.files):
            rng = np.random.default_rng((given.seed, index))
            name = list(_DAMAGES)[index % len(_DAMAGES)]
            path.write_bytes(_DAMAGES[name](rng, contents[int(rng.integers(len(contents)))]))
            start = time.perf_counter()
            answer = worker.ask("inspect", path, _INSPECT_S)
            slowest = max(slowest, time.perf_counter() - start)
            answers = [answer]
            taken += answer == "taken"
            if answer == "taken" and taken % _PRUNED == 0:
                answers.append(worker.ask("prune", path, _PRUNE_S))
                counts[name]["pruned"] += answers[-1] == "taken"
            for told in answers:
                kind = told.partition(":")[0]
                counts[name][kind] += told is answer or kind not in ("taken", "refused")
                if kind not in ("taken", "refused"):
                    print(f"{index} {name}: {told}", flush=True)
                    if given.keep:
                        given.keep.mkdir(parents=True, exist_ok=True)
                        (given.keep / f"{index}.onnx").write_bytes(path.read_bytes())
    kinds = ("refused", "taken", "pruned", "traceback", "crash", "hang")
    rows = [[name, *(str(counts[name][kind]) for kind in kinds)] for name in _DAMAGES]
    rows.append(["all", *(str(sum(counts[name][kind] for name in _DAMAGES)) for kind in kinds)])
    print(table(["damage", *kinds], rows))
    print(f"longest inspection: {slowest:.1f} s")


if __name__ == "__main__":
    main()
