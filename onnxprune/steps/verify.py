"""Verification of the result against the original, before anything is written.

Three checks, each with its own error: removing channels equals zeroing them on this network, every output is finite
and has the original's shape, and the difference from the original is within the largest drop. Equivalent networks may
differ by rounding, see `rounding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import group_batches
from onnxprune.engine.divergence import DivergenceMeter
from onnxprune.engine.drop import losses, settles
from onnxprune.engine.frontier import Batch
from onnxprune.engine.rounding import Excess, beyond_rounding, difference
from onnxprune.errors import DataError, LostTooMuchError, ModelError, VerifyError
from onnxprune.graph.edit.remove import remove, zero
from onnxprune.graph.model.net import numpy_dtype
from onnxprune.graph.model.save import finished_model
from onnxprune.graph.model.schedule import segment_model
from onnxprune.steps.compress import Compressed
from onnxprune.steps.inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.sessions import Engine
    from onnxprune.graph.model.net import Net
    from onnxprune.progress import Progress
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = [
    "Verified",
    "check_drop",
    "check_loading",
    "check_removal",
    "check_rewritten",
    "compare_outputs",
    "first_difference",
    "verify",
]

_HELD_AT_ONCE = 8  # of each tensor: two networks, the parts compared, and runs that measure rounding
_SENSELESS = 10.0  # difference divided by size of an output at which any result is refused


@dataclass(frozen=True)
class Verified:
    """Verified result: the model to save, and the difference of each output from the original's."""

    model: onnx.ModelProto
    divergence: tuple[OutputDivergence, ...]


def verify(run: Prepared, compressed: Compressed, *, rehearsal: bool = False) -> Verified:
    """Verify the result of the compression on held-out inputs.

    Args:
        run: the prepared run.
        compressed: result of the compression.
        rehearsal: verify on the inputs to choose by instead, and do not search for the first tensor that differs.

    Raises:
        LostTooMuchError: the outputs lose more than ``options.max_drop``; without it, they bear no resemblance.
        VerifyError: removing does not equal zeroing, or an output is not finite.
        EngineError: onnxruntime cannot run the result.
    """
    inputs, options = run.inputs, run.options
    samples = inputs.choose if rehearsal else inputs.held
    batches = group_batches(samples, inputs.specs, len(run.batches[0].samples))
    check_removal(run, compressed.alive, batches[0])
    model = finished_model(compressed.net)
    check_end(run, model, batches[0])
    if compressed.net is not compressed.dense:
        check_rewritten(run, compressed.dense, model, batches[0])
    try:
        divergence = compare_outputs(run.engine, run.network.parts.front, model, inputs, batches, run.progress)
        if options.recover is None:  # else the drop is checked after the training
            check_drop(divergence, options.allowed_drop)
    except VerifyError as error:
        left = compressed.net.tensors().keys()
        place = None
        if not rehearsal:
            place = first_difference(run, compressed.dense, run.net, compressed.alive, batches[0], among=left)
        where = f"; the first tensor that diverges is '{place.name}'" if place else ""
        raise type(error)(f"{error}{where}; nothing was written") from error
    return Verified(model, divergence)


def check_loading(run: Prepared) -> None:
    """Check that the network after loading and folding has the outputs of the original.

    Raises:
        ModelError: the shapes that the model declares contradict its nodes.
        DataError: an output of the original is not finite.
        VerifyError: an output differs by more than rounding explains.
        EngineError: onnxruntime cannot run one of them.
    """
    net, original, engine = run.net, run.network.parts.front, run.engine
    try:
        plain = finished_model(net)
    except VerifyError as error:
        raise ModelError(f"{net.source}: {error}".replace("the result is not a valid model", "not valid")) from error
    feeds = run.inputs.calibration.load(run.batches[0].samples)
    wanted = engine.session(original, label="the original").run(feeds)
    for name, reference in wanted.items():
        if not _finite(reference):
            raise DataError(
                f"the original's output '{name}' is not finite on calibration inputs: check the preprocessing"
            )
    found = engine.session(plain, label="the original, folded").run(feeds)
    wrong = beyond_rounding(engine, found, wanted, (plain,), feeds)
    if wrong:
        raise VerifyError(
            f"folding constants and normalisations changed output '{wrong.name}' {wrong}: nothing was written; report "
            "the model"
        )


