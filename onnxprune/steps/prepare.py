"""Start of every job: prepare the network, open its inputs, and make the workload of the stages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.data import open_calibration, split
from onnxprune.engine.batching import batch_size, group_batches, sample_shapes, tensor_bytes
from onnxprune.engine.capture import Positions
from onnxprune.engine.inputs import input_specs
from onnxprune.engine.meaning import meanings, with_labels
from onnxprune.engine.sessions import Engine
from onnxprune.errors import ModelError
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.edit.weights import ensure_biases
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.save import complaint
from onnxprune.graph.model.schedule import schedule
from onnxprune.steps.checkpoint import SCRATCH_PREFIX, make_cache_dir, own_folder
from onnxprune.steps.eligible import forbidden_sites
from onnxprune.steps.room import Room
from onnxprune.steps.workload import Inputs, Workload

if TYPE_CHECKING:
    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.graph.model.net import Net
    from onnxprune.note import Note
    from onnxprune.options.run import Options
    from onnxprune.progress import Progress

__all__ = ["open_inputs", "prepared", "workload"]


def prepared(original: onnx.ModelProto, label: str) -> tuple[Net, tuple[Note, ...], int]:
    """Load and fold a model; return the network to work on, notes on the changes, and the number of its parameters.

    Args:
        original: the model.
        label: name of the model in errors.

    Raises:
        ModelError: the model cannot be loaded, or does not pass onnx's checks before any compression.
    """
    net, loaded = load(original, label=label)
    plain, folded = fold(net)
    ready = ensure_biases(plain)
    found = complaint(ready)
    if found:
        raise ModelError(f"{label}: the model does not pass onnx's own checks: {found}")
    return ready, (*loaded, *folded), net.parameters()


def open_inputs(
    source: object, data: CalibrationSource | None, net: Net, options: Options, *, choosing: bool = False
) -> Inputs:
    """Open and split the calibration inputs, and derive the meanings of the outputs.

    Args:
        source: the model; if it is a path, inputs may be next to it.
        data: calibration inputs, see `open_calibration`.
        net: the network.
        options: preprocessing, number of samples, seed, and meanings of outputs.
        choosing: set some inputs apart to choose between results by.

    Raises:
        UsageError: `Options.outputs` does not fit the network.
        DataError: the inputs cannot be read, or are too few.
    """
    specs, outputs = input_specs(net), meanings(net, options.outputs)
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    calibration = open_calibration(data, specs, options.data, model_path=path, seed=options.seed)
    parts = split(calibration, options.samples, choosing=choosing, seed=options.seed)
    outputs = with_labels(net, outputs, calibration.labels, str(calibration.description["source"]))
    return Inputs(specs, calibration, parts, outputs)


@contextmanager
def workload(net: Net, inputs: Inputs, options: Options, progress: Progress) -> Iterator[Workload]:
    """Make the workload of the stages; its held activations are deleted when the context ends."""
    memory = options.memory_bytes
    room = Room(memory)
    forbidden = forbidden_sites(net, sample_shapes(inputs.calibration, inputs.specs, 2), room.solving)
    order, sizes = schedule(net), tensor_bytes(net, sample_shapes(inputs.calibration, inputs.specs))
    size = batch_size(order, sizes, room.running)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=_scratch(options)) as scratch:
        yield Workload(
            net=net,
            channels=channel_map(net, forbidden=forbidden),
            forbidden=forbidden,
            order=order,
            engine=Engine.open(options.engine),
            calibration=inputs.calibration,
            batches=group_batches(inputs.fit, inputs.specs, size),
            half_of=inputs.parts.halves,
            positions=Positions(len(inputs.fit), options.points, options.seed, options.least_points),
            memory=memory,
            sizes=sizes,
            scratch=Path(scratch),
            progress=progress,
            outputs=inputs.outputs,
        )


def _scratch(options: Options) -> Path | None:
    """Return the folder for held activations: in the cache, or None for the system's folder for temporary files."""
    if options.cache_dir is None:
        return None
    own = own_folder(options.cache_dir)
    make_cache_dir(own)
    return own
