"""One small network for every operator that has a rule."""

from __future__ import annotations

import numpy as np
import onnx

from .nets import around, build, ints

_TAIL = " p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB=1>(f, w3, b3)"
_DENSE = {"w3": (5, 7), "b3": (5,)}
_WITHIN_ONE = ("Tan", "Asin", "Acos", "Atanh")
_CONVS = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (7, 6, 3, 3), "b2": (7,)}


def _float(value: float) -> np.ndarray:
    return np.array(value, np.float32)


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
    plain += ["Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh", "Celu"]
    nets = {op: around(f"k = {op}(h)") for op in plain}
    nets |= {op: around(f"a = Tanh(h) b = Mul(a, half) k = {op}(b)", {"half": _float(0.5)}) for op in _WITHIN_ONE}
    nets["Acosh"] = around("a = Abs(h) b = Add(a, two) k = Acosh(b)", {"two": _float(2)})
    nets["Not"] = around("a = Greater(h, zero) b = Not(a) k = Cast<to=1>(b)", {"zero": _float(0)})
    nets |= {op: around(f"a = {op}(h) b = Cast<to=1>(a) k = Add(b, h)") for op in ("IsNaN", "IsInf")}
    for op in ("Sqrt", "Log", "Reciprocal"):
        nets[op] = around(f"a = Abs(h) c = Add(a, one) k = {op}(c)", {"one": np.array(1, np.float32)})
    nets["Mish"] = around("k = Mish(h)", opset=18)
    nets["Gelu"] = around("k = Gelu(h)", opset=20)
    nets["Swish"] = around("k = Swish(h)", opset=24, ir_version=10)
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
    for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"):
        nets[op] = around(f"a = {op}(h, c) k = Where(a, h, d)", {"c": positive / 8, "d": positive})
    for op in ("And", "Or", "Xor"):
        nets[op] = around(
            f"a = Less(h, c) b = Greater(h, d) e = {op}(a, b) k = Cast<to=1>(e)", {"c": positive, "d": (6, 1, 1)}
        )
    nets["Mod"] = around("k = Mod<fmod=1>(h, c)", {"c": positive})
    chosen = np.array([True, False] * 3).reshape(6, 1, 1)
    nets["Where by channel"] = around("k = Where(m, h, c)", {"m": chosen, "c": positive})
    scale = {"s": _float(0.05), "q": np.array(3, np.uint8)}
    per_axis = {"s": np.linspace(0.02, 0.1, 6, dtype=np.float32), "q": np.arange(6).astype(np.uint8)}
    both = "a = QuantizeLinear{0}(h, s, q) k = DequantizeLinear{0}(a, s, q)"
    nets["QuantizeLinear, DequantizeLinear"] = around(both.format(""), scale)
    nets["QuantizeLinear, DequantizeLinear by channel"] = around(both.format("<axis=1>"), per_axis)
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
    for op in ("ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare", "ReduceLogSumExp"):
        pool[op] = around(f"k = {op}<axes=[2,3]>(h)")
    pool["ReduceLogSum"] = around("a = Exp(h) k = ReduceLogSum<axes=[2,3]>(a)")
    pool["GlobalLpPool"] = around("k = GlobalLpPool(h)")
    for op in ("ArgMax", "ArgMin"):
        pool[op] = around(f"a = {op}<axis=3>(h) k = Cast<to=1>(a)")
    pool["ArgMax over channels"] = around("a = ArgMax<axis=1>(h) b = Cast<to=1>(a) k = Mul(h, b)")
    for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        pool[op] = around(f"k = {op}<axis=3>(h)")
    pool["Softmax over channels"] = around("k = Softmax<axis=1>(h)")
    pool["Softmax of old"] = around("k = Softmax<axis=2>(h)", opset=11, ir_version=6)
    pool["MeanVarianceNormalization"] = around("k = MeanVarianceNormalization<axes=[2,3]>(h)")
    pool["MeanVarianceNormalization over channels"] = around("k = MeanVarianceNormalization<axes=[1]>(h)")
    pool["CumSum"] = around("k = CumSum(h, axis)", {"axis": np.array(2, np.int64)})
    grid = {"grid": np.linspace(-1, 1, 96, dtype=np.float32).reshape(1, 6, 8, 2)}
    pool["GridSample"] = around("k = GridSample(h, grid)", grid, batch=1)
    twice = {"scales": np.array([1, 1, 2, 2], np.float32)}
    pool["Resize by scales"] = around('k = Resize<mode="linear">(h, "", scales)', twice)
    pool["Resize to sizes"] = around('k = Resize(h, "", "", sizes)', {"sizes": ints(2, 6, 5, 9)}, batch=2)
    pool["Resize to computed sizes"] = around(
        "s = Shape(h) nc = Slice(s, i0, i2, i0) hw = Slice(s, i2, i4, i0) d = Mul(hw, i2) t = Concat<axis=0>(nc, d) "
        'k = Resize(h, "", "", t)',
        {"i0": ints(0), "i2": ints(2), "i4": ints(4)},
    )
    pool["Upsample"] = around("k = Upsample(h, scales)", twice, opset=9, ir_version=6)
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
        "Flatten of channels last": build(
            head + "t = Transpose<perm=[0,2,3,1]>(r) f = Flatten(t) y = MatMul(f, w3)",
            {"w1": (6, 3, 3, 3), "b1": (6,), "w3": (216, 5)},
        ),
        "Reshape of channels between": build(
            head + "t = Transpose<perm=[0,2,1,3]>(r) f = Reshape(t, to) y = Gemm<transB=1>(f, w3, b3)",
            {**dense, "to": ints(-1, 216)},
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
        "Split": around("a, b = Split<axis=1>(h) k = Concat<axis=1>(b, a)"),
        "Split into given sizes": around(
            "a, b = Split<axis=1>(h, sizes) c = Relu(a) k = Concat<axis=1>(c, b)", {"sizes": ints(4, 2)}
        ),
        "Split of old": around("a, b = Split<axis=1, split=[2,4]>(h) k = Concat<axis=1>(b, a)", opset=11, ir_version=6),
        "Split into a number": around("a, b = Split<axis=1, num_outputs=2>(h) k = Concat<axis=1>(b, a)", opset=18),
        "Split of space": around("a, b = Split<axis=2>(h) k = Add(a, b)"),
        "gated halves": around("a, b = Split<axis=1>(h) c = Sigmoid(b) d = Mul(a, c) k = Concat<axis=1>(d, d)"),
        "Slice of channels": around(
            "a = Slice(h, i0, i2, i1) b = Slice(h, i2, most, i1) k = Concat<axis=1>(b, a)",
            {"i0": ints(0), "i1": ints(1), "i2": ints(2), "most": ints(2**31 - 1)},
        ),
        "Slice of channels from the end": around(
            "a = Slice(h, i0, m, i1) b = Slice(h, m, most, i1) k = Concat<axis=1>(b, a)",
            {"i0": ints(0), "i1": ints(1), "m": ints(-2), "most": ints(2**31 - 1)},
        ),
        "Slice with a step": around(
            "a = Slice(h, i0, most, i1, i2) b = Slice(h, i1, most, i1, i2) k = Concat<axis=1>(a, b)",
            {"i0": ints(0), "i1": ints(1), "i2": ints(2), "most": ints(2**31 - 1)},
        ),
        "Gather of channels": around("k = Gather<axis=1>(h, index)", {"index": ints(3, 0, 5, 1, 2, -2)}),
        "Gather of some channels twice": around(
            "a = Gather<axis=1>(h, index) k = Concat<axis=1>(a, a)", {"index": ints(3, 0, 3)}
        ),
        "channel shuffle": around(
            "a = Reshape(h, to) b = Transpose<perm=[0,2,1,3,4]>(a) k = Reshape(b, back)",
            {"to": ints(0, 2, 3, 8, 8), "back": ints(0, 6, 8, 8)},
        ),
        "channel shuffle with an open batch": around(
            "a = Reshape(h, to) b = Transpose<perm=[0,2,1,3,4]>(a) k = Reshape(b, back)",
            {"to": ints(-1, 3, 2, 8, 8), "back": ints(-1, 6, 8, 8)},
        ),
        "Gather of space": around(
            "a = Gather<axis=2>(h, one) k = Unsqueeze(a, axes)", {"one": np.array(1, np.int64), "axes": ints(2)}
        ),
        "Pad of channels": build(
            "h = Conv<pads=[1,1,1,1]>(x, w1, b1) a = Relu(h) e = Pad(a, pads) g = Conv<pads=[1,1,1,1]>(a, v, c) "
            "m = Add(e, g) z = Conv(m, w2, b2)" + _TAIL,
            {
                "w1": (4, 3, 3, 3),
                "b1": (4,),
                "v": (7, 4, 3, 3),
                "c": (7,),
                "w2": (7, 7, 3, 3),
                "b2": (7,),
                "pads": ints(0, 1, 0, 0, 0, 2, 0, 0),
                **_DENSE,
            },
        ),
        "Expand": around("a = GlobalAveragePool(h) k = Expand(a, shape)", {"shape": ints(1, 6, 8, 8)}),
        "Tile": around("k = Tile(h, times)", {"times": ints(1, 1, 2, 1)}),
        "Tile of channels": around("k = Tile(h, times)", {"times": ints(1, 2, 1, 1), "w2": (7, 12, 3, 3)}),
        "DepthToSpace": around("k = DepthToSpace<blocksize=2>(h)", {"w1": (24, 3, 3, 3), "b1": (24,)}),
        "DepthToSpace channels first": around(
            'k = DepthToSpace<blocksize=2, mode="CRD">(h)', {"w1": (24, 3, 3, 3), "b1": (24,)}
        ),
        "SpaceToDepth": around("k = SpaceToDepth<blocksize=2>(h)", {"w2": (7, 24, 3, 3)}),
        "TopK": around("k, i = TopK<axis=3>(h, three)", {"three": ints(3)}),
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
        "ConvTranspose": around(
            "k = ConvTranspose<strides=[2,2]>(h, v, c)", {"v": (6, 4, 2, 2), "c": (4,), "w2": (7, 4, 3, 3)}
        ),
        "depthwise ConvTranspose": around(
            "k = ConvTranspose<strides=[2,2], group=6>(h, v, c)", {"v": (6, 1, 2, 2), "c": (6,)}
        ),
        "InstanceNormalization": around("k = InstanceNormalization(h, s, t)", {"s": (6,), "t": (6,)}),
        "GroupNormalization": around(
            "k = GroupNormalization<num_groups=2>(h, s, t)", {"s": (6,), "t": (6,)}, opset=21, ir_version=10
        ),
        "LayerNormalization": around("k = LayerNormalization<axis=2>(h, s)", {"s": (8, 8)}),
        "LayerNormalization over channels": around(
            "a = Transpose<perm=[0,2,3,1]>(h) b = LayerNormalization(a, s) k = Transpose<perm=[0,3,1,2]>(b)",
            {"s": (6,)},
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
        "head on two maps": build(
            "h = Conv<pads=[1,1,1,1]>(x, w1, b1) a = Relu(h) g = Conv<strides=[2,2]>(a, v, c) b = Relu(g) "
            "p = Conv(a, w2, b2) r = Relu(p) q = Conv<dilations=[2,2], pads=[2,2,2,2]>(b, w2, b2) s = Relu(q) "
            "m = GlobalAveragePool(r) n = GlobalAveragePool(s) z = Add(m, n) "
            "f = Flatten(z) y = Gemm<transB=1>(f, w3, b3)",
            {"w1": (6, 3, 3, 3), "b1": (6,), "v": (6, 6, 1, 1), "c": (6,), "w2": (7, 6, 3, 3), "b2": (7,), **_DENSE},
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
