"""Commands on models that end in what cannot be compared or run, and on files that can only be run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.model.test_ends import detector

import onnxprune
from onnxprune import Options, RecoverOptions, cli
from onnxprune.commands.compare import CompareOptions
from onnxprune.errors import ModelError, PlanError
from onnxprune.graph.channels.forms import Form
from onnxprune.planning.layers import LayerPlan
from onnxprune.planning.plan import Plan

DATA = {"x": np.random.default_rng(1).standard_normal((40, 3, 16, 16)).astype(np.float32)}
QUICK = Options(bench=False, recipe="prune")


@pytest.fixture(scope="module")
def pruned():
    return onnxprune.prune(detector(), data=DATA, macs=0.8, options=QUICK)


def test_a_detector_with_suppression_is_pruned_and_ends_as_before(pruned):
    model = pruned.model
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["chosen", "map"]
    assert model.graph.node[-1].op_type == "NonMaxSuppression"
    assert {output.name for output in pruned.report.divergence} == {"map", "boxes", "scores"}
    assert any("NonMaxSuppression" in note.text for note in pruned.report.notes if note.subject == "end")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": DATA["x"][:1]})[0].shape[1] == 3


def test_the_same_is_compared_and_recovered(pruned):
    found = onnxprune.compare(detector(), pruned.model, data=DATA, options=CompareOptions(bench_batch=1))
    assert set(found.ends) == {"map", "boxes", "scores"} - {"map"}
    assert {output.name for output in found.divergence} == {"map", "boxes", "scores"}
    assert found.macs.ratio > 1.2
    course = Options(recover=RecoverOptions(epochs=1, train_batch=8))
    better = onnxprune.recover(detector(), pruned.model, data=DATA, options=course).model
    assert [output.name for output in better.graph.output] == ["chosen", "map"]


def test_until_on_the_command_line(tmp_path, capsys):
    model, data, out = tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "o.onnx"
    onnx.save(detector(), model)
    np.savez(data, **DATA)
    common = ["--data", str(data), "--until", "s", "--until", "map"]
    assert cli.main([str(model), "-o", str(out), "--macs", "80%", "--no-bench", *common]) == 0
    assert {node.op_type for node in onnx.load(out).graph.node} >= {"NonMaxSuppression"}
    told = "".join(capsys.readouterr().out.replace("│", " ").split())
    assert "".join(f"onnxprune compare {model} {out} --data {data} --until s map".split()) in told
    assert cli.main(["compare", str(model), str(out), "--no-bench", *common, "--json", str(tmp_path / "c.json")]) == 0
    assert set(json.loads((tmp_path / "c.json").read_text())["ends"]) == {"s", "map"}
    assert cli.main(["inspect", str(model), "--until", "r"]) == 0
    assert "1 layers" in capsys.readouterr().out
    assert cli.main(["inspect", str(model), "--until", "nowhere"]) == 2


def optimised(model: onnx.ModelProto, path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def classifier() -> onnx.ModelProto:
    from graph.model.test_constants import model_of, x

    return model_of(
        """net (float[N, 3, 16, 16] x) => (float[N, 5] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Relu (h)
            p = GlobalAveragePool (r)
            f = Flatten (p)
            y = Gemm <transB = 1> (f, w2)
        }""",
        w1=x(16, 3, 3, 3),
        b1=x(16),
        w2=x(5, 16),
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_a_file_that_an_engine_has_optimised_is_compared_and_not_counted(tmp_path, swapped):
    model = classifier()
    pair = [model, optimised(model, tmp_path / "o.onnx")]
    if swapped:
        pair.reverse()
    found = onnxprune.compare(*pair, data=DATA, options=CompareOptions(bench_batch=1, outputs={"y": "classes"}))
    assert found.macs is None
    assert found.params is None
    assert "onnxruntime has optimised this file" in found.not_counted
    assert found.divergence[0].top1_agreement == 1
    assert found.timing is not None
    json.dumps(found.to_dict())


def test_a_quantized_file_is_compared_and_not_counted(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(DATA["x"][:8])

        def get_next(self):
            return next(({"x": one[None]} for one in self.left), None)

    onnx.save(classifier(), tmp_path / "m.onnx")
    quantize_static(tmp_path / "m.onnx", tmp_path / "q.onnx", Reader())
    options = CompareOptions(bench=False, max_drop=50, outputs={"y": "classes"})
    found = onnxprune.compare(tmp_path / "m.onnx", tmp_path / "q.onnx", data=DATA, options=options)
    assert "quantized" in found.not_counted
    assert found.divergence[0].top1_agreement > 0.5
    assert cli.main(["compare", str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), "--data", "synthetic"]) == 0


def test_a_candidate_without_the_tensors_is_refused_in_a_line():
    renamed = detector()
    for node in renamed.graph.node:
        for field in (node.input, node.output):
            field[:] = ["others" if name == "boxes" else name for name in field]
    with pytest.raises(ModelError, match=r"boxes: .*give --until with tensors that both have"):
        onnxprune.compare(detector(), renamed, data=DATA, options=CompareOptions(bench=False))


def test_an_open_batch_that_the_graph_fixes_to_one_is_run_one_at_a_time():
    from graph.model.test_constants import model_of, x

    model = model_of(
        """net (float[N, 3, 16, 16] x) => (float[M, 5] y) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Relu (h)
            p = GlobalAveragePool (r)
            f = Reshape (p, one)
            y = Gemm <transB = 1> (f, w2)
        }""",
        w1=x(16, 3, 3, 3),
        b1=x(16),
        w2=x(5, 16),
        one=np.array([1, 16]),
    )
    result = onnxprune.prune(model, data=DATA, macs=0.7, options=QUICK)
    assert any("one sample is run at a time" in note.text for note in result.report.notes)
    found = onnxprune.compare(model, result.model, data=DATA, options=CompareOptions(bench=False))
    assert found.samples == 40


def rated():
    """A network with a rate beside its samples, as speech networks have it."""
    from graph.model.test_constants import model_of, x

    return model_of(
        """net (float[N, 3, 16, 16] x, int64 sr) => (float[N, 4, 14, 14] y) {
            h = Conv (x, w1, b1)
            r = Relu (h)
            rate = Cast <to = 1> (sr)
            high = Div (rate, base)
            s = Mul (r, high)
            y = Conv (s, w2)
        }""",
        w1=x(16, 3, 3, 3),
        b1=x(16),
        w2=x(4, 16, 1, 1),
        base=np.float32(16000),
    )


def test_an_input_that_is_no_sample_gets_a_value_and_stays_an_input(tmp_path, capsys):
    model = rated()
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **DATA)
    given = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx"), "--macs", "60%", "--no-bench"]
    data = ["--data", str(tmp_path / "d.npz")]
    assert cli.main([*given, *data]) == ModelError.exit_code
    assert "--set-input sr=NUMBER" in capsys.readouterr().err
    assert cli.main([*given, *data, "--set-input", "sr=16000"]) == 0
    made = onnx.load(tmp_path / "o.onnx")
    assert [value.name for value in made.graph.input] == ["x", "sr"]
    assert "sr" not in {tensor.name for tensor in made.graph.initializer}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    slow, fast = (session.run(None, {"x": DATA["x"], "sr": np.array(rate)})[0] for rate in (8000, 16000))
    assert np.abs(fast - slow).max() > 0.1
    common = ["--no-bench", *data, "--set-input", "sr=16000"]
    assert cli.main(["compare", str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), *common]) == 0
    assert cli.main(["inspect", str(tmp_path / "m.onnx"), "--set-input", "sr=16000"]) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [("sr", "NAME=NUMBER"), ("sr=fast", "NAME=NUMBER"), ("rate=3", "no such input"), ("x=0", "open sizes")],
)
def test_values_of_inputs_that_do_not_fit(tmp_path, capsys, text, told):
    onnx.save(rated(), tmp_path / "m.onnx")
    assert cli.main(["inspect", str(tmp_path / "m.onnx"), "--set-input", text]) in (2, 3)
    assert told in capsys.readouterr().err


def two_heads() -> onnx.ModelProto:
    """A direct output beside one behind a choice, whose number comes from an input that is no sample."""
    from graph.model.test_constants import model_of, x

    return model_of(
        """net (float[N, 3, 16, 16] x, float[1] gain) =>
        (float[N, 4, 16, 16] boxes, float[N, k] best, int64[N, k] place) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1)
            r = Relu (h)
            g = Mul (r, gain)
            boxes = Conv (g, w2)
            s = Conv (r, w3)
            flat = Flatten (s)
            scaled = Mul (flat, gain)
            best, place = TopK (scaled, five)
        }""",
        w1=x(16, 3, 3, 3),
        w2=x(4, 16, 1, 1),
        w3=x(1, 16, 1, 1),
        five=np.array([5]),
    )


def test_a_direct_output_beside_a_choice_and_an_input_that_both_parts_read():
    options = Options(bench=False, recipe="prune", set_input=("gain=2",))
    made = onnxprune.prune(two_heads(), data=DATA, macs=0.7, options=options).model
    assert [value.name for value in made.graph.input] == ["x", "gain"]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    one, three = (session.run(["best"], {"x": DATA["x"], "gain": np.float32([g])})[0] for g in (1, 3))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-4)
    again = CompareOptions(bench_batch=1, set_input=("gain=2",))
    for candidate in (two_heads(), made):
        found = onnxprune.compare(two_heads(), candidate, data=DATA, options=again)
        assert "boxes" in {output.name for output in found.divergence}
    course = Options(recover=RecoverOptions(epochs=1, train_batch=8), set_input=("gain=2",))
    better = onnxprune.recover(two_heads(), made, data=DATA, options=course).model
    assert [value.name for value in better.graph.output] == ["boxes", "best", "place"]


def pyramid() -> onnx.ModelProto:
    """A head of two convs on two levels, its outputs one behind the other."""
    generator = np.random.default_rng(3)

    def drawn(*shape: int) -> onnx.TensorProto:
        values = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        return onnx.numpy_helper.from_array(values.astype(np.float32))

    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "u": (24, 16, 3, 3), "v": (4, 24, 3, 3), "b": (24,), "c": (4,)}
    shapes |= {"k1": (16,), "k2": (16,)}
    body = (
        "p = Conv<pads=[1,1,1,1]>(x, w1, k1) a = Relu(p) "
        "q = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w2, k2) d = Relu(q) "
        "e = Conv<pads=[1,1,1,1]>(a, u, b) f = Relu(e) g = Conv<pads=[1,1,1,1]>(f, v, c) "
        "h = Conv<pads=[1,1,1,1]>(d, u, b) i = Relu(h) j = Conv<pads=[1,1,1,1]>(i, v, c) "
        "k = Reshape(g, s) l = Reshape(j, s) y = Concat<axis=2>(k, l)"
    )
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,3,16,16] x) => (float[n,4,m] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, shape in shapes.items():
        tensor = drawn(*shape)
        tensor.name = name
        model.graph.initializer.append(tensor)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 4, -1]), "s"))
    return model


@pytest.mark.parametrize("recipe", ["prune", "3c"])
def test_a_head_on_several_levels_is_fitted_once_on_all_of_them(recipe):
    model = pyramid()
    found = onnxprune.prune(model, data=DATA, macs=0.6, options=Options(bench=False, recipe=recipe))
    readers = {}
    for node in found.model.graph.node:
        if node.op_type == "Conv":
            readers.setdefault(node.input[1], []).append(tuple(node.input[2:]))
    twice = [biases for biases in readers.values() if len(biases) == 2]
    assert len(twice) == 2
    assert all(first == second for first, second in twice)
    rows = {row.name: row for row in found.report.layers}
    shared = [row for row in rows.values() if row.params.before == 0]
    assert len(shared) == 2
    assert any(row.inputs.after < row.inputs.before for row in shared)
    assert all("it has the weights of" in row.reason for row in shared)
    whole = sum(int(np.prod(tensor.dims)) for tensor in found.model.graph.initializer if tensor.data_type == 1)
    assert found.report.params.after == whole
    limit = onnxprune.prune(model, data=DATA, params=0.6, options=Options(bench=False, recipe=recipe)).report
    assert limit.params.after <= 0.6 * limit.params.before * 1.001


def test_patterns_mean_a_layer_by_any_of_its_nodes():
    model = pyramid()
    rows = onnxprune.prune(model, data=DATA, macs=0.9, options=QUICK).report.layers
    again = [row.name for row in rows if row.inputs.before == 24][-1]
    kept = onnxprune.prune(model, data=DATA, macs=0.8, options=replace(QUICK, exclude=(again,))).report
    heads = [row for row in kept.layers if row.inputs.before == 24]
    assert len(heads) == 2
    assert all(row.inputs.after == 24 for row in heads)


def test_a_plan_that_decomposes_a_layer_of_one_form_is_refused_in_a_line():
    model = pyramid()
    rows = onnxprune.prune(model, data=DATA, macs=0.9, options=QUICK).report.layers
    name = next(row.name for row in rows if row.inputs.before == 24)
    plan = Plan((), layers=(LayerPlan(name, (4, 24, 3, 3), Form(channel=2)),))
    with pytest.raises(PlanError, match=r"cannot be decomposed: other nodes share its weights"):
        onnxprune.prune(model, data=DATA, plan=plan, options=Options(bench=False))


@pytest.mark.parametrize("operator", ["SplitToSequence", "ZipMap"])
def test_outputs_that_are_sequences_are_made_behind_the_cut(operator):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> net (float[N, 3, 16, 16] x) => (float[N, 4] p) {
            h = Conv <pads = [1, 1, 1, 1]> (x, w1)
            r = Relu (h)
            z = Conv (r, w2)
            g = GlobalAveragePool (z)
            f = Flatten (g)
            p = Softmax (f)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (4, 16, 1, 1))):
        weights = rng.standard_normal(shape, dtype=np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    if operator == "ZipMap":
        node = onnx.helper.make_node(operator, ["p"], ["s"], domain="ai.onnx.ml", classlabels_int64s=[3, 1, 4, 5])
        kind = onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, None))
        value = onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(kind))
    else:
        node = onnx.helper.make_node(operator, ["p"], ["s"], axis=1)
        value = onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None)
    model.graph.node.append(node)
    model.graph.output.append(value)
    result = onnxprune.prune(model, data=DATA, macs=0.7, options=replace(QUICK, align=4))
    assert result.report.macs.ratio > 1.2
    assert [output.name for output in result.report.divergence] == ["p"]
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities, sequence = session.run(None, {"x": DATA["x"][:2]})
    if operator == "ZipMap":
        np.testing.assert_allclose(sequence[1][1], probabilities[1, 1])
    else:
        np.testing.assert_allclose(np.concatenate(sequence, axis=1), probabilities)
