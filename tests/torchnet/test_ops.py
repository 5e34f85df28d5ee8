"""Every operator that torch runs, in every revision, answers as onnxruntime does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from onnxprune.torchnet.ops import Call, UnsupportedError, op_for, registered, torch_op
from onnxprune.torchnet.ops.layout import tensor_of

from .cases import CASES

PAIRS = [(name, revision) for name, revisions in sorted(registered().items()) for revision in revisions]


def opset_of(name: str, revision: int) -> int | None:
    """The lowest supported operator set in which an operator has that revision."""
    for opset in range(max(revision, 7), onnx.defs.onnx_opset_version() + 1):
        try:
            if onnx.defs.get_schema(name, opset, "").since_version == revision:
                return opset
        except onnx.defs.SchemaError:
            continue
    return None


def test_every_operator_has_a_case():
    assert set(CASES) == set(registered())


@pytest.mark.parametrize("name,revision", PAIRS)
def test_every_revision_is_one_that_a_model_can_have(name, revision):
    assert opset_of(name, revision) is not None


@pytest.mark.parametrize("name,revision", PAIRS)
def test_torch_answers_as_onnxruntime_does(name, revision):
    opset = opset_of(name, revision)
    function, found = op_for(name, "", opset)
    assert found == revision
    for attributes, inputs, count in CASES[name](revision):
        names = [f"i{place}" if array is not None else "" for place, array in enumerate(inputs)]
        outputs = [f"o{place}" for place in range(count)]
        node = helper.make_node(name, names, outputs, **attributes)
        feeds = {n: array for n, array in zip(names, inputs, strict=True) if n}
        wanted = expected(node, feeds, opset)
        known = {
            n: onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for n, v in attributes.items()
        }
        call = Call(name, known, revision, count)
        result = function(call, *(None if array is None else tensor_of(array) for array in inputs))
        results = result if isinstance(result, tuple) else (result,)
        assert len(results) >= count
        for ours, reference in zip(results, wanted, strict=False):
            assert tuple(ours.shape) == reference.shape, attributes
            assert ours.numpy().dtype == reference.dtype, attributes
            np.testing.assert_allclose(ours.numpy(), reference, rtol=1e-4, atol=1e-5, err_msg=str(attributes))


def expected(node, feeds, opset):
    """By onnxruntime; by onnx's reference where that has no kernel for the revision."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 21 else 10
    model = onnx.shape_inference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(None, feeds)]
    except (raised.NotImplemented, raised.Fail, raised.InvalidGraph):  # no kernel, or one of part of the revision
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]


def test_a_second_function_for_a_revision_is_refused():
    with pytest.raises(ValueError, match="registered already"):
        torch_op("Relu", since=(14,))(lambda call, x: x)


def test_unknown_operators_revisions_and_domains_are_named():
    assert op_for("NonMaxSuppression", "", 17) == "NonMaxSuppression"
    assert op_for("Relu", "com.example", 17) == "Relu of domain 'com.example'"


@pytest.mark.parametrize(
    "name,attributes,inputs",
    [
        ("Resize", {"mode": "cubic", "antialias": 1}, (torch.ones(1, 1, 4, 4), None, torch.tensor([1.0, 1, 2, 2]))),
        ("Pad", {"mode": "wrap"}, (torch.ones(2, 3), torch.tensor([0, 1, 0, 1]))),
        ("ConvTranspose", {"output_shape": [9]}, (torch.ones(1, 1, 4), torch.ones(1, 1, 3))),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, (torch.ones(1, 1, 8, 8),)),
    ],
)
def test_modes_that_nobody_wrote_are_refused(name, attributes, inputs):
    function, revision = op_for(name, "", 19)
    with pytest.raises(UnsupportedError):
        function(Call(name, attributes, revision), *inputs)
