"""What does not depend on the inputs is computed on loading: weights, sizes, branches; and what must not be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from onnxprune.graph.edit.weights import ensure_biases
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.save import finished_model

RNG = np.random.default_rng(0)


def model_of(text: str, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    onnx.checker.check_model(model)
    return model


def outputs_of(model: onnx.ModelProto, feeds: dict) -> list:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_equal(model: onnx.ModelProto, **feeds) -> onnx.ModelProto:
    """Load, fold and save a model, and compare its outputs with the original's; return the saved model."""
    net, _ = fold(load(model)[0])
    saved = finished_model(ensure_biases(net))
    for wanted, found in zip(outputs_of(model, feeds), outputs_of(saved, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return saved


def x(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_weight_normalisation_is_computed():
    model = model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 5, 8, 8] y) {
            n = ReduceL2 <axes = [1, 2, 3]> (v)
            unit = Div (v, n)
            w = Mul (unit, g)
            y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        }""",
        v=x(5, 3, 3, 3),
        g=x(5, 1, 1, 1),
        b=x(5),
    )
    saved = assert_equal(model, x=x(1, 3, 8, 8))
    assert [node.op_type for node in saved.graph.node] == ["Conv"]


def test_what_is_random_or_quantized_or_much_larger_than_its_inputs_is_left():
    model = model_of(
        """net (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z, float[64, 2048, 8] q) {
            d = DequantizeLinear (i8, scale)
            y = Conv <pads = [1, 1, 1, 1]> (x, d)
            k = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = RandomNormalLike (w)
            z = Conv <pads = [1, 1, 1, 1]> (x, r)
            q = Expand (one, large)
        }""",
        i8=RNG.integers(-100, 100, (4, 4, 3, 3)).astype(np.int8),
        scale=np.float32(0.01),
        w=x(4, 4, 3, 3),
        one=np.ones(1, np.float32),
        large=np.array([64, 2048, 8]),
    )
    net, _ = load(model)
    assert {"DequantizeLinear", "RandomNormalLike", "Expand"} <= {node.op for node in net.nodes}


def test_several_results_of_one_node_are_computed():
    model = model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
            a, c = Split <axis = 0> (w, two)
            h = Conv <pads = [1, 1, 1, 1]> (x, a)
            y = Conv <pads = [1, 1, 1, 1]> (h, c)
        }""",
        w=x(7, 3, 3, 3),
        two=np.array([3, 4]),
    )
    assert [node.op_type for node in assert_equal(model, x=x(1, 3, 8, 8)).graph.node] == ["Conv", "Conv"]


CONDITION = """net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w)
    s = Shape (h)
    one = Gather (s, zero)
    is = Equal (one, wanted)
    r = If (is) <
        then_branch = yes () => (float[1, 4, 8, 8] a) { twice = Add (h, h)  a = Mul (twice, k) },
        else_branch = no () => (float[1, 4, 8, 8] c) { c = Relu (h) }
    >
    twice = Relu (r)
    y = Sub (twice, k)
}"""


@pytest.mark.parametrize("wanted", [1, 2])
def test_the_branch_that_a_constant_condition_takes_is_inlined(wanted):
    """Names inside may be those of the outer graph, and what it reads of the outer graph keeps its name."""
    constants = {"w": x(4, 3, 3, 3), "zero": np.array(0), "wanted": np.array(wanted), "k": np.float32(3)}
    saved = assert_equal(model_of(CONDITION, **constants), x=x(1, 3, 8, 8))
    assert "If" not in {node.op_type for node in saved.graph.node}
    assert ("Add" in {node.op_type for node in saved.graph.node}) == (wanted == 1)
    assert "w" in {tensor.name for tensor in saved.graph.initializer}


