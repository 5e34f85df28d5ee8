"""Prepare a run: load and fold the network, open its inputs, and put together what every step needs.

A `Prepared` run is the one argument of all steps. It is frozen: a step that changes something returns a new value.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxprune.cache import Cache, scratch_parent
from onnxprune.data.decoded import decoded_once
from onnxprune.data.layout import image_input
from onnxprune.engine.batching import batch_size, group_batches, peak_bytes, sample_shapes, tensor_bytes
from onnxprune.engine.capture import Positions
from onnxprune.engine.frontier import Batch
from onnxprune.engine.inputs import input_specs
from onnxprune.engine.seen import by_sample, with_seen_sizes
from onnxprune.engine.sessions import Engine
from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.picture import find_picture
from onnxprune.graph.edit.weights import ensure_biases
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import Parts, load, read_parts
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.save import complaint
from onnxprune.graph.model.schedule import schedule
from onnxprune.graph.model.sizes import with_settled_sizes
from onnxprune.planning.cost import cost_model
from onnxprune.scratch import scratch_folder
from onnxprune.steps.eligible import Eligible, eligible, forbidden_sites
from onnxprune.steps.inputs import Inputs, open_inputs
from onnxprune.steps.room import Room
from onnxprune.steps.stopwatch import Stopwatch

if TYPE_CHECKING:
    from onnxprune.data import CalibrationSource
    from onnxprune.engine.evaluation import Evaluator
    from onnxprune.graph.channels.groups import ChannelMap
    from onnxprune.graph.edit.picture import Picture
    from onnxprune.graph.model.net import Net
    from onnxprune.graph.model.schedule import Schedule
    from onnxprune.note import Note
    from onnxprune.options.budget import Budget
    from onnxprune.options.run import Options
    from onnxprune.planning.cost import CostModel
    from onnxprune.progress import Progress

    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Source = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = [
    "Network",
    "Prepared",
    "folded",
    "on_picture",
    "open_cache",
    "prepare",
    "with_fewer_inputs",
]


_MOST_OF_MEMORY = 2  # times the memory limit that one run on one input may take


@dataclass(frozen=True, eq=False)
class Network:
    """The original network.

    Attributes:
        parts: the whole model: the front, as read, and the tail behind it.
        params: number of its parameters before folding.
        notes: changes made when it was loaded and folded.
        full: the folded network, every MatMul site with a bias.
        net: the network to compress: `full`, or `full` on a smaller picture.
        channels: channel map of `net`.
        forbidden: reasons why sites cannot be fitted, by name.
        order: order in which the original and the compressed network run.
        sizes: bytes of each tensor for one sample, if known.
        place: place at which the picture can be resized; None if it cannot.
        fixed_picture: reason why the picture cannot be resized; empty if it can.
        picture: height and width of the smaller picture in pixels; None for the original size.
    """

    parts: Parts
    params: int
    notes: tuple[Note, ...]
    full: Net
    net: Net
    channels: ChannelMap
    forbidden: Mapping[str, str]
    order: Schedule
    sizes: Mapping[str, int]
    place: Picture | None = None
    fixed_picture: str = ""
    picture: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared run: the network, its inputs, and everything that the steps have in common.

    Attributes:
        network: the original network.
        inputs: inputs and their division.
        cost: cost model of the network.
        eligible: groups and layers that may be compressed.
        options: options of the run.
        engine: onnxruntime with its provider and threads.
        batches: batches of the samples to fit on.
        positions: positions at which layers are sampled.
        cache: storage of finished work.
        scratch: folder for held activations that do not fit in memory.
        progress: callback (stage, done, total, detail).
        clock: wall time of the stages.
        evaluator: the user's own measure with its value for the original; None without one.
        full_cost: cost model of the original, if `network` is on a smaller picture.
        whole: True if `network` is to be kept whole, because the smaller picture or folding alone meets the budget.
        folding: time of the original as given divided by that of the folded one, for a latency budget; else 1.
    """

    network: Network
    inputs: Inputs
    cost: CostModel
    eligible: Eligible
    options: Options
    engine: Engine
    batches: tuple[Batch, ...]
    positions: Positions
    cache: Cache
    scratch: Path
    progress: Progress
    clock: Stopwatch = field(default_factory=Stopwatch)
    evaluator: Evaluator | None = None
    full_cost: CostModel | None = None
    whole: bool = False
    folding: float = 1.0

    @property
    def net(self) -> Net:
        """The network to compress, folded: the original, or the original on a smaller picture."""
        return self.network.net

    @property
    def before(self) -> CostModel:
        """Cost model of the original on its own picture."""
        return self.full_cost or self.cost

    @property
    def limit(self) -> Budget:
        """Budget of the options, its fraction one of the cost of `net`; above 1 if `net` is within it as it is."""
        budget = self.options.budget
        if self.full_cost is None or budget.kind != "macs":
            return budget
        return replace(budget, fraction=budget.fraction * self.full_cost.macs() / self.cost.macs())

    @property
    def channels(self) -> ChannelMap:
        """Channel map of the original."""
        return self.network.channels

    @property
    def order(self) -> Schedule:
        """Order in which the original and the compressed network run."""
        return self.network.order

    @property
    def room(self) -> Room:
        """Shares of the memory limit."""
        return Room(self.options.memory_bytes)

    @property
    def fixed(self) -> bool:
        """Whether the model fixes the batch size."""
        return any(spec.shape[0] is not None for spec in self.inputs.specs)

    def halves(self, batch: Batch, rows: int) -> Indices:
        """Return the half (0 or 1) of each row of a batch: equally many rows per real image, padding left out."""
        images = self.inputs.parts.halves[list(batch.samples[: batch.real])].astype(np.int64)
        return np.repeat(images, rows // len(images))

    def batches_of(self, half: int) -> tuple[Batch, ...]:
        """Return the batches restricted to one half; batches of a fixed size are padded with their last sample."""
        found = []
        for batch in self.batches:
            own = [sample for sample in batch.samples[: batch.real] if self.inputs.parts.halves[sample] == half]
            if own:
                fill = len(batch.samples) - len(own) if self.fixed else 0
                found.append(Batch((*own, *own[-1:] * fill), len(own)))
        return tuple(found)


def folded(model: onnx.ModelProto, label: str, given: Collection[str] = ()) -> tuple[Net, tuple[Note, ...], int]:
    """Load and fold a model; return the network to work on, notes on the changes, and the number of its parameters.

    Args:
        model: the model.
        label: name of the model in errors.
        given: names of inputs with a default value.

    Raises:
        ModelError: the model cannot be loaded, or does not pass onnx's checks before any compression.
    """
    net, loaded = load(model, label=label, given=given)
    plain, changes = fold(net)
    ready = ensure_biases(plain)
    if found := complaint(ready):
        raise ModelError(f"{label}: the model does not pass onnx's own checks: {found}")
    return ready, (*loaded, *changes), net.parameters()


def open_cache(original: onnx.ModelProto, inputs: Inputs, options: Options) -> Cache:
    """Open the cache of a run, keyed by its model, its inputs and their sampling.

    Raises:
        UsageError: the folder cannot be made.
    """
    return Cache(
        options.cache_dir,
        lambda: {
            "model": hashlib.sha256(original.SerializeToString(deterministic=True)).hexdigest(),
            "data": inputs.calibration.digest(),
            "samples": hashlib.sha256(inputs.fit.tobytes() + inputs.parts.halves.tobytes()).hexdigest(),
            "points": (options.points, options.least_points),
            "seed": options.seed,
            "outputs": repr(sorted((name, one.kind) for name, one in inputs.outputs.items())),
        },
    )


@contextmanager
def prepare(
    source: Source,
    data: CalibrationSource | None,
    options: Options,
    progress: Progress,
    *,
    choosing: bool = False,
) -> Iterator[Prepared]:
    """Prepare a run; its held activations are deleted when the context ends.

    Args:
        source: the original: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        options: options of the run.
        progress: callback (stage, done, total, detail).
        choosing: set some inputs apart to choose between results by; for a budget that a smaller picture may meet they
            always are.

    Raises:
        UsageError: a pattern of the options matches no layer.
        ModelError: the model cannot be read, or is not a model that can be pruned.
        DataError: the inputs cannot be read, or do not fit the model.
        EngineError: onnxruntime cannot be started.
    """
    clock = Stopwatch()
    with clock("load"):
        parts = read_parts(source, options, custom=bool(options.engine.ops_library))
        net, notes, params = folded(parts.front, parts.label, parts.given)
        place, why = _place(net, options)
        choosing = choosing or (place is not None and options.resizes)
        inputs = open_inputs(source, data, net, options, choosing=choosing)
        engine = Engine.open(options.engine)
        net = with_seen_sizes(net, engine, inputs.probe)
        if net.header.seen:
            place, why = None, f"the size of '{net.header.seen[0].name}' is known from runs only"
        network = _network(parts, params, (*parts.notes, *notes), net, inputs, options, engine)
        network = replace(network, place=place, fixed_picture=why)
        cost = _cost(network, inputs)
    parent = None if options.cache_dir is None else scratch_parent(options.cache_dir)
    with (
        open_cache(parts.front, inputs, options) as cache,
        scratch_folder(parent) as scratch,
    ):
        yield Prepared(
            network=network,
            inputs=replace(inputs, calibration=decoded_once(inputs.calibration, scratch)),
            cost=cost,
            eligible=_eligible(network, cost, options),
            options=options,
            engine=engine,
            batches=_batches(network, inputs, options),
            positions=Positions(len(inputs.fit), options.points, options.seed, options.least_points),
            cache=cache,
            scratch=scratch,
            progress=progress,
            clock=clock,
        )


def on_picture(run: Prepared, net: Net, size: tuple[int, int]) -> Prepared:
    """Return the run with another network to compress: the original on a smaller picture.

    Args:
        run: the prepared run.
        net: the folded original on the smaller picture.
        size: height and width of the picture in pixels.
    """
    first, inputs, options = run.network, run.inputs, run.options
    network = _network(first.parts, first.params, first.notes, net, inputs, options, run.engine)
    network = replace(network, full=first.full, place=first.place, picture=size)
    cost = _cost(network, inputs)
    return replace(
        run,
        network=network,
        cost=cost,
        full_cost=run.before,
        eligible=_eligible(network, cost, options),
        batches=_batches(network, inputs, options),
        cache=run.cache.under("picture", size),
    )


def with_fewer_inputs(run: Prepared, count: int) -> Prepared:
    """Return the run with at most `count` samples to fit on, spread evenly over its samples to fit on."""
    inputs, options = run.inputs, run.options
    if len(inputs.fit) <= count:
        return run
    fit = inputs.fit[np.linspace(0, len(inputs.fit) - 1, count).round().astype(np.int64)]
    inputs = replace(inputs, parts=replace(inputs.parts, fit=fit))
    return replace(
        run,
        inputs=inputs,
        batches=_batches(run.network, inputs, options),
        positions=Positions(len(fit), options.points, options.seed, options.least_points),
        cache=run.cache.under("fewer inputs", count),
    )


def _place(net: Net, options: Options) -> tuple[Picture | None, str]:
    """Find the place at which the picture of a network can be resized; None and the reason if it cannot."""
    specs = input_specs(net)
    try:
        if len(specs) > 1:
            raise ModelError(f"the model has {len(specs)} inputs")
        image = image_input(specs[0], options.data)
        if image is None:
            raise ModelError(f"input '{specs[0].name}' is no picture")
        for name in net.output_names:
            shape = dims(net.tensors()[name])
            if shape is None or sum(side != 1 for side in shape[1:]) > 1:
                raise ModelError(f"output '{name}' may have a value for each position")
        return find_picture(net, specs[0].name, (2, 3) if image.layout == "nchw" else (1, 2)), ""
    except (ModelError, UsageError) as error:
        return None, str(error)


def _network(
    parts: Parts,
    params: int,
    notes: tuple[Note, ...],
    net: Net,
    inputs: Inputs,
    options: Options,
    engine: Engine,
) -> Network:
    one, two = (sample_shapes(inputs.calibration, inputs.specs, batch) for batch in (1, 2))
    net = with_settled_sizes(net, two)
    seen = partial(by_sample, net, engine, inputs.probe)
    forbidden = forbidden_sites(net, two, Room(options.memory_bytes).solving, seen)
    channels = channel_map(net, forbidden=forbidden)
    sizes = tensor_bytes(net, one)
    order = schedule(net, ([use.name for use in site.uses] for site in channels.sites.values()))
    peak = peak_bytes(order, sizes)
    if peak > _MOST_OF_MEMORY * options.memory_bytes:
        raise ModelError(
            f"{net.source}: one input takes {peak / 2**30:,.1f} GB of activations, more than {_MOST_OF_MEMORY} times "
            f"--memory ({options.memory_bytes / 2**30:.1f} GB): give smaller inputs, or a larger --memory"
        )
    return Network(parts, params, notes, net, net, channels, forbidden, order, sizes)


def _cost(network: Network, inputs: Inputs) -> CostModel:
    return cost_model(network.net, network.channels, sample_shapes(inputs.calibration, inputs.specs))


def _eligible(network: Network, cost: CostModel, options: Options) -> Eligible:
    room = Room(options.memory_bytes)
    return eligible(network.net, cost, network.channels, options, network.forbidden, room.solving)


def _batches(network: Network, inputs: Inputs, options: Options) -> tuple[Batch, ...]:
    size = batch_size(network.order, network.sizes, Room(options.memory_bytes).running)
    return group_batches(inputs.fit, inputs.specs, size)
