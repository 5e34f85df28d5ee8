"""Loading: every bad file ends in one line that names it."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graph.cases import CASES
from graph.nets import around, build, feeds, one_line, outputs_of, worst_difference
from onnxprune.errors import ModelError
from onnxprune.graph.model.load import load, read_model

GOOD = CASES["Conv"]
CONTENT = GOOD.SerializeToString()


def refused(source) -> str:
    with pytest.raises(ModelError) as caught:
        load(source)
    message = str(caught.value)
    assert one_line(message)
    assert caught.value.exit_code == 3
    return message


def loads_or_says_why(content: bytes) -> bool:
    try:
        load(content)
    except ModelError as error:
        return one_line(str(error))
    return True


def saved_outside(tmp_path, location: str):
    """A model whose first weight lies in another file."""
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    weight = model.graph.initializer[0]
    raw = numpy_helper.to_array(weight).tobytes()
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        weight.external_data.add(key=key, value=value)
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path, raw


def test_path_bytes_and_message_give_the_same_network(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(CONTENT)
    results = [outputs_of(load(source)[0].to_model()) for source in (path, str(path), CONTENT, GOOD)]
    assert all(worst_difference(found, outputs_of(GOOD)) == 0 for found in results)


def test_the_given_message_is_not_changed():
    load(GOOD)
    assert GOOD.SerializeToString() == CONTENT


def test_external_data_beside_the_model_is_read(tmp_path):
    path, raw = saved_outside(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(raw)
    assert worst_difference(outputs_of(load(path)[0].to_model()), outputs_of(GOOD)) == 0


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    path, raw = saved_outside(tmp_path, location)
    (tmp_path / "weights.bin").write_bytes(raw)
    assert "net.onnx" in refused(path)


def test_external_data_at_an_absolute_path_is_refused(tmp_path):
    outside = tmp_path / "weights.bin"
    path, raw = saved_outside(tmp_path, str(outside))
    outside.write_bytes(raw)
    assert "net.onnx" in refused(path)


def test_external_data_behind_a_link_is_refused(tmp_path):
    path, raw = saved_outside(tmp_path, "weights.bin")
    (tmp_path / "elsewhere.bin").write_bytes(raw)
    os.symlink(tmp_path / "elsewhere.bin", path.parent / "weights.bin")
    assert "net.onnx" in refused(path)


def test_missing_external_data_is_named(tmp_path):
    path, _ = saved_outside(tmp_path, "weights.bin")
    assert "weights.bin" in refused(path)


def test_short_external_data_is_refused(tmp_path):
    path, raw = saved_outside(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(raw[:-4])
    assert "weights.bin" in refused(path)


def test_more_than_two_gigabytes_of_external_data_are_refused_before_they_are_read(tmp_path):
    path, _ = saved_outside(tmp_path, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    large = onnx.TensorProto(name="large", data_type=1, dims=[1 << 15, 1 << 15], data_location=1)
    large.external_data.add(key="location", value="weights.bin")
    model.graph.initializer.append(large)
    path.write_bytes(model.SerializeToString())
    assert "up to 2 GB" in refused(path)


def test_external_data_without_a_folder_is_refused(tmp_path):
    path, _ = saved_outside(tmp_path, "weights.bin")
    assert "path" in refused(path.read_bytes())


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(CONTENT) - 1))
def test_a_truncated_file_never_gives_a_traceback(cut):
    assert loads_or_says_why(CONTENT[:cut])


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content):
    refused(content)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, len(CONTENT) - 1), value=st.integers(0, 255))
def test_a_flipped_byte_never_gives_a_traceback(place, value):
    damaged = CONTENT[:place] + bytes([value]) + CONTENT[place + 1 :]
    assert loads_or_says_why(damaged)


@pytest.mark.parametrize(("name", "content"), [("empty.onnx", b""), ("text.onnx", b"not a model\n")])
def test_a_file_that_is_no_model_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert name in refused(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "nowhere.onnx" in refused(tmp_path / "nowhere.onnx")
    assert str(tmp_path) in refused(tmp_path)


def changed(**fields) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def test_versions_out_of_range_are_refused_with_the_range():
    assert "IR version" in refused(changed(ir_version=2))
    assert "IR version" in refused(changed(ir_version=99))
    for opset in (6, 999):
        model = changed()
        model.opset_import[0].version = opset
        assert "opset" in refused(model)


def test_a_model_without_weights_is_refused():
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "nothing to prune" in refused(model)


def test_a_graph_without_nodes_is_refused():
    model = changed()
    del model.graph.node[:]
    assert "no graph with nodes" in refused(model)


def test_an_undefined_input_is_refused():
    model = changed()
    model.graph.node[0].input[0] = "nobody"
    refused(model)


def test_open_sizes_stay_open():
    model = build(
        "h = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, w2)",
        {"w1": (6, 1, 3, 3), "w2": (1, 6, 3, 3)},
        inputs="float[N,1,H,W] x",
        outputs="float[N,1,H,W] y",
    )
    net, _ = load(model)
    shape = [dim.dim_param for dim in net.to_model().graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["N", "", "H", "W"]


def with_weights_as_inputs(ir_version: int, *names: str) -> onnx.ModelProto:
    model = changed(ir_version=ir_version)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def test_old_files_that_list_every_weight_as_an_input_get_plain_constants():
    names = [tensor.name for tensor in GOOD.graph.initializer]
    net, notes = load(with_weights_as_inputs(3, *names))
    assert net.input_names == ("x",)
    assert not net.overridable
    assert any("graph inputs" in note.text for note in notes)
    assert worst_difference(outputs_of(net.to_model(), feeds(GOOD)), outputs_of(GOOD)) == 0


def test_a_single_weight_that_is_an_input_stays_one():
    net, _ = load(with_weights_as_inputs(8, "w2"))
    assert net.overridable == {"w2"}


def test_a_hostile_size_does_not_exhaust_memory():
    model = around(
        "big = ConstantOfShape(size) s = ReduceSum<keepdims=0>(big) c = Mul(s, none) k = Add(h, c)",
        {"size": np.array([10**12], np.int64), "none": np.array(0, np.float32)},
    )
    net, _ = load(model)
    assert any(node.op == "ConstantOfShape" for node in net.nodes)


def test_the_label_names_the_source(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(CONTENT)
    assert read_model(path)[1] == str(path)


def test_quantized_weights_are_refused_with_the_way_out():
    weights = {"q": np.ones((5, 3, 8, 8), np.int8), "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    body = "w = DequantizeLinear(q, s, z) h = Conv(x, w) y = Flatten(h)"
    assert "quantized (DequantizeLinear)" in refused(build(body, weights))


def test_sparse_weights_are_refused_with_the_way_out():
    model = changed()
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    assert "store them dense" in refused(model)


def test_the_long_name_of_the_standard_operators_is_as_good_as_the_short_one():
    model = changed()
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    net, _ = load(model)
    assert {node.domain or "" for node in net.nodes} == {""}
    assert worst_difference(outputs_of(net.to_model()), outputs_of(GOOD)) == 0


def test_a_range_with_bounds_of_one_element_is_computed():
    model = around(
        "v = Range(start, stop, step) s = Cast<to=1>(v) t = ReduceSum<keepdims=0>(s) k = Mul(h, t)",
        {"start": np.array(0, np.int64), "stop": np.array(4, np.int64), "step": np.array(1, np.int64)},
    )
    for tensor in model.graph.initializer:
        if tensor.name in ("start", "stop", "step"):
            tensor.dims.append(1)
    net, _ = load(model)
    assert all(node.op != "Range" for node in net.nodes)