def test_a_branch_in_a_branch_and_a_branch_that_hands_on_an_outer_tensor():
    inner = """If (yes) <
        then_branch = b () => (float[1, 4, 8, 8] deep) { deep = If (yes) <
            then_branch = c () => (float[1, 4, 8, 8] e) { e = Identity (h) },
            else_branch = d () => (float[1, 4, 8, 8] f) { f = Neg (h) } > },
        else_branch = g () => (float[1, 4, 8, 8] i) { i = Neg (h) } >"""
    model = model_of(
        f"""net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {{
            h = Conv <pads = [1, 1, 1, 1]> (x, w)
            y = {inner}
        }}""",
        w=x(4, 3, 3, 3),
        yes=np.array(True),
    )
    assert "If" not in {node.op_type for node in assert_equal(model, x=x(1, 3, 8, 8)).graph.node}


@pytest.mark.parametrize(("name", "inlined"), [("own", True), ("later", False)])
def test_a_body_in_a_branch_that_reads_what_the_branch_makes(name, inlined):
    """Which may have a name of the outer graph: then the branch stays one."""
    model = model_of(
        f"""net (float[1, 3, 8, 8] x, bool[1] open) => (float[1, 4, 8, 8] y) {{
            h = Conv <pads = [1, 1, 1, 1]> (x, w)
            g = Relu (h)
            r = If (yes) <
                then_branch = b () => (float[1, 4, 8, 8] out) {{ {name} = Neg (g)  out = If (open) <
                    then_branch = c () => (float[1, 4, 8, 8] e) {{ e = Abs ({name}) }},
                    else_branch = d () => (float[1, 4, 8, 8] f) {{ f = Neg ({name}) }} > }},
                else_branch = k () => (float[1, 4, 8, 8] i) {{ i = Neg (g) }} >
            later = Neg (r)
            y = Add (later, h)
        }}""",
        w=x(4, 3, 3, 3),
        yes=np.array(True),
    )
    saved = assert_equal(model, x=x(1, 3, 8, 8), open=np.array([False]))
    assert [node.op_type for node in saved.graph.node].count("If") == 1
    assert len(saved.graph.node) == (7 if inlined else 5)


def test_names_of_an_inlined_branch_never_come_to_mean_those_of_another_body():
    """Two Ifs whose branches have constants and tensors of one name: one is inlined, the other stays."""
    model = model_of(
        """net (float[1, 3, 8, 8] x, bool[1] open) => (float[1, 4, 8, 8] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = If (yes) <
                then_branch = a () => (float[1, 4, 8, 8] o1) {
                    k = Constant <value_float = 2.0> ()  p = Mul (h, k)  o1 = Relu (p) },
                else_branch = b () => (float[1, 4, 8, 8] o2) { o2 = Neg (h) } >
            y = If (open) <
                then_branch = c () => (float[1, 4, 8, 8] o3) {
                    k = Constant <value_float = 7.0> ()  p = Mul (r, k)  o3 = Relu (p) },
                else_branch = d () => (float[1, 4, 8, 8] o4) { o4 = Neg (r) } >
        }""",
        w=x(4, 3, 3, 3),
        yes=np.array(True),
    )
    for taken in (False, True):
        saved = assert_equal(model, x=x(1, 3, 8, 8), open=np.array([taken]))
    assert [node.op_type for node in saved.graph.node].count("If") == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_constants_means_what_its_operator_set_says(axis):
    """Before opset 13 all axes from that one on were one."""
    model = model_of(
        f"""net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {{
            s = Softmax <axis = {axis}> (v)
            y = Conv (x, s)
        }}""",
        opset=11,
        v=x(4, 3, 3, 3),
    )
    net, _ = load(plus_conv(model))
    assert "Softmax" in {node.op for node in net.nodes}


def plus_conv(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with another layer, since one of constant weights is asked for."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.node.add(op_type="Conv", input=["y", "extra"], output=["z"], name="extra_conv")
    wider.graph.initializer.append(numpy_helper.from_array(x(2, 4, 1, 1), "extra"))
    wider.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("z", 1, [1, 2, 6, 6]))
    return wider


