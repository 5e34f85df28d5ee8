"""Verify: the result is run against the original before anything is written.

Three questions, each with its own answer when it fails: does removing channels equal zeroing them on this very
network, is every output finite and of the original's shape, and is the difference from the original within what was
asked for. Two networks that compute the same may differ by what rounding does to them, see `rounding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError, LostTooMuchError, ModelError, VerifyError
from onnxprune.graph.net import numpy_dtype
from onnxprune.graph.save import finished_model
from onnxprune.graph.schedule import segment
from onnxprune.graph.surgery import remove, zero
from onnxprune.runtime.divergence import DivergenceMeter
from onnxprune.runtime.drop import losses, settles
from onnxprune.stages.rounding import Excess, beyond_rounding, difference

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from onnxprune.data import Calibration
    from onnxprune.graph.net import Net
    from onnxprune.runtime.divergence import OutputDivergence
    from onnxprune.runtime.frontier import Batch
    from onnxprune.runtime.sessions import Engine
    from onnxprune.stages.workload import Inputs, Progress, Workload

    Array = np.ndarray[Any, Any]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["check_drop", "check_loading", "check_removal", "check_rewritten", "compare_outputs", "first_difference"]

_SENSELESS = 10.0  # difference over size of an output, of whatever network


def check_loading(engine: Engine, original: onnx.ModelProto, net: Net, calibration: Calibration, batch: Batch) -> None:
    """Run the original, and the network that loading and folding made of it: both must give the same outputs.

    Raises:
        ModelError: the shapes that the model declares contradict its nodes.
        DataError: an output of the original is not finite.
        VerifyError: an output differs by more than rounding explains.
        EngineError: one of them cannot be run.
    """
    try:
        plain = finished_model(net)
    except VerifyError as error:
        raise ModelError(f"{net.source}: {error}".replace("the result is not a valid model", "not valid")) from error
    feeds = calibration.load(batch.samples)
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


def check_removal(work: Workload, alive: Mask, batch: Batch) -> float:
    """Run the original with channels removed, and with them zeroed, before any weight is fitted anew.

    Returns:
        The largest difference, as a share of the largest value of the output.

    Raises:
        VerifyError: an output differs by more than rounding explains; the message has the first tensor that does.
    """
    smaller = remove(work.net, work.channels, work.channels.all_alive(), alive)
    masked = zero(work.net, work.channels, alive)
    feeds = work.calibration.load(batch.samples)
    outputs = work.net.output_names
    pieces = [_piece(work, net, outputs) for net in (smaller, masked)]
    removed, zeroed = (_run(work, piece, feeds, outputs) for piece in pieces)
    wrong = beyond_rounding(work.engine, removed, zeroed, pieces[1:], feeds)
    if wrong:
        wrong = first_difference(work, smaller, masked, alive, batch, share=0.0) or wrong
        raise VerifyError(
            f"removing channels is not the same as zeroing them in this model: tensor '{wrong.name}' is the first to "
            f"differ, {wrong}; exclude the layers around it with --exclude, and report the model"
        )
    return max((difference(removed[name], zeroed[name]) for name in outputs), default=0.0)


def check_rewritten(engine: Engine, dense: Net, model: onnx.ModelProto, calibration: Calibration, batch: Batch) -> None:
    """Run the result, and the network in which one node stands for every V, H and P and no branch is cut: both must
    give the same outputs.

    Raises:
        VerifyError: an output differs by more than rounding explains.
        EngineError: one of them cannot be run.
    """
    feeds = calibration.load(batch.samples)
    whole = finished_model(dense)
    wanted = engine.session(whole, label="the result in one piece a layer").run(feeds)
    found = engine.session(model, label="the result").run(feeds)
    # Factors may round where their product does not: both networks say by how much.
    wrong = beyond_rounding(engine, found, wanted, (whole, model), feeds)
    if wrong:
        raise VerifyError(
            f"output '{wrong.name}' of the result differs {wrong} from what it was before layers were decomposed and "
            "branches cut: exclude layers with --exclude, and report the model"
        )


def _piece(work: Workload, net: Net, names: Sequence[str]) -> onnx.ModelProto:
    """The whole network as a model with these tensors among its outputs."""
    model: onnx.ModelProto = gs.export_onnx(
        segment(net, work.order, 0, len(work.order.order), names), do_type_check=False
    )
    model.ir_version = max(net.header.ir_version, 4)
    return model


def _run(work: Workload, piece: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    session = work.engine.for_pieces().session(piece, label="self check")
    results = session.run({name: feeds[name] for name in session.input_names}, list(session.output_names))
    # A graph may hand an input straight through.
    return {name: results.get(name, feeds.get(name, np.zeros(0))) for name in names}


def first_difference(
    work: Workload,
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
        work: the original.
        smaller: a network with only the channels of `alive`.
        full: one with all channels.
        alive: (units,) bool.
        batch: inputs.
        share: difference that is allowed, as a share of the tensor's largest value; a difference that rounding
            explains is allowed in any case.
        among: names of the tensors to look at; None: all.

    Returns:
        The tensor and by how much it differs; None if there is none.
    """
    tensors = full.tensors()
    names = [
        name
        for name in sorted(work.order.made, key=lambda name: work.order.made[name])
        if work.order.made[name] >= 0
        and name in tensors
        and _is_float(tensors[name])
        and (among is None or name in among)
    ]

    def cut(name: str, values: Array) -> Array:
        for axis in work.channels.by_tensor.get(name, ()):
            values = np.take(values, work.channels.alive_slots(axis, alive), axis=axis.axis)
        return values

    feeds = work.calibration.load(batch.samples)
    pieces = [_piece(work, net, names) for net in (smaller, full)]
    ours, theirs = (_run(work, piece, feeds, names) for piece in pieces)
    theirs = {name: cut(name, values) for name, values in theirs.items()}
    return beyond_rounding(work.engine, ours, theirs, pieces[1:], feeds, share=share, cut=cut)


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

    Raises:
        DataError: the original gives NaN or infinity on these inputs.
        VerifyError: the result does, or an output has another shape.
        EngineError: one of them cannot be run.
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
                    f"the original's output '{name}' is not finite on held-back inputs: nothing to verify against"
                )
        for name, array in candidate.items():
            if not _finite(array):
                raise VerifyError(f"the result's output '{name}' is not finite on held-back inputs")
        meter.add(reference, candidate, batch.real, len(batch.samples))
    progress("verify", len(batches), len(batches))
    return meter.finish(inputs.distinct)


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def check_drop(divergence: Sequence[OutputDivergence], max_drop: float | None) -> None:
    """Hold the result to what was asked for, and to what makes any sense.

    Args:
        divergence: see `compare_outputs`.
        max_drop: percentage points of agreement that outputs of classes and pixels may lose; for values, relative error
            in per cent; undecided outputs are held to both.

    Raises:
        LostTooMuchError: an output is further away, or its difference is ten times as large as itself.
    """
    for output in divergence:
        if not output.of_size <= _SENSELESS:
            raise LostTooMuchError(
                f"output '{output.name}' differs from the original's by {output.of_size:.3g} times its size on "
                "held-back inputs: ask for less, or give more --samples"
            )
    if max_drop is None:
        return
    for lost in losses(divergence):
        if not lost.amount <= max_drop:
            hint = f"; {settles(lost.output)}" if lost.undecided else ""
            raise LostTooMuchError(
                f"output '{lost.output}': {lost.amount:.2f} {lost.words} on {lost.samples} held-back inputs, "
                f"--max-drop allows {max_drop:g}: ask for less, or give more --samples{hint}"
            )
