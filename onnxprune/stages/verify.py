"""Verify: the result is run against the original before anything is written.

Three questions, each with its own answer when it fails: does removing channels equal zeroing them on this very
network, is every output finite and of the original's shape, and is the difference from the original within what was
asked for.
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

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from onnxprune.data import Calibration
    from onnxprune.graph.net import Net
    from onnxprune.runtime.divergence import OutputDivergence
    from onnxprune.runtime.frontier import Batch
    from onnxprune.runtime.sessions import Engine
    from onnxprune.stages.workload import Progress, Workload

    Array = np.ndarray[Any, Any]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]
    Limits = tuple[Mapping[np.dtype[Any], float], float]

__all__ = ["check_drop", "check_loading", "check_removal", "check_rewritten", "compare_outputs", "first_difference"]

# Share of the largest value of a tensor by which two ways of the same sum may differ.
_TOLERANCE: dict[np.dtype[Any], float] = {np.dtype(np.float16): 3e-2, np.dtype(np.float64): 1e-6}
_USUAL_TOLERANCE = 1e-3
_FLIPPED = 1e-2  # share of integers that rounding may flip
_SENSELESS = 10.0  # relative error, of whatever network


def check_loading(engine: Engine, original: onnx.ModelProto, net: Net, calibration: Calibration, batch: Batch) -> None:
    """Run the original, and what loading and folding made of it: both must answer the same.

    Raises:
        ModelError: the shapes that the model declares contradict its nodes.
        DataError: the original's answer is not finite.
        VerifyError: an answer differs.
        EngineError: one of them cannot be run.
    """
    try:
        plain = finished_model(net)
    except VerifyError as error:
        raise ModelError(f"{net.source}: {error}".replace("the result is not a valid model", "not valid")) from error
    feeds = calibration.load(batch.samples)
    wanted = engine.session(original, label="the original").run(feeds)
    found = engine.session(plain, label="the original, folded").run(feeds)
    for name, reference in wanted.items():
        if not _finite(reference):
            raise DataError(
                f"the original's output '{name}' is not finite on calibration inputs: check the preprocessing"
            )
        if not _close(found[name], reference):
            raise VerifyError(
                f"folding constants and normalisations changed output '{name}' by "
                f"{_difference(found[name], reference):.2g} of its largest value: nothing was written; report the model"
            )


def check_removal(work: Workload, alive: Mask, batch: Batch) -> float:
    """Run the original with channels removed, and with them zeroed, before any weight is fitted anew.

    Returns:
        The largest difference, as a share of the largest value of the output.

    Raises:
        VerifyError: they differ; the message has the first tensor that does.
    """
    smaller = remove(work.net, work.channels, work.channels.all_alive(), alive)
    masked = zero(work.net, work.channels, alive)
    feeds = work.calibration.load(batch.samples)
    outputs = work.net.output_names
    removed, zeroed = (_run(work, net, feeds, outputs) for net in (smaller, masked))
    worst = max((_difference(removed[name], zeroed[name]) for name in outputs), default=0.0)
    if all(_close(removed[name], zeroed[name]) for name in outputs):
        return worst
    limits: Limits = (_TOLERANCE, _USUAL_TOLERANCE)
    name, difference = first_difference(work, smaller, masked, alive, batch, limits) or (
        ", ".join(outputs),
        worst,
    )
    raise VerifyError(
        f"removing channels is not the same as zeroing them in this model: tensor '{name}' is the first to differ, by "
        f"{difference:.2g} of its largest value; exclude the layers around it with --exclude, and report the model"
    )


def check_rewritten(engine: Engine, dense: Net, model: onnx.ModelProto, calibration: Calibration, batch: Batch) -> None:
    """Run the result, and the network in which one node stands for every V, H and P and no branch is cut: both must
    answer the same.

    Raises:
        VerifyError: an answer differs.
        EngineError: one of them cannot be run.
    """
    feeds = calibration.load(batch.samples)
    wanted = engine.session(finished_model(dense), label="the result in one piece a layer").run(feeds)
    found = engine.session(model, label="the result").run(feeds)
    for name, reference in wanted.items():
        if not _close(found[name], reference):
            raise VerifyError(
                f"output '{name}' of the result is {_difference(found[name], reference):.2g} of its largest value away "
                "from what it was before layers were decomposed and branches cut: exclude layers with --exclude, and "
                "report the model"
            )


def _run(work: Workload, net: Net, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    piece = segment(net, work.order, 0, len(work.order.order), names)
    model = gs.export_onnx(piece, do_type_check=False)
    model.ir_version = max(net.header.ir_version, 4)
    session = work.engine.for_pieces().session(model, label="self check")
    results = session.run({name: feeds[name] for name in session.input_names}, list(session.output_names))
    # A graph may hand an input straight through.
    return {name: results.get(name, feeds.get(name, np.zeros(0))) for name in names}


def _difference(left: Array, right: Array) -> float:
    if left.shape != right.shape:
        return np.inf
    if left.size == 0:
        return 0.0
    if left.dtype.kind != "f":  # numbers of classes and the like: how many differ
        return float((left != right).mean())
    same = left == right  # infinities, too
    if same.all():
        return 0.0
    apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
    largest = float(np.abs(right.astype(np.float64)).max())
    return float(apart.max()) / largest if largest > 0 else float(apart.max())


def _close(left: Array, right: Array) -> bool:
    difference = _difference(left, right)
    usual = _USUAL_TOLERANCE if left.dtype.kind == "f" else _FLIPPED
    return bool(difference <= _TOLERANCE.get(left.dtype, usual))


def first_difference(
    work: Workload,
    smaller: Net,
    full: Net,
    alive: Mask,
    batch: Batch,
    limits: Limits = ({}, 0.5),
    among: Collection[str] | None = None,
) -> tuple[str, float] | None:
    """The first tensor, in order of execution, that two networks do not agree on, on the channels that both have.

    Args:
        work: the original.
        smaller: a network with only the channels of `alive`.
        full: one with all channels.
        alive: (units,) bool.
        batch: inputs.
        limits: largest difference, as a share of the tensor's largest value, per type and for all other types.
        among: names of the tensors to look at; None: all.

    Returns:
        Its name and the difference; None if there is none.
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
    feeds = work.calibration.load(batch.samples)
    ours, theirs = (_run(work, net, feeds, names) for net in (smaller, full))
    for name in names:
        reference = theirs[name]
        for axis in work.channels.by_tensor.get(name, ()):
            reference = np.take(reference, work.channels.alive_slots(axis, alive), axis=axis.axis)
        difference = _difference(ours[name], reference)
        if not difference <= limits[0].get(reference.dtype, limits[1]):
            return name, difference
    return None


