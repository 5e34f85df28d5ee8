"""What of a network can be pruned, layer by layer, and what stands in the way; nothing is run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.data.recipe import OPEN_SIDE
from onnxprune.errors import UsageError
from onnxprune.graph.channels import channel_map
from onnxprune.graph.cost import cost_model
from onnxprune.graph.load import read_model
from onnxprune.graph.net import dims
from onnxprune.options import Options
from onnxprune.runtime.inputs import input_specs
from onnxprune.runtime.meaning import meanings
from onnxprune.stages.choose import forbidden_sites
from onnxprune.stages.room import Room
from onnxprune.stages.start import prepared

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import onnx

    from onnxprune.data import InputSpec
    from onnxprune.graph.channels import ChannelGroup, ChannelMap
    from onnxprune.graph.cost import CostModel
    from onnxprune.graph.net import Net
    from onnxprune.runtime.meaning import OutputKind

__all__ = ["GroupReport", "Inspection", "LayerReport", "OutputReport", "run_inspection"]

SCHEMA = 1


@dataclass(frozen=True)
class LayerReport:
    """One Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        name: the node.
        op: its operator.
        weight: shape of its weights.
        macs: for one sample.
        params: elements of its weights.
        group: names of the groups that its output channels belong to; none where they are no group.
        reason: why its output channels must all stay; empty: any number of them may go.
        inputs_prunable: whether input channels may go.
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
    """Channels that go together, or the reasons why they stay; see `graph.channels.ChannelGroup`."""

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    pins: tuple[str, ...]


@dataclass(frozen=True)
class OutputReport:
    """One output of the network.

    Attributes:
        name: of the output.
        shape: with symbols where sizes are open; None where the rank is unknown.
        kind: ``classes``, ``pixels``, ``values``, or ``undecided``: (N, C) scores of classes or C values.
        evidence: why, in words.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    kind: OutputKind
    evidence: str


@dataclass(frozen=True)
class Inspection:
    """The whole network, BatchNorms folded.

    Attributes:
        model: what was inspected.
        inputs: shape of each input that costs are counted for.
        layers: in topological order.
        groups: likewise.
        branches: names of the groups with which a residual branch may go whole.
        macs: for one sample.
        params: floating-point numbers in all constants.
        reach: share of the MACs that is in layers of which outputs or inputs may go, 0 to 1.
        halved: MACs over what is left of them when every group loses half of its channels.
        notes: what was made up.
        outputs: what each output means.
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
        """JSON-able."""
        return {"schema": SCHEMA, **asdict(self)}


def run_inspection(source: onnx.ModelProto | bytes | str | os.PathLike[str], *, size: int = OPEN_SIDE) -> Inspection:
    """Inspect a model.

    Args:
        source: the model.
        size: of every axis of an input that is left open, the batch apart, which is 1.

    Raises:
        OnnxPruneError: see `errors`.
    """
    if size < 1:
        raise UsageError(f"--size {size}: expected 1 or more")
    original, label = read_model(source)
    net, _, params = prepared(original, label)
    specs = input_specs(net)
    room = Room(Options().memory_bytes)
    channels = channel_map(net, forbidden=forbidden_sites(net, _shapes(specs, 2, size), room.solving))
    shapes = _shapes(specs, 1, size)
    cost = cost_model(net, channels, shapes)
    layers = _layers(net, channels, cost)
    total = cost.macs({})
    within = sum(layer.macs for layer in layers if layer.inputs_prunable or not layer.reason)
    half = {group.name: max(group.size // 2, 1) for group in channels.prunable}
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
        notes=tuple(f"'{name}' leaves sizes open: taken to be {size}, see --size" for name in made_up),
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
    read = {name for group in channels.prunable for name in group.consumers}
    macs, params = cost.layer_macs({}), cost.layer_params({})
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
                weight=cost.layer_axes(node.name, {}),
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
    return f"'{name}': its output channels are those of no group"
