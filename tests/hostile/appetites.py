"""Small models that ask for much: gigabytes, minutes, or files that are not theirs."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["external", "models"]

_SIDE = 16


def _ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _scalar(name: str, value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def _value(name: str, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[onnx.NodeProto] = [], constants: list[onnx.TensorProto] = [], output: str = "y") -> Any:  # noqa: B006
    """Two convs from ``x`` to ``y``, and more nodes behind them."""
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3)}
    given = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 8, n) for n, s in weights.items()]
    convs = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], name="second", pads=[1] * 4),
    ]
    sizes: list[int | str] = ["n", 3, _SIDE, _SIDE]
    graph = helper.make_graph(
        [*convs, *nodes], "g", [_value("x", sizes)], [_value(output, ["n", "c", "h", "w"])], [*given, *constants]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _behind(op: str, more: list[str] = [], constants: list[onnx.TensorProto] = [], **attributes: Any) -> Any:  # noqa: B006
    return model([helper.make_node(op, ["y", *more], ["z"], name="last", **attributes)], constants, "z")


def _summed(
    op: str, inputs: list[str], constants: list[onnx.TensorProto], cast: bool = False, **attributes: Any
) -> Any:
    """A constant that is large, of which only the sum counts."""
    nodes = [helper.make_node(op, inputs, ["k0"], name="large", **attributes)]
    if cast:
        nodes.append(helper.make_node("Cast", ["k0"], ["k1"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("ReduceSum", ["k1" if cast else "k0"], ["k2"], keepdims=0))
    return model([*nodes, helper.make_node("Add", ["y", "k2"], ["z"])], constants, "z")


def _doublings(start: str, times: int, axis: int) -> list[onnx.NodeProto]:
    names = [start, *(f"q{number}" for number in range(times))]
    return [helper.make_node("Concat", [a, a], [b], name=b, axis=axis) for a, b in pairwise(names)]


def _functions(depth: int, width: int) -> Any:
    """Each function calls the one below it several times: `width` to the power of `depth` nodes."""
    found = model([helper.make_node(f"F{depth - 1}", ["y"], ["z"], domain="f")], output="z")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for level in range(depth):
        names = ["a", *(f"t{number}" for number in range(width))]
        op, domain = (f"F{level - 1}", "f") if level else ("Relu", "")
        body = [helper.make_node(op, [a], [b], domain=domain) for a, b in pairwise(names)]
        body.append(helper.make_node("Identity", [names[-1]], ["b"]))
        found.functions.append(helper.make_function("f", f"F{level}", ["a"], ["b"], body, opsets))
    return found


def _recursive() -> Any:
    found = model([helper.make_node("R", ["y"], ["z"], domain="f")], output="z")
    body = [helper.make_node("R", ["a"], ["b"], domain="f")]
    found.functions.append(helper.make_function("f", "R", ["a"], ["b"], body, [helper.make_opsetid("f", 1)]))
    return found


def _conv_with(name: str, value: Any) -> Any:
    found = model()
    node = found.graph.node[2]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    return found


def _input_of(axis: int, size: int) -> Any:
    found = model()
    found.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    return found


def _loop() -> Any:
    body = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            _value("a"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), _value("b")],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    return model([helper.make_node("Loop", ["m", "true", "y"], ["z"], body=body)], [_scalar("m", 4), true], "z")


def _ifs(depth: int) -> Any:
    def branch(left: int) -> onnx.GraphProto:
        if not left:
            nodes = [helper.make_node("Identity", ["y"], ["o"])]
        else:
            nodes = [helper.make_node("If", ["true"], ["o"], then_branch=branch(left - 1), else_branch=branch(0))]
        return helper.make_graph(nodes, "b", [], [_value("o")])

    true = numpy_helper.from_array(np.array(True), "true")
    node = helper.make_node("If", ["true"], ["z"], then_branch=branch(depth), else_branch=branch(0))
    return model([node], [true], "z")


def models() -> dict[str, onnx.ModelProto]:
    """Return the models by what they ask for."""
    large = (64, 8, 4096, 4096)
    one = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one")
    scales = numpy_helper.from_array(np.array([1, 1, 1e6, 1e6], np.float32), "s")
    chain = [helper.make_node("Relu", [f"q{k}" if k else "y"], [f"q{k + 1}"], name=f"n{k}") for k in range(3000)]
    found: dict[str, onnx.ModelProto] = {
        "an Expand of 31 GiB": _behind("Expand", ["s"], [_ints("s", *large)]),
        "an Expand of constants": _summed("Expand", ["one", "s"], [_ints("s", *large), one]),
        "a ConstantOfShape": _summed("ConstantOfShape", ["s"], [_ints("s", *large)]),
        "a Tile": _behind("Tile", ["s"], [_ints("s", 1, 1, 100_000, 100_000)]),
        "a Range": _summed(
            "Range", ["a", "b", "d"], [_scalar("a", 0), _scalar("b", 10**11), _scalar("d", 1)], cast=True
        ),
        "a Resize": _behind("Resize", ["", "s"], [scales]),
        "a Pad": _behind("Pad", ["s"], [_ints("s", 0, 0, 65536, 65536, 0, 0, 65536, 65536)]),
        "a chain of Concats": model(_doublings("y", 40, 2), output="q39"),
        "a chain of Concats of channels": model(_doublings("y", 40, 1), output="q39"),
        "a chain of Concats of constants": model(
            [
                *_doublings("v", 24, 0),
                helper.make_node("ReduceSum", ["q23"], ["k"], keepdims=0),
                helper.make_node("Add", ["y", "k"], ["z"]),
            ],
            output="z",
        ),
        "functions in functions": _functions(10, 10),
        "a function that calls itself": _recursive(),
        "a pool of the whole plane": _behind("AveragePool", kernel_shape=[30_000] * 2, pads=[29_999] * 4),
        "branches in branches": _ifs(15),
        "a loop": _loop(),
        "a long chain": model(chain, output="q3000"),
        "a picture of 10^12 pixels": _input_of(2, 10**6),
        "a batch of 2^40": _input_of(0, 2**40),
        "a Split into more than there is": model(
            [helper.make_node("Split", ["y", "s"], ["z", "rest"], axis=2)], [_ints("s", 2**40, _SIDE - 2**40)], "z"
        ),
    }
    found["a picture of 10^12 pixels"].graph.input[0].type.tensor_type.shape.dim[3].dim_value = 10**6
    odd = {"strides": [65536] * 2, "pads": [65536] * 4, "dilations": [65536] * 2, "kernel_shape": [2**31] * 2}
    for name, value in {**odd, "group": 2**40}.items():
        found[f"a conv with {name} of {value}"] = _conv_with(name, value)
    return found


def external(folder: Path) -> dict[str, onnx.ModelProto]:
    """Return models whose weights lie in files that should not be read, by what is wrong with them.

    Makes a sparse file of 20 GiB, which takes no room, and a pipe.
    """
    with (folder / "big.bin").open("wb") as file:
        file.truncate(20 << 30)
    os.mkfifo(folder / "pipe")
    places: dict[str, dict[str, str]] = {
        "no length": {"location": "big.bin"},
        "no numbers": {"location": "big.bin", "offset": "x", "length": "y"},
        "negative numbers": {"location": "big.bin", "offset": "-5", "length": "-7"},
        "too many bytes": {"location": "big.bin", "offset": "0", "length": str(20 << 30)},
        "a NUL": {"location": "a\0b"},
        "a long name": {"location": "n" * 5000},
        "a folder above": {"location": "../../../etc/passwd"},
        "an absolute path": {"location": "/etc/passwd"},
        "a folder": {"location": "."},
        "no name": {"location": ""},
        "a pipe": {"location": "pipe"},
        "no location": {"offset": "0"},
    }
    found = {}
    for name, entries in places.items():
        made = model()
        tensor = made.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        found[name] = made
    return found