def check_end(run: Prepared, model: onnx.ModelProto, batch: Batch) -> None:
    """Check the whole network, if there are nodes behind the outputs that are compared: it runs, and its outputs are
    finite and of the original's ranks.

    Raises:
        VerifyError: an output is not.
        EngineError: onnxruntime cannot run the whole network.
    """
    parts = run.network.parts
    if parts.tail is None or not parts.tail.runs:
        return
    feeds = run.inputs.calibration.load(batch.samples)
    wanted, found = (
        run.engine.for_pieces().session(whole, label=label).run(feeds)
        for whole, label in ((parts.runnable(), "the original"), (parts.runnable(model), "the result"))
    )
    for name, reference in wanted.items():
        if found[name].ndim != reference.ndim or not _finite(found[name]):
            raise VerifyError(f"output '{name}' of the whole network is not finite, or has another rank")


def check_removal(run: Prepared, alive: Mask, batch: Batch) -> float:
    """Check on the original's weights that removing channels equals zeroing them.

    Args:
        run: the prepared run.
        alive: (units,) bool, units to keep.
        batch: samples to run.

    Returns:
        Largest difference of an output, as a share of its largest value.

    Raises:
        VerifyError: an output differs by more than rounding explains; the message names the first tensor that does.
    """
    smaller = remove(run.net, run.channels, run.channels.all_alive(), alive)
    masked = zero(run.net, run.channels, alive)
    feeds = run.inputs.calibration.load(batch.samples)
    outputs = run.net.output_names
    pieces = [_piece(run, net, outputs) for net in (smaller, masked)]
    removed, zeroed = (_run(run, piece, feeds, outputs) for piece in pieces)
    wrong = beyond_rounding(run.engine, removed, zeroed, pieces[1:], feeds)
    if wrong:
        wrong = first_difference(run, smaller, masked, alive, batch, share=0.0) or wrong
        raise VerifyError(
            f"removing channels does not equal zeroing them in this model: tensor '{wrong.name}' is the first to "
            f"differ, {wrong}; exclude the layers around it with --exclude, and report the model"
        )
    return max((difference(removed[name], zeroed[name]) for name in outputs), default=0.0)


def check_rewritten(run: Prepared, dense: Net, model: onnx.ModelProto, batch: Batch) -> None:
    """Check that the result has the outputs of the network before layers were decomposed and branches cut.

    Args:
        run: the prepared run.
        dense: the network with one node per layer, and with zero weights in removed branches.
        model: the result.
        batch: samples to run.

    Raises:
        VerifyError: an output differs by more than rounding explains.
        EngineError: onnxruntime cannot run one of them.
    """
    feeds = run.inputs.calibration.load(batch.samples)
    whole = finished_model(dense)
    wanted = run.engine.session(whole, label="the result in one piece a layer").run(feeds)
    found = run.engine.session(model, label="the result").run(feeds)
    # Factors may round where their product does not, so the rounding is measured on both networks.
    wrong = beyond_rounding(run.engine, found, wanted, (whole, model), feeds)
    if wrong:
        raise VerifyError(
            f"output '{wrong.name}' of the result differs {wrong} from what it was before layers were decomposed and "
            "branches cut: exclude layers with --exclude, and report the model"
        )


def _piece(run: Prepared, net: Net, names: Sequence[str]) -> onnx.ModelProto:
    """Export the whole network as a model with these tensors as its outputs."""
    return segment_model(net, run.order, 0, len(run.order.order), names)


