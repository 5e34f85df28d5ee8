"""Torch module of a network for a training loop of your own, and conversion back into the graph.

Fresh normalisations behind the convs restore the training behaviour from before folding: y' = gamma (y - mean) /
sqrt(var + epsilon) + beta, with mean and variance of y on given data, gamma = sqrt(var + epsilon) and
beta = mean, is the identity at first. The conversion back folds them: W' = s W, b' = s (b - mean) + beta with s =
gamma / sqrt(var + epsilon) (the published "addbn" and "merge_bn").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxprune.errors import UsageError, VerifyError
from onnxprune.graph.model.net import Net, constant, is_constant, is_standard, values_of
from onnxprune.graph.model.save import finished_model
from onnxprune.torchnet.device import tensors_of
from onnxprune.torchnet.program import TorchNet, with_weights_of
from onnxprune.torchnet.trainable import balanced, trainable

if TYPE_CHECKING:
    from onnxprune.engine.sessions import Engine

Array = np.ndarray[Any, Any]

__all__ = ["TorchModule", "fitted", "folded"]

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS: dict[int, type[Norm]] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_TOLERANCE = 1e-3  # of onnxruntime's outputs against torch's, relative to the largest value


class TorchModule(TorchNet):
    """Network to train; a :class:`TorchNet` whose inserted normalisations have parameters under ``norms``.

    Attributes:
        norms: normalisation behind each conv, by the key of its output; empty without normalisations.
        sample: inputs on which `folded` checks the result.
    """

    def __init__(self, net: Net, sample: Mapping[str, Array], *, batchnorm: bool, freeze: Sequence[str] = ()) -> None:
        """Build the module of a folded network; ``freeze``: names or globs of nodes not to train."""
        weights = trainable(net, freeze)
        draft = balanced(net, weights).draft()
        behind = _convs(draft, weights) if batchnorm else {}
        for node in behind.values():
            if len(node.inputs) < 3 or node.inputs[2].is_empty():
                while len(node.inputs) > 2:
                    node.inputs.pop()
                zeros = np.zeros(node.inputs[1].shape[0], values_of(node.inputs[1]).dtype)
                node.inputs.append(constant(draft.unused_name(f"{node.name}_bias"), zeros))
        net = draft.done()
        super().__init__(net, trainable(net, freeze))
        self.norms = nn.ModuleDict()
        self.sample = dict(sample)
        self._source = net.source
        self._model = net.to_model().SerializeToString()
        norm_of: dict[str, tuple[str, str, str]] = {}
        taken: set[str] = set()
        for name, node in behind.items():
            key = str(node.name).replace(".", "_") or "conv"
            while key in taken or hasattr(self.norms, key):
                key += "_"
            taken.add(key)
            weight = node.inputs[1]
            self.norms[key] = _NORMS[len(weight.shape)](weight.shape[0])
            norm_of[name] = key, weight.name, node.inputs[2].name
        self._norm_of = norm_of
        self.eval()

    def _behind(self, names: tuple[str, ...], values: dict[str, Tensor]) -> None:
        for name in names:
            if name in self._norm_of:
                values[name] = self.norms[self._norm_of[name][0]](values[name])

    def norm(self, key: str) -> Any:
        """Return the normalisation of a key."""
        return self.norms[key]

    def graph(self) -> Net:
        """Return the graph with the current weights, normalisations folded."""
        net = Net.from_model(onnx.load_model_from_string(self._model), source=self._source)
        net = with_weights_of(net, self)
        tensors = net.tensors()
        for key, weight, bias in self._norm_of.values():
            norm = self.norm(key)
            double = [t.detach().double().cpu().numpy() for t in (norm.weight, norm.bias, norm.running_mean)]
            gamma, beta, mean = double
            scale = gamma / np.sqrt(norm.running_var.double().cpu().numpy() + norm.eps)
            for name, values in (
                (weight, values_of(tensors[weight]) * scale.reshape(-1, *[1] * (len(tensors[weight].shape) - 1))),
                (bias, (values_of(tensors[bias]) - mean) * scale + beta),
            ):
                tensors[name].values = np.ascontiguousarray(values.astype(values_of(tensors[name]).dtype))
        return net


def _convs(net: Net, weights: Sequence[str]) -> dict[str, Any]:
    """Return the convs behind which a normalisation can be folded, by the name of their output."""
    uses = Counter(tensor.name for node in net.nodes for tensor in node.inputs if is_constant(tensor))
    return {
        node.outputs[0].name: node
        for node in net.nodes
        if node.op == "Conv"
        and is_standard(node)
        and len(node.inputs[1].shape or ()) in _NORMS
        and all(
            tensor.name in weights and uses[tensor.name] == 1 for tensor in node.inputs[1:] if not tensor.is_empty()
        )
    }


@torch.no_grad()
def fitted(module: TorchModule, batches: Sequence[Mapping[str, Array]]) -> TorchModule:
    """Set the normalisations of a module to the identity by the statistics of some inputs; return the module.

    Args:
        module: module, changed in place.
        batches: inputs by name, per batch.
    """
    sums: dict[str, list[Tensor]] = {}

    def gather(key: str, values: Tensor) -> None:
        flat = values.double().transpose(0, 1).reshape(values.shape[1], -1)
        found = sums.setdefault(key, [torch.zeros(()).double(), *torch.zeros(2, values.shape[1]).double()])
        found[0] = found[0] + flat.shape[1]
        found[1] = found[1] + flat.sum(1)
        found[2] = found[2] + flat.square().sum(1)

    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, key=key: gather(key, inputs[0]))
        for key, norm in module.norms.items()
    ]
    try:  # as they are they change nothing, or hardly: a scale of 1 and no shift
        for feeds in batches:
            module.run(tensors_of(feeds, torch.device("cpu")), module.output_names)
    finally:
        for hook in hooks:
            hook.remove()
    for key, (count, total, squares) in sums.items():
        norm = module.norm(key)
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(mean)
    return module


def folded(module: nn.Module, engine: Engine) -> onnx.ModelProto:
    """Convert a trained module back to a model: its graph with the new weights.

    Raises:
        UsageError: the module was not made by `to_torch`.
        VerifyError: a weight is not finite, or onnxruntime's outputs differ from the module's.
    """
    if not isinstance(module, TorchModule):
        raise UsageError(f"from_torch takes a module that to_torch made, found {type(module).__name__}")
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VerifyError(f"'{name}' is not finite after the training: nothing was made of it")
    model = finished_model(module.graph())
    was_training, device = module.training, next(module.parameters()).device
    module.eval()
    try:
        with torch.no_grad():
            wanted = module.run(tensors_of(module.sample, device), module.output_names)
    finally:
        module.train(was_training)
    found = engine.session(model, label="the trained model").run(module.sample)
    for name, values in found.items():
        reference = wanted[name].float().cpu().numpy()
        apart = float(np.abs(values.astype(np.float64) - reference).max(initial=0.0))
        if not apart <= _TOLERANCE * (float(np.abs(reference).max(initial=0.0)) or 1.0):
            raise VerifyError(f"output '{name}' of the trained model is not the module's: report the model")
    return model
