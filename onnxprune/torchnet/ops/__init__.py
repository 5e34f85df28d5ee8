"""ONNX operators as torch functions, one decorated function an operator; see `registry`."""

from onnxprune.torchnet.ops import elementwise, layers, layout, pooling, reduction, resampling, selection
from onnxprune.torchnet.ops.registry import Call, UnsupportedError, op_for, registered, torch_op

__all__ = [
    "Call",
    "UnsupportedError",
    "elementwise",
    "layers",
    "layout",
    "op_for",
    "pooling",
    "reduction",
    "registered",
    "resampling",
    "selection",
    "torch_op",
]
