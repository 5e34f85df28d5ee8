"""The part of a model that is compressed, and the part behind it that stays as it is.

Selection operators (NonMaxSuppression, TopK, NonZero) give results whose sizes or order depend on the data, so that two
networks cannot be compared behind them; and some nodes no engine here can run (plugins, custom domains). A model is cut
in front of such nodes: the outputs of the *front* are the tensors at the cut, and the *tail* is put back behind the
compressed front, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import onnx

from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.model.net import LAYERS, is_standard, lengthened
from onnxprune.graph.model.protos import bodies_of, names_read

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

__all__ = ["Tail", "cut_at", "cut_automatically"]

_Message = TypeVar("_Message", onnx.NodeProto, onnx.TensorProto, onnx.ValueInfoProto)
_SELECTING = frozenset({"Compress", "MaxRoiPool", "NonMaxSuppression", "NonZero", "RoiAlign", "TopK", "Unique"})
_SEQUENCES = frozenset(
    {"Optional", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceMap", "SplitToSequence", "ZipMap"}
)
_DOMAINS = frozenset({"ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"})
_FAMILIES = ("com.microsoft", "org.pytorch")
_SIZES = frozenset({"Shape", "Size"})
_SHOWN = 6


@dataclass(frozen=True)
class Tail:
    """Part of a model behind a cut.

    Attributes:
        ends: names of the tensors at the cut, which are outputs of the front.
        nodes: nodes of the tail, in order.
        constants: initializers that the nodes read.
        whole: the whole model without nodes and initializers: inputs, outputs, operator sets.
        runs: False if the tail must not be run, or reads inputs that the front does not have.
    """

    ends: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    whole: onnx.ModelProto
    runs: bool

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        known = {tensor.name for tensor in self.constants}
        return sum(node.op_type in LAYERS and bool(known.intersection(node.input)) for node in self.nodes)

    @property
    def operators(self) -> tuple[str, ...]:
        """Selection operators of the tail, or all its operators if it has none."""
        chosen = [node.op_type for node in self.nodes if _selects(node)]
        return tuple(dict.fromkeys(chosen or [node.op_type for node in self.nodes]))

    def joined(self, front: onnx.ModelProto) -> onnx.ModelProto:
        """Return a front, compressed or not, with the tail behind it."""
        model = onnx.ModelProto()
        model.CopyFrom(front)
        graph, whole = model.graph, self.whole.graph
        outputs = [value.name for value in whole.output]
        made = {name for node in self.nodes for name in node.output if name}
        ours = set(_names(graph))
        clashes = ours.intersection(made.intersection(outputs))
        _rename(graph.node, _others(clashes, ours | made), graph.initializer)
        nodes = [_copy(node) for node in self.nodes]
        ours = set(_names(graph))
        given = {value.name for value in whole.input}  # an input with a default value: one for both parts
        constants = [_copy(t) for t in self.constants if t.name not in given or t.name not in ours]
        inner = made.difference(outputs) | {tensor.name for tensor in constants if tensor.name not in given}
        _rename(nodes, _others(inner & ours, ours | made | inner), constants)
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        left = {value.name: value for value in graph.input}
        inputs = [left.pop(value.name, value) for value in whole.input]
        inputs = [_copy(value) for value in (*inputs, *left.values())]
        del graph.input[:], graph.output[:]
        graph.input.extend(inputs)
        graph.output.extend(whole.output)
        kept = {entry.domain for entry in model.opset_import}
        model.opset_import.extend(entry for entry in self.whole.opset_import if entry.domain not in kept)
        return model


def cut_automatically(model: onnx.ModelProto, *, custom: bool = False) -> tuple[onnx.ModelProto, Tail | None]:
    """Cut a model in front of selection operators, of what makes sequences for outputs, and of unknown operators that
    no layer follows.

    Args:
        model: the model, its nodes in order of execution.
        custom: whether operators of custom domains can be run, so that they are no reason for a cut.

    Returns:
        The front and the tail; the whole model and None if no such operator is behind a layer.
    """
    given = _read_from_data(model.graph)
    behind = _reached(model.graph, lambda node: _selects(node) and not given.isdisjoint(names_read(node)))
    if any(value.type.WhichOneof("value") not in (None, "tensor_type") for value in model.graph.output):
        behind |= _reached(model.graph, lambda node: node.op_type in _SEQUENCES)
    unknown: set[str] = set() if custom else _reached(model.graph, _is_unknown)
    if any(_is_layer(node, given) and not unknown.isdisjoint(node.input) for node in model.graph.node):
        unknown = set()
    behind |= unknown
    if not behind:
        return model, None
    nodes = [node for node in model.graph.node if behind.intersection(node.output)]
    outputs = [value.name for value in model.graph.output if value.name not in behind]
    front, tail = _parted(model, nodes, outputs, runs=not unknown)
    return (front, tail) if tail.ends and _has_layers(front.graph) else (model, None)


def cut_at(
    model: onnx.ModelProto, until: Sequence[str], label: str, *, runs: bool = False
) -> tuple[onnx.ModelProto, Tail | None]:
    """Cut a model behind some tensors; the tail has all nodes that these tensors do not depend on.

    Args:
        model: the model, whose nodes may be unknown operators, in order of execution.
        until: names of tensors, or of nodes in place of all their outputs.
        label: name of the model in errors.
        runs: whether the tail may be run.

    Raises:
        UsageError: a name is neither that of a tensor nor that of a node.
        ModelError: nothing with weights is in front of the tensors.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    named = {node.name: [name for name in node.output if name] for node in graph.node if node.name}
    ends: list[str] = []
    for name in until:
        if name not in makers and name not in named:
            some = ", ".join(list(makers)[-_SHOWN:])
            raise UsageError(f"--until {name}: {label} has no such tensor or node; its last tensors are {some}")
        ends += [name] if name in makers else named[name]
    needed, waiting = set(ends), list(ends)
    while waiting:
        node = makers.get(waiting.pop())
        for name in names_read(node) if node is not None else ():
            if name not in needed:
                needed.add(name)
                waiting.append(name)
    nodes = [node for node in graph.node if needed.isdisjoint(node.output)]
    outputs = [*ends, *(value.name for value in graph.output if value.name in needed)]
    front, tail = _parted(model, nodes, outputs, runs=runs)
    if not _has_layers(front.graph):
        raise ModelError(f"{label}: nothing with weights is in front of {', '.join(until)}: name tensors further back")
    return front, tail if nodes else None