def _run(run: Prepared, piece: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    session = run.engine.for_pieces().session(piece, label="self check")
    results = session.run({name: feeds[name] for name in session.input_names}, list(session.output_names))
    # An input of the graph may be one of the tensors.
    return {name: results.get(name, feeds.get(name, np.zeros(0))) for name in names}


def first_difference(
    run: Prepared,
    smaller: Net,
    full: Net,
    alive: Mask,
    batch: Batch,
    *,
    share: float = 0.5,
    among: Collection[str] | None = None,
) -> Excess | None:
    """Find the first tensor, in order of execution, in which two networks differ on the channels that both have.

    Args:
        run: the prepared run.
        smaller: network with only the channels of `alive`.
        full: network with all channels.
        alive: (units,) bool, units of `smaller`.
        batch: samples to run.
        share: difference that is allowed, as a share of the tensor's largest value, 0.5 by default; a difference that
            rounding explains is always allowed.
        among: names of the tensors to compare; None for all.

    Returns:
        The tensor and its difference; None if no tensor differs, or if the memory limit does not allow to hold all of
        them for the smallest batch.
    """
    tensors = full.tensors()
    names = [
        name
        for name in sorted(run.order.made, key=lambda name: run.order.made[name])
        if run.order.made[name] >= 0
        and name in tensors
        and _is_float(tensors[name])
        and (among is None or name in among)
    ]

    def cut(name: str, values: Array) -> Array:
        for axis in run.channels.by_tensor.get(name, ()):
            values = np.take(values, run.channels.alive_slots(axis, alive), axis=axis.axis)
        return values

    few = _affordable(run, names, batch)
    if few is None:
        return None
    feeds = run.inputs.calibration.load(few.samples)
    pieces = [_piece(run, net, names) for net in (smaller, full)]
    ours, theirs = (_run(run, piece, feeds, names) for piece in pieces)
    theirs = {name: cut(name, values) for name, values in theirs.items()}
    return beyond_rounding(run.engine, ours, theirs, pieces[1:], feeds, share=share, cut=cut)


def _affordable(run: Prepared, names: Sequence[str], batch: Batch) -> Batch | None:
    """Take as many samples of a batch as the memory limit allows for all of these tensors; None if too few."""
    bytes_held = _HELD_AT_ONCE * sum(run.network.sizes.get(name, 0) for name in names)
    count = run.options.memory_bytes // max(bytes_held, 1)
    if count >= len(batch.samples):
        return batch
    if not count or run.fixed:
        return None
    return Batch(batch.samples[:count], min(batch.real, count))


def _is_float(tensor: Any) -> bool:
    return tensor.dtype is not None and np.issubdtype(numpy_dtype(tensor.dtype), np.floating)


def compare_outputs(
    engine: Engine,
    original: onnx.ModelProto | bytes,
    result: onnx.ModelProto | bytes,
    inputs: Inputs,
    batches: Sequence[Batch],
    progress: Progress,
) -> tuple[OutputDivergence, ...]:
    """Compare the outputs of two models on batches of the inputs.

    Args:
        engine: engine that runs both.
        original: the original.
        result: the result.
        inputs: inputs of both, and the meanings of the outputs.
        batches: held-out samples, or samples to choose by.
        progress: callback (stage, done, total).

    Returns:
        Difference of each output.

    Raises:
        DataError: an output of the original is NaN or infinite on these inputs.
        VerifyError: an output of the result is not finite, or has another shape than the original's.
        EngineError: onnxruntime cannot run one of them.
    """
    before = engine.session(original, label="the original")
    after = engine.session(result, label="the result")
    meter = DivergenceMeter(inputs.outputs)
    for number, batch in enumerate(batches):
        progress("verify", number, len(batches))
        feeds = inputs.calibration.load(batch.samples)
        reference, candidate = before.run(feeds), after.run(feeds)
        for name, array in reference.items():
            if not _finite(array):
                raise DataError(
                    f"the original's output '{name}' is not finite on held-out inputs: check the preprocessing"
                )
        for name, array in candidate.items():
            if not _finite(array):
                raise VerifyError(f"the result's output '{name}' is not finite on held-out inputs")
        meter.add(reference, candidate, batch.real, len(batch.samples))
    progress("verify", len(batches), len(batches))
    return meter.finish(inputs.distinct)


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def check_drop(divergence: Sequence[OutputDivergence], max_drop: float | None) -> None:
    """Check the outputs against the largest drop, and against a senselessly large difference.

    Args:
        divergence: differences of the outputs, see `compare_outputs`.
        max_drop: largest drop allowed: percentage points of agreement for classes and pixels, relative error in per
            cent for values, both for undecided outputs; None for any.

    Raises:
        LostTooMuchError: an output loses more, or its difference exceeds 10 times its size.
    """
    for output in divergence:
        if not output.of_size <= _SENSELESS:
            raise LostTooMuchError(
                f"output '{output.name}' differs from the original's by {output.of_size:.3g} times its size on "
                "held-out inputs: choose a milder budget, or give more --samples"
            )
    if max_drop is None:
        return
    for lost in losses(divergence):
        if not lost.amount <= max_drop:
            hint = f"; {settles(lost.output)}" if lost.undecided else ""
            raise LostTooMuchError(
                f"output '{lost.output}': {lost.amount:.2f} {lost.words} on {lost.samples} held-out inputs, "
                f"--max-drop allows {max_drop:g}: choose a milder budget, or give more --samples{hint}"
            )
