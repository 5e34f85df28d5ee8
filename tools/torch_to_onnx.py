"""Write a torch module as an ONNX model, layer by layer, with every BN a node of its own.

torch's own exporters fuse BN into the convs unless told to export for training, and what they write changes
from version to version. The nets of this folder have eight types of layers: a table with one function a
type is all it takes, and a node's name is the layer's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx
from digit_nets import Add
from onnx import helper, numpy_helper
from torch import fx, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

__all__ = ["IR_VERSION", "OPSET", "to_onnx"]

OPSET = 17
IR_VERSION = 8
"""The IR that came with opset 17: older onnxruntimes read it too."""


@dataclass(frozen=True)
class Operator:
    """What a layer becomes: the ONNX operator, its weights in the order of its inputs, its attributes."""

    kind: str
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def to_onnx(
    model: nn.Module,
    *,
    name: str,
    description: str,
    input_shape: Sequence[int],
    classes: int,
    producer: str = "train_digits",
) -> onnx.ModelProto:
    """Convert a module in evaluation mode with one input, ``input``, and one output, ``logits``.

    ``input_shape`` is without the batch axis, which becomes the symbolic ``N``; ``logits`` is (N, classes).
    """
    values: dict[fx.Node, str] = {}
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for step in _LayerTracer().trace(model).nodes:
        if step.op == "placeholder":
            values[step] = "input"
        if step.op != "call_module":
            continue
        layer = model.get_submodule(step.target)
        operator = OPERATORS[type(layer)](layer)
        weights = {f"{step.target}.{key}": tensor for key, tensor in operator.weights.items()}
        inputs = [*(values[argument] for argument in step.args), *weights]
        values[step] = f"{step.target}.output"
        nodes.append(helper.make_node(operator.kind, inputs, [values[step]], name=step.target, **operator.attributes))
        initializers += [numpy_helper.from_array(w.detach().contiguous().numpy(), key) for key, w in weights.items()]
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", *input_shape])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", classes])],
        initializers,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=producer,
        doc_string=description,
    )


def _conv(layer: nn.Conv2d) -> Operator:
    attributes = {
        "kernel_shape": layer.kernel_size,
        "strides": layer.stride,
        "pads": [*layer.padding, *layer.padding],
        "dilations": layer.dilation,
        "group": layer.groups,
    }
    return Operator("Conv", {"weight": layer.weight}, attributes)


def _batch_norm(layer: nn.BatchNorm2d) -> Operator:
    weights = {
        "weight": layer.weight,
        "bias": layer.bias,
        "running_mean": layer.get_buffer("running_mean"),
        "running_var": layer.get_buffer("running_var"),
    }
    return Operator("BatchNormalization", weights, {"epsilon": layer.eps})


def _max_pool(layer: nn.MaxPool2d) -> Operator:
    attributes = {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
    return Operator("MaxPool", attributes=attributes)


def _linear(layer: nn.Linear) -> Operator:
    return Operator("Gemm", {"weight": layer.weight, "bias": layer.bias}, {"transB": 1})


OPERATORS: dict[type, Callable[[Any], Operator]] = {
    Add: lambda _: Operator("Add"),
    nn.AdaptiveAvgPool2d: lambda _: Operator("GlobalAveragePool"),
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.Flatten: lambda _: Operator("Flatten", attributes={"axis": 1}),
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: lambda _: Operator("Relu"),
}
"""The layers that can be written, as the nets here use them: convs without bias, average pools to 1 x 1."""


class _LayerTracer(fx.Tracer):
    """Stops at the layers that have an operator, and goes through all others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in OPERATORS