def test_an_empty_list_of_axes_means_the_same_as_none():
    text = "net (float[1, 3, 8, 8] x) => (float[4, 6, 6] y) { h = Conv (x, w)  y = Squeeze (h) }"
    model = model_of(text, opset=11, w=x(4, 3, 3, 3))
    model.graph.node[1].attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    assert_equal(model, x=x(1, 3, 8, 8))


def half_stored(scale: float = 1.0) -> onnx.ModelProto:
    return model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {
            w = Cast <to = 1> (w16)
            b = Cast <to = 1> (b16)
            h = Conv (x, w, b)
            y = Relu (h)
        }""",
        w16=(scale * x(4, 3, 3, 3)).astype(np.float16),
        b16=x(4).astype(np.float16),
    )


def test_weights_stored_in_float16_are_stored_so_again():
    model = half_stored()
    saved = assert_equal(model, x=x(1, 3, 8, 8))
    kinds = {tensor.name: tensor.data_type for tensor in saved.graph.initializer}
    assert [kind for name, kind in kinds.items() if name.startswith("w")] == [onnx.TensorProto.FLOAT16]
    again = assert_equal(saved, x=x(1, 3, 8, 8))
    assert again.ByteSize() == saved.ByteSize()


def test_what_float16_cannot_hold_is_stored_as_it_is():
    model = half_stored()
    net, _ = load(model)
    draft = net.draft()
    draft.tensors()["w"].values = draft.tensors()["w"].values * 1e6
    saved = finished_model(draft.done())
    assert {tensor.data_type for tensor in saved.graph.initializer if tensor.name == "w"} == {onnx.TensorProto.FLOAT}


def test_padding_that_is_computed_from_a_fixed_size_is_known():
    """The SAME padding that TensorFlow ports compute from Shape, through floats, a Clip and a reversed Slice."""
    model = model_of(
        """net (float[1, 3, 9, 9] x) => (float[1, 4, 5, 5] y) {
            s = Shape (x)
            i = Gather (s, two)
            f = Cast <to = 1> (i)
            half = Div (f, halves)
            up = Ceil (half)
            less = Sub (up, ones)
            span = Mul (less, halves)
            all = Add (span, kernel)
            more = Sub (all, f)
            pad = Clip (more, least)
            p = Cast <to = 7> (pad)
            before = Div (p, two)
            after = Sub (p, before)
            b1 = Unsqueeze (before, first)
            a1 = Unsqueeze (after, first)
            four = Concat <axis = 0> (b1, a1, b1, a1)
            zeros = ConstantOfShape <value = int64[1] {0}> (count)
            eight = Concat <axis = 0> (four, zeros)
            pairs = Reshape (eight, shape)
            back = Slice (pairs, start, end, first, step)
            columns = Transpose <perm = [1, 0]> (back)
            pads = Reshape (columns, flat)
            padded = Pad (x, pads)
            y = Conv <strides = [2, 2]> (padded, w)
        }""",
        w=x(4, 3, 3, 3),
        two=np.array(2),
        halves=np.float32(2),
        ones=np.float32(1),
        kernel=np.float32(3),
        least=np.float32(0),
        first=np.array([0]),
        count=np.array([4]),
        shape=np.array([-1, 2]),
        start=np.array([-1]),
        end=np.array([-100]),
        step=np.array([-1]),
        flat=np.array([-1]),
    )
    saved = assert_equal(model, x=x(1, 3, 9, 9))
    assert [node.op_type for node in saved.graph.node] == ["Pad", "Conv"]


def test_a_reshape_that_copies_its_first_axes_is_followed_whatever_the_open_sizes_are():
    from onnxprune.graph.channels.groups import channel_map

    model = model_of(
        """net (float[n, 3, h, w] x) => (float[n, p, 10] y) {
            c = Conv (x, k)
            r = Relu (c)
            s = Shape (r)
            front = Slice (s, zero, two)
            target = Concat <axis = 0> (front, rest)
            f = Reshape (r, target)
            t = Transpose <perm = [0, 2, 1]> (f)
            y = MatMul (t, m)
        }""",
        k=x(8, 3, 3, 3),
        m=x(8, 10),
        zero=np.array([0]),
        two=np.array([2]),
        rest=np.array([-1]),
    )
    assert [group.size for group in channel_map(load(model)[0]).prunable] == [8]


def test_nodes_out_of_order_are_sorted():
    model = model_of(
        """net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) { h = Conv (x, w)  r = Relu (h)  y = Neg (r) }""",
        w=x(4, 3, 3, 3),
    )
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [node.op for node in load(model)[0].nodes] == ["Conv", "Relu", "Neg"]


def test_an_output_without_a_shape_gets_it():
    model = model_of(
        "net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) { h = Conv (x, w)  y = Relu (h) }", w=x(4, 3, 3, 3)
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert list(load(model)[0].graph.outputs[0].shape) == [1, 4, 6, 6]
    model.graph.output[0].ClearField("type")
    assert list(load(model)[0].graph.outputs[0].shape) == [1, 4, 6, 6]


def test_lines_for_what_cannot_be_loaded():
    from onnxprune.errors import ModelError

    model = model_of(
        "net (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) { h = Conv (x, w)  y = Relu (h) }", w=x(4, 3, 3, 3)
    )
    loop = onnx.ModelProto()
    loop.CopyFrom(model)
    loop.graph.node[0].input[0] = "y"
    with pytest.raises(ModelError, match="reads what follows from its own output"):
        load(loop)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no type or shape"):
        load(bare)
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    fused.graph.node[0].CopyFrom(helper.make_node("FusedConv", ["x", "w"], ["h"], name="c", domain="com.microsoft"))
    fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match="onnxruntime has optimised this file"):
        load(fused)


OPEN_INSIDE = """net (float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 2, 6, 6] z, float[N, 4, 6, 6] u) {
    h = Conv (x, w1, b1)
    r = Relu (h)
    v = Conv (x, w5, b5)
    t = Relu (v)
    u = Conv (t, w6)
    m = ReduceMax <keepdims = 0> (x)
    one = Clip (m, low, low)
    i = Cast <to = 7> (one)
    side = Unsqueeze (i, first)
    ends = Concat <axis = 0> (side, side)
    part = Slice (r, starts, ends, axes)
    g = Conv (part, w2, b2)
    gr = Relu (g)
    p = GlobalAveragePool (gr)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
    k = Mul (w4, m)
    z = Conv (r, k)
}"""


def test_a_layer_of_unknown_size_pins_itself_and_computed_weights_are_listed():
    """How much is sliced follows from the data, so that the size of a conv is unknown; another has computed weights."""
    import onnxprune
    from onnxprune import Options

    weights = {"w1": x(16, 3, 3, 3), "b1": x(16), "w2": x(12, 16, 3, 3), "b2": x(12), "w3": x(5, 12), "b3": x(5)}
    weights |= {"w5": x(8, 3, 3, 3), "b5": x(8), "w6": x(4, 8, 1, 1)}
    model = model_of(
        OPEN_INSIDE,
        **weights,
        w4=x(2, 16, 1, 1),
        low=np.float32(5),
        first=np.array([0]),
        starts=np.zeros(2, np.int64),
        axes=np.array([2, 3]),
    )
    found = onnxprune.inspect(model)
    layers = {layer.weight: layer for layer in found.layers}
    assert {weight for weight, layer in layers.items() if not layer.macs} == {(12, 16, 3, 3), (5, 12)}
    assert "weights are computed" in layers[2, 16, 1, 1].reason
    assert any("not counted" in note for note in found.notes)
    feeds = {"x": x(30, 3, 8, 8)}
    result = onnxprune.prune(model, data=feeds, keep_ratio=0.5, options=Options(bench=False, recipe="prune"))
    assert any("not counted" in note.text for note in result.report.notes)
    kept = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    assert (kept["w1"][0], kept["w2"], kept["w5"][0]) == (16, (12, 16, 3, 3), 4)