def _is_float(tensor: Any) -> bool:
    return tensor.dtype is not None and np.issubdtype(numpy_dtype(tensor.dtype), np.floating)


def compare_outputs(
    engine: Engine,
    original: onnx.ModelProto | bytes,
    result: onnx.ModelProto | bytes,
    calibration: Calibration,
    batches: Sequence[Batch],
    progress: Progress,
) -> tuple[OutputDivergence, ...]:
    """Outputs of two models side by side on the given inputs.

    Raises:
        DataError: the original gives NaN or infinity on these inputs.
        VerifyError: the result does, or an output has another shape.
        EngineError: one of them cannot be run.
    """
    before = engine.session(original, label="the original")
    after = engine.session(result, label="the result")
    meter = DivergenceMeter()
    for number, batch in enumerate(batches):
        progress("verify", number, len(batches))
        feeds = calibration.load(batch.samples)
        reference, candidate = before.run(feeds), after.run(feeds)
        for name, array in reference.items():
            if not _finite(array):
                raise DataError(
                    f"the original's output '{name}' is not finite on held-back inputs: nothing to verify against"
                )
        for name, array in candidate.items():
            if not _finite(array):
                raise VerifyError(f"the result's output '{name}' is not finite on held-back inputs")
        meter.add(reference, candidate, batch.real)
    progress("verify", len(batches), len(batches))
    return meter.finish()


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def check_drop(divergence: Sequence[OutputDivergence], max_drop: float | None) -> None:
    """Hold the result to what was asked for, and to what makes any sense: a constant answer has a relative error of 1.

    Args:
        divergence: see `compare_outputs`.
        max_drop: percentage points of top-1 agreement that a classifier may lose; for other outputs, relative error in
            per cent.

    Raises:
        LostTooMuchError: an output is further away.
    """
    for output in divergence:
        if not output.relative_error <= _SENSELESS and not output.of_size <= 1:
            raise LostTooMuchError(
                f"output '{output.name}' has a relative error of {output.relative_error:.3g} on held-back inputs, of "
                "which a constant has 1, and is further off than it is large: ask for less, or give more --samples"
            )
    if max_drop is None:
        return
    for output in divergence:
        classifier = output.top1_agreement is not None
        lost = 100 * (1 - output.top1_agreement) if output.top1_agreement is not None else 100 * output.relative_error
        if lost > max_drop:
            words = "top-1 agreement lost" if classifier else "relative error"
            raise LostTooMuchError(
                f"output '{output.name}': {lost:.2f} {'points of ' if classifier else '% '}{words} on held-back "
                f"inputs, --max-drop allows {max_drop:g}: ask for less, or give more --samples"
            )
