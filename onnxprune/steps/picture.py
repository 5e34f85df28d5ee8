"""Smaller pictures for the original: which sizes keep its outputs' shapes, and what each one alone loses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.engine.batching import group_batches
from onnxprune.engine.divergence import mean_distance
from onnxprune.errors import EngineError, ModelError, VerifyError
from onnxprune.graph.edit.picture import with_picture
from onnxprune.graph.model.save import finished_model
from onnxprune.steps.prepare import on_picture
from onnxprune.steps.verify import compare_outputs

if TYPE_CHECKING:
    import onnx

    from onnxprune.graph.edit.picture import Picture
    from onnxprune.steps.prepare import Prepared

__all__ = ["apart", "ladder", "resized"]

_STEPS = ((128, 8), (0, 4))  # pixels between two sizes, by the least side from which they hold
_SMALLEST = 0.5  # share of the side


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
        raise ModelError(f"{run.network.label}: the picture cannot be resized: {run.network.fixed_picture}")
    found = on_picture(run, with_picture(run.network.full, picture, size), size)
    feeds = run.inputs.calibration.load(run.batches[0].samples)
    try:
        session = run.engine.session(finished_model(found.net), label=f"the original on {size[0]}x{size[1]} pixels")
        outputs = session.run(feeds)
        wanted = run.engine.session(run.network.original, label="the original").run(feeds)
    except (EngineError, VerifyError) as error:
        raise ModelError(str(error)) from error
    other = next((name for name, values in wanted.items() if outputs[name].shape != values.shape), None)
    if other is not None:
        raise ModelError(f"output '{other}' would have another shape")
    return found


def apart(run: Prepared, model: onnx.ModelProto) -> float:
    """Measure the mean distance of a model's outputs from the original's on the inputs to choose by."""
    batches = group_batches(run.inputs.choose, run.inputs.specs, len(run.batches[0].samples))
    return mean_distance(compare_outputs(run.engine, run.network.original, model, run.inputs, batches, run.progress))
