"""Differentiable loss between the outputs of the small network and the original.

With values a of the original and b of the small network, and softmax temperature T:

- classes: ``T^2 KL(softmax(a / T) || softmax(b / T))``, mean over samples (and over all axes but that of the classes),
  plus a share of the error below, since KL does not see what is added to all classes alike (Hinton et al., "Distilling
  the Knowledge in a Neural Network", 2015, for the softened KL and the factor);
- what may be classes or numbers: the KL plus the whole of the error below;
- numbers, and tensors between the layers: the squared error over the variance of a.

Where both networks have the tensor in front of the last layer (`features.leading_tensor`), the end-to-end loss is the
squared error of the means of its channels over their variance, and the last layer keeps its weights.

Terms are weighted so that at the start all outputs contribute equally, and all tensors between the layers together
contribute a given share of the outputs' loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxprune.recovery.ends import End
from onnxprune.recovery.features import pooled

__all__ = ["Loss", "balanced_loss"]

_VALUES_SHARE = 0.1  # of the error of classes' logits
_LEAST_PROBABILITY = 1e-12
_LEAST = 1e-6  # of a term at the start, when it weighs others
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """Terms of the loss and their weights.

    Attributes:
        ends: tensors at which outputs are compared.
        features: names of the tensors between layers to compare.
        temperature: softmax temperature of class scores.
        variances: variance of the original's values, by tensor.
        end_weights: weight of each end.
        feature_weights: weight of each feature.
        starts: terms of the features at the start.
        lead: tensor in front of the last layer that is compared in place of the outputs; None: the outputs are.
        lead_scale: factor of the small network's last layer to the original's, which its features are multiplied by.
    """

    ends: tuple[End, ...]
    features: tuple[str, ...]
    temperature: float
    variances: Mapping[str, float]
    end_weights: tuple[float, ...] = ()
    feature_weights: tuple[float, ...] = ()
    starts: tuple[float, ...] = ()
    lead: str | None = None
    lead_scale: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors that the loss compares."""
        return tuple(dict.fromkeys([*(end.tensor for end in self.ends), *self.features, *filter(None, (self.lead,))]))

    def at_ends(self, wanted: Tensors, found: Tensors) -> Tensor:
        """Compute the loss at the outputs."""
        weights = self.end_weights or (1.0,) * len(self.ends)
        terms = [w * self._end(end, wanted, found) for w, end in zip(weights, self.ends, strict=True)]
        return torch.stack(terms).sum()

    def whole(self, wanted: Tensors, found: Tensors) -> Tensor:
        """Compute the end-to-end loss: of the lead, or of outputs and features."""
        if self.lead is not None:
            a, b = (pooled(tensors[self.lead].float()) for tensors in (wanted, found))
            lead: Tensor = (self.lead_scale * b - a).square().mean() / self.variances[self.lead]
            return lead
        total = self.at_ends(wanted, found)
        for weight, name in zip(self.feature_weights, self.features, strict=True):
            total = total + weight * self.error(name, wanted, found)
        return total

    def blockwise(self, wanted: Tensors, found: Tensors) -> Tensor:
        """Compute the block-wise loss: errors of all blocks, equal at the start, the outputs being the last block."""
        total = self.at_ends(wanted, found)
        for start, name in zip(self.starts, self.features, strict=True):
            total = total + self.error(name, wanted, found) / max(start, _LEAST)
        return total

    def error(self, name: str, wanted: Tensors, found: Tensors) -> Tensor:
        """Compute the squared error of a tensor divided by its variance."""
        return (found[name].float() - wanted[name].float()).square().mean() / self.variances[name]

    def _end(self, end: End, wanted: Tensors, found: Tensors) -> Tensor:
        if end.classes is None:
            return self.error(end.tensor, wanted, found)
        logits = [t[end.tensor].float() for t in (wanted, found)]
        if end.probabilities:
            logits = [t.clamp(min=_LEAST_PROBABILITY).log() for t in logits]
        a, b = (torch.log_softmax(t / self.temperature, end.classes) for t in logits)
        kl = (a.exp() * (a - b)).sum(end.classes).mean() * self.temperature**2
        return kl + (1.0 if end.both else _VALUES_SHARE) * self.error(end.tensor, wanted, found)


def balanced_loss(
    ends: tuple[End, ...],
    features: Sequence[str],
    temperature: float,
    share: float,
    seen: Sequence[tuple[Tensors, Tensors]],
    lead: str | None = None,
    lead_scale: float = 1.0,
) -> Loss:
    """Make the loss, with weights derived from some batches of both networks' tensors.

    Features whose error exceeds the variance at the start are left out.

    Args:
        ends: tensors at which outputs are compared.
        features: names of candidate tensors between layers.
        temperature: softmax temperature of class scores.
        share: loss of all features together at the start, relative to the loss of the outputs.
        seen: per batch, the original's tensors and the small network's.
        lead: tensor in front of the last layer; None without one.
        lead_scale: factor of the small network's last layer to the original's.
    """
    names = [*(end.tensor for end in ends), *features]
    variances = {name: _variance([wanted[name] for wanted, _ in seen]) for name in dict.fromkeys(names)}
    if lead is not None:
        variances[lead] = _variance([pooled(wanted[lead].float()) for wanted, _ in seen])
    plain = Loss(ends, (), temperature, variances)

    def mean(values: Sequence[Tensor]) -> float:
        return float(torch.stack(list(values)).mean())

    errors = {name: mean([plain.error(name, *pair) for pair in seen]) for name in features}
    used = tuple(name for name in features if errors[name] < 1)
    first = [mean([plain._end(end, *pair) for pair in seen]) for end in ends]
    end_weights = tuple(1 / max(value, _LEAST) for value in first) if len(ends) > 1 else (1.0,)
    at_ends = sum(weight * value for weight, value in zip(end_weights, first, strict=True))
    weights = tuple(share * at_ends / (len(used) * max(errors[name], _LEAST)) for name in used)
    # In the block-wise loss the outputs are one term among the blocks.
    starts = tuple(errors[name] / max(at_ends, _LEAST) for name in used)
    return Loss(ends, used, temperature, variances, end_weights, weights, starts, lead, lead_scale)


def _variance(tensors: Sequence[Tensor]) -> float:
    """Compute the variance of all values of a tensor, or their mean square if they are constant."""
    values = torch.cat([tensor.float().reshape(-1) for tensor in tensors])
    variance = float(values.var(unbiased=False)) if len(values) > 1 else 0.0
    return variance or float(values.square().mean()) or 1.0