def _parted(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], *, runs: bool
) -> tuple[onnx.ModelProto, Tail]:
    """Part a model into the front, whose outputs are ``outputs`` and all tensors that the tail reads, and the tail.

    Tensors that depend on no layer, such as sizes of the input, are computed in the tail again.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    given = _read_from_data(graph)
    learnt: set[str] = set()
    for node in graph.node:
        if _is_layer(node, given) or not learnt.isdisjoint(names_read(node)):
            learnt.update(filter(None, node.output))
    members = {id(node) for node in nodes}
    waiting = [name for node in nodes for name in names_read(node)]
    read: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if name in read or (maker is not None and id(maker) in members):
            continue
        if maker is not None and name not in learnt:
            members.add(id(maker))
            waiting += names_read(maker)
        else:
            read[name] = None
    ends = tuple(name for name in read if name in makers)
    front, hollow = onnx.ModelProto(), onnx.ModelProto()
    front.CopyFrom(model)
    typed = {value.name: value for value in (*graph.value_info, *graph.output)}
    del front.graph.output[:]
    front.graph.output.extend(typed.get(n, onnx.ValueInfoProto(name=n)) for n in dict.fromkeys([*outputs, *ends]))
    _remove_unneeded(front.graph)
    hollow.CopyFrom(model)
    del hollow.graph.node[:], hollow.graph.initializer[:], hollow.graph.value_info[:]
    kept = tuple(_copy(node) for node in graph.node if id(node) in members)
    fed = {value.name for value in graph.input}.difference(constants)
    runs = runs and fed.issubset(value.name for value in front.graph.input)
    return front, Tail(ends, kept, tuple(_copy(constants[name]) for name in read if name in constants), hollow, runs)


def _is_layer(node: onnx.NodeProto, given: Container[str]) -> bool:
    """Tell whether a node multiplies an activation by weights, constant or computed."""
    return node.op_type in LAYERS and any(name not in given for name in node.input[:2])


def _has_layers(graph: onnx.GraphProto) -> bool:
    given = _read_from_data(graph)
    return any(_is_layer(node, given) for node in graph.node)


def _remove_unneeded(graph: onnx.GraphProto) -> None:
    """Remove the nodes, constants, inputs and known shapes that no output depends on."""
    needed = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(_copy(node))
            needed.update(names_read(node))
    made = needed | {name for node in nodes for name in node.output}
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    fields: tuple[tuple[Any, set[str]], ...] = (
        (graph.initializer, needed),
        (graph.input, needed),
        (graph.value_info, made),
    )
    for field, names in fields:
        kept = [_copy(entry) for entry in field if entry.name in names]
        del field[:]
        field.extend(kept)


def _reached(graph: onnx.GraphProto, starts: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Names of the outputs of some nodes, and of all tensors that depend on these."""
    found: set[str] = set()
    for node in graph.node:
        if not found.isdisjoint(names_read(node)) or starts(node):
            found.update(filter(None, node.output))
    return found


def _is_unknown(node: onnx.NodeProto) -> bool:
    """Tell whether onnxruntime lacks a node's operator: ONNX does not define it, or its domain is a custom one."""
    if is_standard(node):
        return not onnx.defs.has(node.op_type)
    return node.domain not in _DOMAINS and not node.domain.startswith(_FAMILIES)


def _selects(node: onnx.NodeProto) -> bool:
    """Tell whether a node, or one in its bodies, is a selection operator."""
    if node.op_type in _SELECTING:
        return True
    return any(_selects(inner) for body in bodies_of(node) for inner in body.node)


def _read_from_data(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors whose values depend on those of the inputs, and not on their sizes alone."""
    constants = {tensor.name for tensor in graph.initializer}
    found = {value.name for value in graph.input if value.name not in constants}
    for node in graph.node:
        if node.op_type not in _SIZES and not found.isdisjoint(names_read(node)):
            found.update(filter(None, node.output))
    return found


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of all tensors of a graph."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from filter(None, node.output)


def _others(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """Return a new name for each name, none of them taken or given twice."""
    found: dict[str, str] = {}
    for name in sorted(names):
        found[name] = lengthened(name, taken)
        taken = taken | {found[name]}
    return found


def _rename(
    nodes: Iterable[onnx.NodeProto], names: Mapping[str, str], constants: Iterable[onnx.TensorProto] = ()
) -> None:
    """Rename tensors in nodes, their bodies included, and constants."""
    if not names:
        return
    for node in nodes:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        for body in bodies_of(node):
            _rename(body.node, names, body.initializer)
            for value in (*body.output, *body.input):
                value.name = names.get(value.name, value.name)
    for tensor in constants:
        tensor.name = names.get(tensor.name, tensor.name)


def _copy(message: _Message) -> _Message:
    found = type(message)()
    found.CopyFrom(message)
    return found
