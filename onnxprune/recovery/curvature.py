"""How much a network's outputs hang on each channel of what its layers answer: the diagonal Fisher information.

For a classifier, with p the softmax of its logits over the temperature and c a class drawn from p, the weight of a
channel is the square of d log p(c) / d v, summed over the channel's values v, mean over inputs: half of that is, to
second order, what a squared error of v does to the KL of the softened outputs. For outputs that are numbers y it is the
same of d (z y) / d v, z drawn from the normal distribution and divided by y's standard deviation: what an error does to
their relative squared error (the Gauss-Newton matrix). Several outputs add up, and
so do both for an output that may be scores or numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxprune.errors import ModelError
from onnxprune.graph.net import Net
from onnxprune.recovery.ends import End, loss_ends
from onnxprune.recovery.program import TorchNet
from onnxprune.recovery.trainable import trainable
from onnxprune.runtime.meaning import Meaning

Array = np.ndarray[Any, Any]

__all__ = ["channel_weights"]

_LEAST_PROBABILITY = 1e-12


def channel_weights(
    net: Net,
    axes: Mapping[str, int],
    batches: Iterable[Mapping[str, Array]],
    *,
    temperature: float,
    draws: int,
    seed: int,
    device: torch.device | None = None,
    outputs: Mapping[str, Meaning] | None = None,
) -> dict[str, Array]:
    """The diagonal Fisher information, channel by channel.

    Args:
        net: the network, its normalisations folded.
        axes: tensors, and the axis of each that counts its channels.
        batches: inputs by name, every sample on axis 0 counting alike.
        temperature: of classifiers' outputs.
        draws: of labels, or of z, for each input.
        seed: of the draws.
        device: of torch; the CPU unless given.
        outputs: what each output means; None: what the network itself says.

    Returns:
        Per tensor (channels,) float64; tensors on which no output depends are left out.

    Raises:
        ModelError: torch cannot run the network.
    """
    weights = trainable(net)
    if not weights:
        raise ModelError(f"{net.source}: no output depends on weights that can be differentiated")
    ends, _ = loss_ends(net, weights, outputs=outputs)
    names = list(dict.fromkeys([*(end.tensor for end in ends), *axes]))
    device = device or torch.device("cpu")
    module = TorchNet(net, weights, names).to(device)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    rows = 0
    for feeds in batches:
        inputs = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in feeds.items()}
        found = module.run(inputs, names)
        asked = [name for name in axes if found[name].requires_grad]
        rows += draws * next(iter(inputs.values())).shape[0]
        for _ in range(draws):
            objective = torch.stack([_objective(end, found[end.tensor], temperature, generator) for end in ends]).sum()
            gradients = torch.autograd.grad(
                objective, [found[name] for name in asked], retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(asked, gradients, strict=True):
                if gradient is not None:
                    square = _per_channel(gradient.float().square(), axes[name])
                    sums[name] = sums.get(name, torch.zeros_like(square)) + square
    return {name: (total / max(rows, 1)).cpu().numpy().astype(np.float64) for name, total in sums.items()}


def _objective(end: End, output: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A scalar whose gradient's outer product is, on average over draws, the metric at an output."""
    output = output.float()
    if end.classes is None:
        return _of_numbers(output, generator)
    logits = output.clamp(min=_LEAST_PROBABILITY).log() if end.probabilities else output
    scores = torch.log_softmax(logits.movedim(end.classes, -1) / temperature, -1).flatten(0, -2)
    labels = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(scores.device)
    objective = scores.gather(1, labels).sum()
    return objective + _of_numbers(output, generator) if end.both else objective


def _of_numbers(output: Tensor, generator: torch.Generator) -> Tensor:
    spread = float(output.detach().std()) or float(output.detach().abs().max()) or 1.0
    draw = torch.randn(output.shape, generator=generator).to(output.device)
    return (draw * output).sum() / spread


def _per_channel(square: Tensor, axis: int) -> Tensor:
    """Summed over samples, and over places: a layer's whole answer counts."""
    others: Sequence[int] = [place for place in range(square.dim()) if place != axis % square.dim()]
    return square.sum(dim=list(others)) if others else square
