"""Networks built node by node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Builder"]


class Builder:
    """Nodes and weights so far; ``open``: (tensor, channels) to go on from; the input is ``x``, (N, 3, side, side)."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.open: list[tuple[str, int]] = [("x", 3)]

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        number = len(self.nodes)
        made = [f"t{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, f"{op.lower()}{number}", **attributes))
        return made

    def one(self, op: str, *inputs: str, **attributes: object) -> str:
        """The single output of a node."""
        return self.node(op, *inputs, **attributes)[0]

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def floats(self, *values: float) -> str:
        return self.constant(np.array(values, np.float32))

    def drawn(self, *shape: int) -> str:
        spread = np.sqrt(max(int(np.prod(shape[1:])), 1)) if len(shape) > 1 else 2.0
        return self.constant((self.rng.standard_normal(shape) / spread).astype(np.float32))

    def pick(self) -> tuple[str, int]:
        """Recent tensors more often."""
        place = len(self.open) - 1 - int(self.rng.integers(0, min(3, len(self.open))))
        return self.open[place]

    def conv(self, source: str, inputs: int, outputs: int, size: int = 3, groups: int = 1, stride: int = 1) -> str:
        weight = self.drawn(outputs, inputs // groups, size, size)
        bias = [self.drawn(outputs)] if self.rng.random() < 0.7 else []
        return self.one("Conv", source, weight, *bias, pads=[size // 2] * 4, group=groups, strides=[stride] * 2)

    def norm(self, source: str, channels: int) -> str:
        scale, shift, mean = (self.drawn(channels) for _ in range(3))
        spread = self.constant(np.linspace(0.5, 2, channels).astype(np.float32))
        return self.one("BatchNormalization", source, scale, shift, mean, spread)

    def block(
        self,
        source: str,
        inputs: int,
        outputs: int,
        size: int = 3,
        groups: int = 1,
        stride: int = 1,
        activation: str | None = "Relu",
    ) -> str:
        """Conv, BatchNormalization, activation."""
        made = self.norm(self.conv(source, inputs, outputs, size, groups, stride), outputs)
        return made if activation is None else self.one(activation, made)

    def head(self, source: str, channels: int, classes: int) -> str:
        """Pool, flatten, dense."""
        flat = self.one("Flatten", self.one("GlobalAveragePool", source))
        return self.one("Gemm", flat, self.drawn(classes, channels), self.drawn(classes), transB=1)

    def finish(self, outputs: dict[str, list[int | str]], side: int, opset: int = 17) -> onnx.ModelProto:
        """A checked model with these outputs, tensor names to shapes."""
        inputs = [helper.make_tensor_value_info("x", 1, ["N", 3, side, side])]
        ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "net", inputs, ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        return model
