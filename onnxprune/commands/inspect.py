"""Report for each layer whether it can be pruned, and the reason if not; the network is not run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.engine.inputs import input_specs
from onnxprune.engine.meaning import meanings
from onnxprune.errors import UsageError
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.model.load import read_parts
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.sizes import with_settled_sizes
from onnxprune.options.data import OPEN_SIDE
from onnxprune.options.reading import ReadOptions
from onnxprune.options.run import Options
from onnxprune.planning.assignment import Assignment
from onnxprune.planning.cost import cost_model
from onnxprune.steps.eligible import forbidden_sites
from onnxprune.steps.prepare import folded
from onnxprune.steps.room import Room

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import onnx

    from onnxprune.data import InputSpec
    from onnxprune.engine.meaning import OutputKind
    from onnxprune.graph.channels.groups import ChannelGroup, ChannelMap
    from onnxprune.graph.model.net import Net
    from onnxprune.planning.cost import CostModel

__all__ = ["GroupReport", "Inspection", "LayerReport", "OutputReport", "run_inspection"]

SCHEMA = 1


@dataclass(frozen=True)
class LayerReport:
    """Conv, ConvTranspose, Gemm or MatMul of the network.

    Attributes:
        name: name of the node.
        op: operator of the node.
        weight: shape of the weights.
        macs: multiply-accumulates for one sample.
        params: number of weights.
        group: names of the groups that the output channels belong to; empty if they belong to none.
        reason: reason why no output channel can be removed; empty if they can be.
        inputs_prunable: True if input channels can be removed.
    """

    name: str
    op: str
    weight: tuple[int, ...]
    macs: int
    params: int
    group: tuple[str, ...]
    reason: str
    inputs_prunable: bool


@dataclass(frozen=True)
class GroupReport:
    """Channels that are removed together; `pins` are the reasons why none can be, see `ChannelGroup`."""

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    pins: tuple[str, ...]


@dataclass(frozen=True)
class OutputReport:
    """Output of the network.

    Attributes:
        name: name of the output.
        shape: extents, with symbols for open ones; None if the rank is unknown.
        kind: meaning: ``classes``, ``pixels``, ``values``, or ``undecided`` ((N, C) class scores or C values).
        evidence: reason for this meaning, in words.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    kind: OutputKind
    evidence: str


@dataclass(frozen=True)
class Inspection:
    """Report on a whole network, BatchNorms folded.

    Attributes:
        model: label of the model.
        inputs: shape of each input, for which costs are counted.
        layers: layers, in topological order.
        groups: groups of channels, in topological order.
        branches: names of the groups whose removal removes a whole residual branch.
        macs: multiply-accumulates for one sample.
        params: number of floating-point numbers in all constants of the original.
        reach: share of the MACs in layers that can lose output or input channels, 0..1.
        halved: MACs divided by the MACs left when every group loses half of its channels.
        notes: sizes that were assumed.
        outputs: outputs and their meanings.
    """

    model: str
    inputs: dict[str, tuple[int, ...]]
    layers: tuple[LayerReport, ...]
    groups: tuple[GroupReport, ...]
    branches: tuple[str, ...]
    macs: int
    params: int
    reach: float
    halved: float
    notes: tuple[str, ...] = ()
    outputs: tuple[OutputReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {"schema": SCHEMA, **asdict(self)}


def run_inspection(
    source: onnx.ModelProto | bytes | str | os.PathLike[str],
    *,
    size: int = OPEN_SIDE,
    reading: ReadOptions | None = None,
) -> Inspection:
    """Inspect a model.

    Args:
        source: path, bytes or ModelProto.
        reading: tensors at which the inspection ends, and values of inputs, see `read_parts`.
        size: extent of every input axis that the model leaves open, 1 or more; an open batch axis is 1.

    Raises:
        UsageError: `size` is below 1.
        ModelError: the model cannot be read, or is not a model that can be pruned.
    """
    if size < 1:
        raise UsageError(f"--size must be 1 or more, found {size}")
    parts = read_parts(source, reading)
    label = parts.label
    net, _, params = folded(parts.front, label, parts.given)
    specs = input_specs(net)
    room = Room(Options().memory_bytes)
    two = _shapes(specs, 2, size)
    net = with_settled_sizes(net, two)
    channels = channel_map(net, forbidden=forbidden_sites(net, two, room.solving))
    shapes = _shapes(specs, 1, size)
    cost = cost_model(net, channels, shapes)
    layers = _layers(net, channels, cost)
    total = cost.macs()
    within = sum(layer.macs for layer in layers if layer.inputs_prunable or not layer.reason)
    half = Assignment({group.name: max(group.size // 2, 1) for group in channels.prunable})
    ends = tuple(note.text for note in parts.notes)
    unknown = tuple(f"'{note.subject}': {note.text}" for note in cost.notes)
    made_up = [spec.name for spec in specs if None in spec.shape[1:]]
    return Inspection(
        model=label,
        inputs=shapes,
        layers=layers,
        groups=tuple(GroupReport(g.name, g.size, g.producers, g.consumers, g.pins) for g in channels.groups),
        branches=tuple(cost.branches),
        macs=total,
        params=params,
        reach=within / total if total else 0.0,
        halved=total / max(cost.macs(half), 1),
        notes=(*ends, *unknown, *(f"'{name}' leaves sizes open: {size} assumed, see --size" for name in made_up)),
        outputs=_outputs(net),
    )


def _outputs(net: Net) -> tuple[OutputReport, ...]:
    tensors = net.tensors()
    return tuple(
        OutputReport(name, dims(tensors[name]), meaning.kind, meaning.evidence)
        for name, meaning in meanings(net).items()
    )


def _shapes(specs: Sequence[InputSpec], batch: int, size: int) -> dict[str, tuple[int, ...]]:
    return {spec.name: (spec.shape[0] or batch, *(side or size for side in spec.shape[1:])) for spec in specs}


def _layers(net: Net, channels: ChannelMap, cost: CostModel) -> tuple[LayerReport, ...]:
    made: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in channels.groups:
        for name in group.producers:
            made[name].append(group)
    read = {use.name for g in channels.prunable for name in g.consumers for use in channels.sites[name].uses}
    macs, params = cost.layer_macs(), cost.layer_params()
    found = []
    for node in net.nodes:
        if node.name not in cost.layers:
            continue
        groups = made[node.name]
        pins = [group.pins[0] for group in groups if group.pins]
        reason = pins[0] if pins else "" if groups else _why_none(node.name, channels)
        found.append(
            LayerReport(
                name=node.name,
                op=str(node.op),
                weight=cost.layer_axes(node.name),
                macs=macs[node.name],
                params=params[node.name],
                group=tuple(group.name for group in groups),
                reason=reason,
                inputs_prunable=node.name in read,
            )
        )
    return tuple(found)


def _why_none(name: str, channels: ChannelMap) -> str:
    if name in channels.fixed:
        return f"'{name}': {channels.fixed[name]}"
    return f"'{name}': its output channels belong to no group"
