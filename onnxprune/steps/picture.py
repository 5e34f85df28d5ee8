"""Smaller pictures for the original: which sizes keep its outputs' shapes, and what each one alone loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import group_batches
from onnxprune.engine.divergence import mean_distance
from onnxprune.errors import EngineError, ModelError, VerifyError
from onnxprune.graph.edit.picture import with_picture, with_scaled_layer
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.outputs import last_layer
from onnxprune.graph.model.save import finished_model
from onnxprune.graph.model.schedule import schedule, segment_model
from onnxprune.steps.prepare import on_picture
from onnxprune.steps.verify import compare_outputs

if TYPE_CHECKING:
    import onnx

    from onnxprune.graph.edit.picture import Picture
    from onnxprune.graph.model.net import Net
    from onnxprune.steps.prepare import Prepared

Array = np.ndarray[Any, Any]

__all__ = ["apart", "ladder", "resized"]

_STEPS = ((128, 8), (0, 4))  # pixels between two sizes, by the least side from which they hold
_SMALLEST = 0.5  # share of the side
_SCALED_ON = 64  # inputs


def ladder(picture: Picture) -> tuple[tuple[int, int], ...]:
    """Return the sizes to try in pixels, the largest first: steps of 8 or 4 pixels, down to half of the side."""
    height, width = picture.size
    step = next(step for side, step in _STEPS if min(height, width) >= side)
    least = max(int(_SMALLEST * height), step)
    heights = range((height - 1) // step * step, least - 1, -step)
    return tuple((side, max(round(width * side / height), 1)) for side in heights)


def resized(run: Prepared, size: tuple[int, int]) -> Prepared:
    """Return the run with the original on a smaller picture as the network to compress.

    Args:
        run: the prepared run of a network whose picture can be resized.
        size: height and width in pixels.

    Raises:
        ModelError: the network does not run on a picture of this size, or its outputs would have other shapes.
    """
    picture = run.network.place
    if picture is None:
        raise ModelError(f"{run.network.parts.label}: the picture cannot be resized: {run.network.fixed_picture}")
    if any(after > before for after, before in zip(size, picture.size, strict=True)):
        height, width = picture.size
        raise ModelError(f"{run.network.parts.label}: {size[0]}x{size[1]} pixels are more than its {height}x{width}")
    try:
        small = _rescaled(run, with_picture(run.network.full, picture, size))
    except EngineError as error:
        raise ModelError(str(error)) from error
    found = on_picture(run, small, size)
    feeds = run.inputs.calibration.load(run.batches[0].samples)
    try:
        session = run.engine.session(finished_model(found.net), label=f"the original on {size[0]}x{size[1]} pixels")
        outputs = session.run(feeds)
        wanted = run.engine.session(run.network.parts.front, label="the original").run(feeds)
    except (EngineError, VerifyError) as error:
        raise ModelError(str(error)) from error
    other = next((name for name, values in wanted.items() if outputs[name].shape != values.shape), None)
    if other is not None:
        raise ModelError(f"output '{other}' would have another shape")
    return found


def _rescaled(run: Prepared, small: Net) -> Net:
    """Scale the last layer of the original on a smaller picture, for features as large as on the original picture.

    With f and g the means of the features' channels on the original picture and the smaller one, the factor is
    ``sum f g / sum g g`` over some inputs. Without it, a network that is right would be too sure, or not sure enough.

    Raises:
        EngineError: onnxruntime cannot run the network on the smaller picture.
    """
    last = last_layer(small)
    if last is None or len(dims(last.inputs[0]) or ()) < 2:
        return small
    name, fit = last.inputs[0].name, run.inputs.fit
    chosen = fit[np.linspace(0, len(fit) - 1, min(len(fit), _SCALED_ON)).round().astype(np.int64)]
    sessions = [
        run.engine.for_pieces().session(
            segment_model(net, (order := schedule(net)), 0, len(order.order), [name]), label="the features"
        )
        for net in (run.network.full, small)
    ]
    products = np.zeros(2)
    for batch in group_batches(chosen, run.inputs.specs, len(run.batches[0].samples)):
        feeds = run.inputs.calibration.load(batch.samples)
        wanted, found = (_pooled(session.run(feeds)[name])[: batch.real] for session in sessions)
        products += (wanted * found).sum(), (found**2).sum()
    factor = products[0] / products[1] if products[1] > 0 else 1.0
    return with_scaled_layer(small, last.name, float(factor)) if np.isfinite(factor) and factor > 0 else small


def _pooled(features: Array) -> Array:
    """Return the means over all positions, (n, channels) float64."""
    means: Array = np.asarray(features, np.float64).reshape(*features.shape[:2], -1).mean(2)
    return means


def apart(run: Prepared, model: onnx.ModelProto) -> float:
    """Measure the mean distance of a model's outputs from the original's on the inputs to choose by."""
    batches = group_batches(run.inputs.choose, run.inputs.specs, len(run.batches[0].samples))
    return mean_distance(compare_outputs(run.engine, run.network.parts.front, model, run.inputs, batches, run.progress))
