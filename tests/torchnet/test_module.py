"""A network for anyone's own training loop, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph.families import FAMILIES, SIDE
from onnx import numpy_helper
from torch import nn

import onnxprune
from onnxprune import Options, RecoverOptions
from onnxprune.data import open_calibration
from onnxprune.engine.inputs import input_specs
from onnxprune.errors import UsageError, VerifyError
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.options.data import DataOptions


def images(count: int = 40):
    return np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def outputs(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def of(module, x):
    with torch.no_grad():
        found = module(torch.from_numpy(x))
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def close(left, right, tolerance=1e-3):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_there_and_back_changes_nothing(family, batchnorm):
    model = FAMILIES[family]()
    module = onnxprune.to_torch(model, batchnorm=batchnorm, data=images())
    assert not module.training
    x = images(3)
    close(of(module, x), outputs(model, x))
    close(outputs(onnxprune.from_torch(module).model, x), outputs(model, x))


def test_fresh_normalisations_stand_behind_the_convs_and_see_what_the_data_gives():
    model = FAMILIES["resnet_basic"]()
    module = onnxprune.to_torch(model, batchnorm=True, data=images())
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == sum(node.op_type == "Conv" for node in model.graph.node)
    seen = []

    def look(part, inputs, output):
        seen.append((inputs[0], output))

    hooks = [norm.register_forward_hook(look) for norm in norms]
    of(module, images())
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(norms)
    for inputs, output in seen:
        np.testing.assert_allclose(output.numpy(), inputs.numpy(), rtol=1e-3, atol=1e-4)
    before = of(module, images())
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(images()))  # the batch's own statistics: about those that were estimated
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
    module.eval()
    close(of(module, images()), before, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", [False, True])
def test_training_with_labels_on_a_shipped_model(vgg, batchnorm):
    """Anyone's loop: classes that are those of the data, from weights that were spoilt."""
    with np.load(vgg.with_suffix(".test.npz")) as archive:
        x, y = archive[next(n for n in archive.files if archive[n].ndim >= 3)], archive["labels"]
    options = Options()
    spoilt = onnx.load(vgg)
    rng = np.random.default_rng(0)
    for tensor in spoilt.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            noisy = values + 0.7 * values.std() * rng.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    data = vgg.with_suffix(".calib.npz")
    module = onnxprune.to_torch(spoilt, batchnorm=batchnorm, data=str(data), options=options)
    feeds = inputs_of(vgg)
    labels = torch.from_numpy(np.asarray(y, np.int64))
    images_ = torch.from_numpy(feeds)
    assert len(images_) == len(labels) == len(x)
    before = accuracy(module, images_, labels)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.005, momentum=0.9)
    module.train()
    for start in range(0, 300, 50):
        loss = nn.functional.cross_entropy(module(images_[start : start + 50]), labels[start : start + 50])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    module.eval()
    after = accuracy(module, images_, labels)
    assert after > before + 0.02
    result = onnxprune.from_torch(module)
    onnx.checker.check_model(result.model, full_check=True)
    assert [n.op_type for n in result.model.graph.node].count("BatchNormalization") == 0
    logits = outputs(result.model, feeds)[0]
    assert (logits.argmax(1) == y).mean() == pytest.approx(after, abs=0.005)


def inputs_of(model):
    specs = input_specs(load(model)[0])
    source = open_calibration(model.with_suffix(".test.npz"), specs, DataOptions())
    return source.load(range(len(source)))[specs[0].name]


def accuracy(module, x, labels) -> float:
    with torch.no_grad():
        return float((module(x).argmax(1) == labels).float().mean())


def test_names_are_the_initializers_and_frozen_layers_are_no_parameters(vgg):
    module = onnxprune.to_torch(vgg)
    names = set(fold(load(vgg)[0])[0].tensors())
    assert {name for name, _ in module.named_parameters()} <= names
    assert "stage1.conv1.weight" in module.state_dict()
    first = onnx.load(vgg).graph.node[0].name
    options = replace(Options(), recover=RecoverOptions(freeze=(first,)))
    fewer = onnxprune.to_torch(vgg, options=options)
    assert len(list(fewer.parameters())) < len(list(module.parameters()))


def test_another_module_and_weights_that_are_not_finite_are_refused(vgg):
    with pytest.raises(UsageError, match="Linear"):
        onnxprune.from_torch(nn.Linear(2, 2))
    module = onnxprune.to_torch(vgg)
    with torch.no_grad():
        next(iter(module.parameters())).fill_(float("nan"))
    with pytest.raises(VerifyError, match="not finite"):
        onnxprune.from_torch(module)


def test_the_result_can_be_written(vgg, tmp_path):
    result = onnxprune.from_torch(onnxprune.to_torch(vgg))
    result.save(tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_an_initializer_may_be_called_like_a_part_of_the_module():
    model = FAMILIES["vgg_bn"]()
    for old, new in zip(
        [t.name for t in model.graph.initializer], ("norms", "sample", "_model", "train"), strict=False
    ):
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
        next(t for t in model.graph.initializer if t.name == old).name = new
    module = onnxprune.to_torch(model, batchnorm=True, data=images())
    close(outputs(onnxprune.from_torch(module).model, images(2)), outputs(model, images(2)))
