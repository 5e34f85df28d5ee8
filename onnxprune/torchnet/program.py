"""A graph as a torch module: its nodes run one after the other, its initializers are parameters by their own names."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Net, captured_names, is_constant, values_of
from onnxprune.torchnet.ops import Call, UnsupportedError, op_for
from onnxprune.torchnet.ops.layout import tensor_of
from onnxprune.torchnet.ops.registry import TorchOp

__all__ = ["TorchNet", "affordable", "needed_nodes", "unsupported", "with_weights_of"]

_MOST_NAMED = 3
_OURS = frozenset({"norms", "sample", "_steps", "_source", "_model", "_norm_of"})
"""Names of the modules' own that no initializer gets."""


@dataclass(frozen=True)
class _Step:
    """One node."""

    name: str
    function: TorchOp
    call: Call
    inputs: tuple[str, ...]  # empty: absent
    outputs: tuple[str, ...]
    last: tuple[str, ...]  # what nobody reads any more behind it


class _Part(nn.Module):
    """Part of a dotted name."""


class TorchNet(nn.Module):
    """The nodes that some tensors need, run by torch.

    ``forward`` takes the graph's inputs in their order and returns its outputs, one or a tuple. Parameters and buffers
    are called what the initializers are called, but for characters and words that torch does not allow in a name;
    `keys` has the translation.

    Attributes:
        input_names: of the graph.
        output_names: the tensors that ``forward`` returns.
        keys: name in the state dict per floating-point initializer.
    """

    def __init__(self, net: Net, trainable: Collection[str] = (), outputs: Sequence[str] | None = None) -> None:
        """``trainable``: initializers that become parameters, the others become buffers. ``outputs``: the graph's own
        unless given.

        Raises:
            ModelError: a node that is needed cannot be run by torch; all such operators are listed.
        """
        super().__init__()
        self.input_names = net.input_names
        self.output_names = net.output_names if outputs is None else tuple(outputs)
        nodes = needed_nodes(net, self.output_names)
        missing = unsupported(net, nodes)
        if missing:
            raise ModelError(f"{net.source}: {missing}")
        self.keys: dict[str, str] = {}
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._constants: dict[str, Tensor] = {}  # whole numbers: sizes and the like, read on the CPU
        read = {tensor.name: tensor for node in nodes for tensor in node.inputs if is_constant(tensor)}
        read |= {tensor.name: tensor for tensor in net.graph.outputs if is_constant(tensor)}
        for name, tensor in read.items():
            try:
                self._add(name, tensor_of(values_of(tensor)), name in trainable)
            except UnsupportedError as error:
                raise ModelError(f"{net.source}: initializer '{name}': torch has no {error}") from error
        self._steps = _steps(net, nodes, {*self.output_names})

    def _add(self, name: str, values: Tensor, trainable: bool) -> None:
        if not values.is_floating_point():
            self._constants[name] = values
            return
        owner: nn.Module = self
        *parts, leaf = [part or "_" for part in name.split(".")]
        path = []
        for part in parts:
            while (part not in owner._modules and hasattr(owner, part)) or part in _OURS:
                part += "_"
            if part not in owner._modules:
                owner.add_module(part, _Part())
            owner = owner.get_submodule(part)
            path.append(part)
        while hasattr(owner, leaf) or leaf in _OURS:
            leaf += "_"
        if trainable:
            owner.register_parameter(leaf, nn.Parameter(values))
        else:
            owner.register_buffer(leaf, values)
        self._owners[name] = owner, leaf
        self.keys[name] = ".".join([*path, leaf])

    def weight(self, name: str) -> Tensor:
        """The parameter or buffer of an initializer; KeyError if there is none."""
        owner, leaf = self._owners[name]
        found: Tensor = getattr(owner, leaf)
        return found

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run it.

        Args:
            inputs: the graph's inputs, in its order.

        Returns:
            Its output, or a tuple of them.
        """
        if len(inputs) != len(self.input_names):
            names = ", ".join(self.input_names)
            raise TypeError(f"expected {len(self.input_names)} inputs ({names}), got {len(inputs)}")
        found = self.run(dict(zip(self.input_names, inputs, strict=True)), self.output_names)
        results = tuple(found[name] for name in self.output_names)
        return results[0] if len(results) == 1 else results

    def run(self, feeds: Mapping[str, Tensor], wanted: Iterable[str], cuts: Collection[str] = ()) -> dict[str, Tensor]:
        """Tensors by name.

        Args:
            feeds: the graph's inputs.
            wanted: names of tensors between or behind the nodes.
            cuts: tensors through which no gradient goes back; what is returned of them still leads back to what made
                them.

        Raises:
            ModelError: a node is of a kind that torch cannot run.
        """
        kept = set(wanted)
        values: dict[str, Tensor] = {**self._constants, **{name: self._input(t) for name, t in feeds.items()}}
        values |= {name: getattr(owner, leaf) for name, (owner, leaf) in self._owners.items()}
        found = {name: values[name] for name in kept & values.keys()}
        for step in self._steps:
            try:
                result = step.function(step.call, *(values[name] if name else None for name in step.inputs))
            except UnsupportedError as error:
                raise ModelError(f"node '{step.name}': torch cannot run {error}") from error
            results = result if isinstance(result, tuple) else (result,)
            for name, tensor in zip(step.outputs, results, strict=False):
                if name in kept:
                    found[name] = tensor
                values[name] = tensor.detach() if name in cuts else tensor
            self._behind(step.outputs, values)
            for name in step.last:
                values.pop(name, None)
        return found

    def _behind(self, names: tuple[str, ...], values: dict[str, Tensor]) -> None:
        """Change a node's outputs; here they are returned as they are."""

    @staticmethod
    def _input(tensor: Tensor) -> Tensor:
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        # Convs of torch take half the time where the channels lie together.
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _steps(net: Net, nodes: Sequence[Any], kept: Collection[str]) -> tuple[_Step, ...]:
    last_read: dict[str, int] = {}
    for position, node in enumerate(nodes):
        last_read.update({tensor.name: position for tensor in node.inputs if not tensor.is_empty()})
        last_read.update({tensor.name: position for tensor in node.outputs if tensor.name not in last_read})
    made = {tensor.name for node in nodes for tensor in node.outputs}
    ends: dict[int, list[str]] = {}
    for name, position in last_read.items():
        if name in made and name not in kept:
            ends.setdefault(position, []).append(name)
    steps = []
    for position, node in enumerate(nodes):
        found = op_for(node.op, node.domain, net.opset)
        assert not isinstance(found, str)
        function, revision = found
        attributes = {name: values_of(v) if is_constant(v) else v for name, v in node.attrs.items()}
        inputs = [tensor.name if not tensor.is_empty() else "" for tensor in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = tuple(tensor.name for tensor in node.outputs)
        call = Call(node.op, attributes, revision, sum(bool(name) for name in outputs))
        steps.append(_Step(node.name, function, call, tuple(inputs), outputs, tuple(ends.get(position, ()))))
    return tuple(steps)


def affordable(net: Net, sample: Mapping[str, np.ndarray[Any, Any]], memory: int) -> int:
    """Samples like one of one row whose activations, of a forward and a backward pass, fit in so many bytes."""
    shaped = net.with_input_shapes({name: array.shape for name, array in sample.items()})
    sizes = [
        4 * math.prod(int(size) if isinstance(size, int) else 1 for size in tensor.shape or ())
        for tensor in shaped.tensors().values()
        if not is_constant(tensor)
    ]
    return max(memory // max(3 * sum(sizes), 1), 1)


def needed_nodes(net: Net, outputs: Iterable[str]) -> list[Any]:
    """The nodes that some tensors depend on, in order of execution."""
    wanted = set(outputs)
    chosen = []
    for node in reversed(net.nodes):
        if any(tensor.name in wanted for tensor in node.outputs):
            chosen.append(node)
            wanted.update(tensor.name for tensor in node.inputs if not tensor.is_empty())
            wanted.update(captured_names(node))
    return chosen[::-1]


def unsupported(net: Net, nodes: Iterable[Any]) -> str:
    """All operators among the nodes that torch cannot run, in words; empty: none."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        answer = op_for(node.op, node.domain, net.opset)
        if isinstance(answer, str):
            found.setdefault(answer, []).append(str(node.name))
    if not found:
        return ""
    listed = "; ".join(
        f"{what} ({', '.join(repr(name) for name in names[:_MOST_NAMED])}"
        + (f" and {len(names) - _MOST_NAMED} more)" if len(names) > _MOST_NAMED else ")")
        for what, names in found.items()
    )
    return (
        f"no torch function for {listed}: such a network cannot be trained here; leave --recover out, or end in front "
        "of it with --until"
    )


def with_weights_of(net: Net, module: TorchNet) -> Net:
    """The network with the module's values in the place of its initializers, each in its own type."""
    draft = net.draft()
    tensors = draft.tensors()
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    for name, key in module.keys.items():
        if key in trained:
            tensor = tensors[name]
            values = module.weight(name).detach().cpu().numpy()
            tensor.values = np.ascontiguousarray(values.astype(values_of(tensor).dtype))
    return draft.done()
