"""One small network for every operator that has a rule."""

from __future__ import annotations

import numpy as np
import onnx

from .nets import around, build, ints

_TAIL = " p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"
_DENSE = {"w3": (5, 7), "b3": (5,)}
_CONVS = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 3, 3), "b2": (7,)}


def _unary() -> dict[str, onnx.ModelProto]:
    plain = [
        "Abs",
        "Neg",
        "Ceil",
        "Floor",
        "Exp",
        "Relu",
        "Sigmoid",
        "Tanh",
        "Elu",
        "Selu",
        "HardSigmoid",
        "LeakyRelu",
        "Softplus",
        "Softsign",
        "Sign",
        "Round",
    ]
    plain += ["ThresholdedRelu", "Erf", "Identity", "HardSwish", "Dropout"]
    nets = {op: around(f"k = {op}(h)") for op in plain}
    for op in ("Sqrt", "Log", "Reciprocal"):
        nets[op] = around(f"a = Abs(h) c = Add(a, one) k = {op}(c)", {"one": np.array(1, np.float32)})
    nets["Mish"] = around("k = Mish(h)", opset=18)
    nets["Gelu"] = around("k = Gelu(h)", opset=20)
    nets["Cast"] = around("a = Cast<to=11>(h) k = Cast<to=1>(a)")
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nets["Dropout with its mask"] = around("a, mask = Dropout(h) c = Cast<to=1>(mask) k = Mul(a, c)")
    nets["Clip"] = around("k = Clip(h, low, high)", limits)
    nets["PRelu"] = around("k = PRelu(h, slope)", {"slope": (6, 1, 1)})
    return nets


def _binary() -> dict[str, onnx.ModelProto]:
    positive = np.linspace(1, 2, 6, dtype=np.float32).reshape(6, 1, 1)
    nets = {
        op: around(f"k = {op}(h, c)", {"c": positive})
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")
    }
    nets["Pow"] = around("k = Pow(h, c)", {"c": np.array(2, np.float32)})
    nets["Mul by the whole shape"] = around("k = Mul(c, h)", {"c": (1, 6, 8, 8)})
    nets["two branches"] = around("g = Conv(x, v, c) k = Add(h, g)", {"v": (6, 3, 1, 1), "c": (6,)})
    return nets


def _spatial() -> dict[str, onnx.ModelProto]:
    pool = {
        op: around(f"k = {op}<kernel_shape=[2,2], strides=[2,2]>(h)") for op in ("MaxPool", "AveragePool", "LpPool")
    }
    pool["GlobalMaxPool"] = around("k = GlobalMaxPool(h)")
    pool["GlobalAveragePool"] = around("k = GlobalAveragePool(h)")
    for op in ("ReduceMean", "ReduceMax", "ReduceMin"):
        pool[op] = around(f"k = {op}<axes=[2,3]>(h)")
    pool["ReduceSum"] = around("k = ReduceSum(h, axes)", {"axes": ints(2, 3)})
    pool["ReduceMean without the axes"] = build(
        "h = Conv(x, w1, b1) z = Relu(h) f = ReduceMean<axes=[2,3], keepdims=0>(z) y = Gemm<transB=1>(f, w3, b3)",
        {"w1": (7, 3, 3, 3), "b1": (7,), **_DENSE},
    )
    pool["Pad"] = around("k = Pad(h, pads)", {"pads": ints(0, 0, 1, 2, 0, 0, 1, 0)})
    cut = {"starts": ints(1, 0), "ends": ints(7, 8), "axes": ints(2, 3), "steps": ints(1, 2)}
    pool["Slice"] = around("k = Slice(h, starts, ends, axes, steps)", cut)
    return pool


def _layout() -> dict[str, onnx.ModelProto]:
    dense = {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (5, 6 * 36), "b3": (5,)}
    head = "h = Conv(x, w1, b1) r = Relu(h) "
    return {
        "Flatten": build(head + "f = Flatten(r) y = Gemm<transB=1>(f, w3, b3)", dense),
        "Reshape": build(head + "f = Reshape(r, to) y = Gemm<transB=1>(f, w3, b3)", {**dense, "to": ints(-1, 216)}),
        "Reshape with an open size": build(
            head + "f = Reshape(r, to) y = Gemm<transB=1>(f, w3, b3)", {**dense, "to": ints(0, -1)}
        ),
        "Transpose": build(
            head
            + "t = Transpose<perm=[0,2,3,1]>(r) m = MatMul(t, w3) a = Add(m, b3) "
            + "y = ReduceMean<axes=[1,2], keepdims=0>(a)",
            {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (6, 5), "b3": (5,)},
        ),
        "Squeeze": build(
            head + "p = GlobalAveragePool(r) f = Squeeze(p, axes) y = Gemm(f, w3, b3)",
            {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (6, 5), "b3": (5,), "axes": ints(2, 3)},
        ),
        "Unsqueeze": build(
            head + "q = ReduceMean<axes=[2,3], keepdims=0>(r) u = Unsqueeze(q, axes) z = Conv(u, w2, b2)" + _TAIL,
            {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 1, 1), "b2": (7,), "axes": ints(2, 3), **_DENSE},
        ),
        "Concat": build(
            "a = Conv<pads=[1,1,1,1]>(x, w1, b1) b = Conv(x, v, c) m = Concat<axis=1>(a, b) r = Relu(m) "
            "z = Conv(r, w2, b2)" + _TAIL,
            {"w1": (6, 3, 3, 3), "b1": (6,), "v": (4, 3, 1, 1), "c": (4,), "w2": (7, 10, 3, 3), "b2": (7,), **_DENSE},
        ),
    }


