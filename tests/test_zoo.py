"""Real models as real exporters wrote them; skipped where there is no zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from runs import zoo_folder

import onnxprune
from onnxprune.commands.compare import CompareOptions
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.channels.sites import find_sites, is_depthwise, matrix
from onnxprune.graph.edit.decompose import with_chains
from onnxprune.graph.edit.remove import alive_without, remove, zero
from onnxprune.graph.edit.weights import ensure_biases
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load, read_model
from onnxprune.graph.model.net import dims, numpy_dtype
from onnxprune.graph.model.save import finished_model
from onnxprune.graph.model.sizes import with_settled_sizes
from onnxprune.options.run import Options
from onnxprune.options.solve import RefitOptions
from onnxprune.recovery.ends import loss_ends
from onnxprune.solve import MomentsBuilder, Regression, Samples
from onnxprune.steps.factorise import factorise
from onnxprune.torchnet.program import TorchNet
from onnxprune.torchnet.trainable import trainable

SHIPPED = "mlperf_tiny_resnet8"
MODELS = [
    SHIPPED,
    "audio_basic_pitch",
    "cifar10_resnet20_rawexport",
    "cifar10_resnet56",
    "cifar10_resnet8",
    "cls_ppocr_textangle",
    "det_blazeface_front",
    "det_ultraface_rfb320",
    "imagenet_mobilenet_v1_050_160",
    "imagenet_squeezenet1_1",
    "sr_vdsr",
    "vww_mobilenet_v1_025_96",
]


def located(name: str) -> Path:
    """The shipped network, or one of the zoo; skips where the zoo is absent."""
    return (
        Path(__file__).parent / "networks" / f"{name}.onnx"
        if name == SHIPPED
        else zoo_folder() / "models" / f"{name}.onnx"
    )


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_for(net, side=32):
    generator = np.random.default_rng(0)
    found = {}
    for name in net.input_names:
        tensor = net.tensors()[name]
        open_size = [2] + [side] * 9
        shape = [size if isinstance(size, int) else open_size[axis] for axis, size in enumerate(dims(tensor))]
        kind = numpy_dtype(tensor.dtype)
        drawn = generator.integers(0, 255, shape) if kind.kind in "iu" else generator.standard_normal(shape)
        found[name] = drawn.astype(kind)
    return found


def worst(left, right):
    return max(float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9)) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_loading_and_folding_change_no_output(name):
    original, _ = read_model(located(name))
    net, _ = fold(load(original)[0])
    feeds = feeds_for(net)
    assert worst(run(net.to_model(), feeds), run(original, feeds)) < 1e-4


@pytest.mark.parametrize("name", [name for name in MODELS if name != "det_blazeface_front"])
def test_removing_equals_zeroing(name):
    net, _ = fold(load(located(name))[0])
    channels = channel_map(net)
    generator = np.random.default_rng(1)
    assert channels.prunable
    removal = {
        g.name: generator.choice(g.size, int(generator.integers(0, g.size)), replace=False) for g in channels.prunable
    }
    alive = alive_without(channels, removal)
    smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
    feeds = feeds_for(net)
    assert worst(run(smaller, feeds), run(zero(net, channels, alive).to_model(), feeds)) < 1e-4


@pytest.mark.parametrize("width", [96, 320, 328])
def test_channels_behind_attention_may_go_at_every_width_of_a_text_recogniser(zoo, width):
    net, _ = fold(load(zoo / "models" / "ocr_ppocrv4_rec.onnx")[0])
    net = with_settled_sizes(net, {"x": (2, 3, 48, 320)})
    channels = channel_map(net)
    generator = np.random.default_rng(1)
    removal = {g.name: generator.choice(g.size, g.size // 2, replace=False) for g in channels.prunable}
    assert {"p2o.Conv.35", "p2o.Conv.36", "p2o.Conv.37"} <= {n for g in channels.prunable for n in g.producers}
    alive = alive_without(channels, removal)
    smaller = finished_model(remove(net, channels, channels.all_alive(), alive))
    feeds = {"x": generator.standard_normal((3, 3, 48, width), dtype=np.float32)}
    assert worst(run(smaller, feeds), run(zero(net, channels, alive).to_model(), feeds)) < 1e-4


def test_channels_go_through_padded_shortcuts_and_what_stays_has_a_reason(zoo):
    net, _ = fold(load(zoo / "models" / "det_blazeface_front.onnx")[0])
    channels = channel_map(net)
    assert len(channels.prunable) == 12
    pinned = [group for group in channels.groups if group.pins]
    assert len(pinned) == 4
    assert all("'" in reason for group in pinned for reason in group.pins)


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_every_conv_is_exact_at_full_rank_by_every_method(name):
    net = ensure_biases(fold(load(located(name))[0])[0])
    generator = np.random.default_rng(0)
    chains = {}
    for site in find_sites(net):
        weight, bias = matrix(net, site)
        if weight.shape[2] == 1 or is_depthwise(net, site) or not site.decomposable:
            continue
        problems, samples = [], []
        for part in range(len(weight)):
            x = generator.standard_normal((2 * weight.shape[2] + 50, weight.shape[2])).astype(np.float32)
            x = np.maximum(x, -0.5)
            builder = MomentsBuilder(weight.shape[2], 0)
            for half in (0, 1):
                builder.add(x[half::2], None, half)
            own = bias.reshape(len(weight), -1)[part]
            samples.append(Samples(x, (x @ weight[part].T + own).astype(np.float32), np.arange(len(x)) % 2))
            moments = builder.finish().with_response(weight[part], own)
            problems.append(Regression(moments, weight[part], own, np.arange(weight.shape[2])))
        for form in full_forms(site, weight.shape):
            for options in METHODS:
                solutions, chain = factorise(site, problems, np.arange(weight.shape[2]), form, options, tuple(samples))
                made = np.stack([solution.weight for solution in solutions])
                assert np.abs(made - weight).max() <= 1e-5 * np.abs(weight).max()
                assert chain.form == form
            chains[site] = chain
    feeds = feeds_for(net)
    assert worst(run(with_chains(net, chains).to_model(), feeds), run(net.to_model(), feeds)) < 1e-3


METHODS = (
    RefitOptions(),
    RefitOptions(basis="plain"),
    RefitOptions(refit="none"),
    RefitOptions(refit="auto", relu_steps=((1.0, 2),)),
)


def full_forms(site, shape):
    """Every form of a layer that leaves nothing out."""
    outputs, columns = shape[1:]
    forms = [Form(channel=outputs)]
    kernel = site.window.kernel if site.window else ()
    if sum(size > 1 for size in kernel) > 1:
        inputs, elements = columns // int(np.prod(kernel)), int(np.prod(kernel))
        for axis in (i for i, size in enumerate(kernel) if size > 1):
            rank = min(inputs * kernel[axis], outputs * elements // kernel[axis])
            forms += [Form(rank, axis), Form(rank, axis, outputs)]
    return forms


@pytest.mark.parametrize("name", MODELS)
def test_torch_answers_as_onnxruntime_does_and_every_layer_has_a_gradient(name):
    original, _ = read_model(located(name))
    net, _ = fold(load(original)[0])
    feeds = feeds_for(net, 64)
    weights = trainable(net)
    module = TorchNet(net, weights)
    found = module.run({key: torch.from_numpy(array) for key, array in feeds.items()}, module.output_names)
    assert worst([found[key].detach().numpy() for key in module.output_names], run(original, feeds)) < 1e-4
    ends, _ = loss_ends(net, weights)
    trained = TorchNet(net, weights, [end.tensor for end in ends])
    answers = trained.run({key: torch.from_numpy(array) for key, array in feeds.items()}, trained.output_names)
    torch.stack([tensor.square().mean() for tensor in answers.values()]).sum().backward()
    gradients = {key: weight.grad for key, weight in trained.named_parameters()}
    assert len(gradients) == len(weights)
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients.values())


@pytest.mark.slow
def test_the_shipped_network_of_others_is_pruned_verified_and_loses_little(tmp_path):
    """From arrays of smooth random images: it has never seen such, but its outputs on them are its outputs."""
    draws = np.random.default_rng(0).standard_normal((160, 3, 32, 32)).cumsum(-1).cumsum(-2)
    images = (127 + 8 * draws / np.abs(draws).mean()).clip(0, 255).astype(np.float32)
    options = Options(bench=False, points=20, align=1, refit=RefitOptions(refit="linear"))
    result = onnxprune.prune(located(SHIPPED), data=images, macs="70%", options=options)
    result.save(tmp_path / "pruned.onnx")
    report = onnxprune.compare(
        located(SHIPPED), tmp_path / "pruned.onnx", data=images, options=CompareOptions(bench=False)
    )
    assert report.macs.ratio >= 1 / 0.7
    assert all(output.relative_error < 0.3 for output in report.divergence)