def _layers() -> dict[str, onnx.ModelProto]:
    head = "h = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(h) "
    six = {"w1": (6, 3, 3, 3), "b1": (6,)}
    return {
        "Conv": around("k = Relu(h)"),
        "Conv in two groups": build(
            head + "z = Conv<group=2>(r, w2, b2)" + _TAIL,
            {**six, "w2": (8, 3, 3, 3), "b2": (8,), "w3": (5, 8), "b3": (5,)},
        ),
        "Conv between grouped convs": build(
            head + "s = Conv<group=2>(r, v, c) t = Relu(s) z = Conv<group=2>(t, w2, b2)" + _TAIL,
            {**six, "v": (8, 3, 1, 1), "c": (8,), "w2": (6, 4, 3, 3), "b2": (6,), "w3": (5, 6), "b3": (5,)},
        ),
        "depthwise Conv": build(
            head + "d = Conv<group=6, pads=[1,1,1,1]>(r, v, c) e = Relu(d) z = Conv(e, w2, b2)" + _TAIL,
            {**_CONVS, "v": (6, 1, 3, 3), "c": (6,), **_DENSE},
        ),
        "depthwise Conv with a multiplier": build(
            head + "d = Conv<group=6>(r, v, c) e = Relu(d) z = Conv(e, w2, b2)" + _TAIL,
            {**six, "v": (12, 1, 3, 3), "c": (12,), "w2": (7, 12, 3, 3), "b2": (7,), **_DENSE},
        ),
        "Gemm": build(
            "f = Flatten(x) h = Gemm<transB=1>(f, w1, b1) r = Relu(h) g = Gemm<alpha=0.5, beta=2.0>(r, w2, b2) "
            "y = Relu(g)",
            {"w1": (9, 192), "b1": (9,), "w2": (9, 5), "b2": (5,)},
        ),
        "MatMul": build(
            "f = Flatten(x) h = MatMul(f, w1) a = Add(h, b1) r = Relu(a) y = MatMul(r, w2)",
            {"w1": (192, 9), "b1": (9,), "w2": (9, 5)},
        ),
        "BatchNormalization": around(
            "a = Relu(h) k = BatchNormalization(a, s, t, m, v)",
            {"s": (6,), "t": (6,), "m": (6,), "v": np.linspace(0.5, 2, 6, dtype=np.float32)},
        ),
    }


def _whole() -> dict[str, onnx.ModelProto]:
    return {
        "residual block with a shortcut that shrinks": build(
            "s = Conv<pads=[1,1,1,1]>(x, w0, b0) a = Relu(s) "
            "h = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w1, b1) r = Relu(h) "
            "g = Conv<pads=[1,1,1,1]>(r, w2, b2) d = Conv<strides=[2,2]>(a, v, c) m = Add(g, d) z = Relu(m)" + _TAIL,
            {
                "w0": (4, 3, 3, 3),
                "b0": (4,),
                "w1": (6, 4, 3, 3),
                "b1": (6,),
                "w2": (7, 6, 3, 3),
                "b2": (7,),
                "v": (7, 4, 1, 1),
                "c": (7,),
                **_DENSE,
            },
        ),
        "dense block": build(
            "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, v, c) s = Relu(b) "
            "m = Concat<axis=1>(r, s) z = Conv(m, w2, b2)" + _TAIL,
            {"w1": (6, 3, 3, 3), "b1": (6,), "v": (4, 6, 3, 3), "c": (4,), "w2": (7, 10, 3, 3), "b2": (7,), **_DENSE},
        ),
        "squeeze and excite": around(
            "q = GlobalAveragePool(h) a = Conv(q, v1, c1) b = Relu(a) c = Conv(b, v2, c2) e = Sigmoid(c) k = Mul(h, e)",
            {"v1": (2, 6, 1, 1), "c1": (2,), "v2": (6, 2, 1, 1), "c2": (6,)},
        ),
    }


CASES: dict[str, onnx.ModelProto] = {
    **_unary(),
    **_binary(),
    **_spatial(),
    **_layout(),
    **_layers(),
    **_whole(),
}
