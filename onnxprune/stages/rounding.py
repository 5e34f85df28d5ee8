"""How far two networks that compute the same may differ by rounding: measured on the network, not assumed.

The engine adds the same products in another order once channels are gone, and every layer rounds. What that does to
an output depends on the network: next to nothing where the output is a large sum, several per cent of a sigmoid of
-12. The same perturbation is made on purpose: inputs and weights are moved by one unit in the last place, up or down
at random, a few times over. An output that differs by a modest multiple of what it moves by then differs by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.graph.sites import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxprune.runtime.sessions import Engine

    Array = np.ndarray[Any, Any]
    Cut = Callable[[str, Array], Array]

__all__ = ["MULTIPLE", "Excess", "beyond_rounding", "difference", "least_difference", "moved", "rounding_noise"]

MULTIPLE = 16
"""An output may differ by so many times what it moves by: on the networks this was tried on, by up to 2 times, and by
10 times where that is a few units in the last place."""

_LEAST_UNITS = 32  # units in the last place of a tensor's largest value that are never called a difference
_LEAST_FLIPPED = 1e-2  # share of integers that rounding may flip in any case
_RUNS = 4
_TF32_UNITS = 2**13  # GPUs multiply float32 with 13 bits less; they move by as much


def difference(found: Array, reference: Array) -> float:
    """Largest difference over the largest finite magnitude of the reference; of integers, the share that differs.

    Infinite where the shapes differ, absolute where the reference is zero, NaN where one of the two is NaN alone.
    """
    if found.shape != reference.shape:
        return np.inf
    if found.size == 0:
        return 0.0
    if reference.dtype.kind != "f":
        return float((found != reference).mean())
    left, right = found.astype(np.float64), reference.astype(np.float64)
    differing = ~((left == right) | (np.isnan(left) & np.isnan(right)))  # infinities are equal, too
    if not differing.any():
        return 0.0
    apart = float(np.abs(left[differing] - right[differing]).max())
    largest = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    return apart / largest if largest > 0 else apart


def least_difference(dtype: np.dtype[Any]) -> float:
    """Difference (see `difference`) that is taken for rounding without a measurement."""
    return _LEAST_UNITS * float(np.finfo(dtype).eps) if dtype.kind == "f" else _LEAST_FLIPPED


@dataclass(frozen=True)
class Excess:
    """A tensor that differs by more than rounding explains; both numbers as `difference` gives them.

    Attributes:
        name: of the tensor.
        found: the difference.
        explained: the largest difference that rounding explains.
        whole: what both are shares of.
    """

    name: str
    found: float
    explained: float
    whole: Literal["largest value", "elements"]

    def __str__(self) -> str:
        if np.isinf(self.found):
            return "in its shape, or by infinity"
        return f"by {self.found:.2g} of its {self.whole} where rounding explains {self.explained:.2g}"


def beyond_rounding(
    engine: Engine,
    found: Mapping[str, Array],
    reference: Mapping[str, Array],
    models: Sequence[onnx.ModelProto],
    feeds: Mapping[str, Array],
    *,
    share: float = 0.0,
    cut: Cut = lambda _, values: values,
) -> Excess | None:
    """Find the first tensor that two networks differ in by more than rounding explains; None: there is none.

    Args:
        engine: what ran them.
        found: tensors of one network by name.
        reference: tensors of the other, in the order in which they are looked at.
        models: networks that have the tensors as outputs, to measure rounding on; the largest counts. They are run
            only where a difference is more than the least one.
        feeds: inputs of both.
        share: difference that is allowed whatever rounding does.
        cut: the part of a tensor of `models` to look at, given its name and values.

    Raises:
        EngineError: one of the models cannot be run.
    """
    allowed = {name: max(share, least_difference(values.dtype)) for name, values in reference.items()}
    apart = {name: difference(found[name], values) for name, values in reference.items()}
    suspects = tuple(name for name in reference if not apart[name] <= allowed[name])
    if not suspects:
        return None
    for model in models:
        for name, noise in rounding_noise(engine, model, feeds, suspects, cut=cut).items():
            allowed[name] = max(allowed[name], MULTIPLE * noise)
    first = next((name for name in suspects if not apart[name] <= allowed[name]), None)
    if first is None:
        return None
    whole: Literal["largest value", "elements"] = "largest value" if reference[first].dtype.kind == "f" else "elements"
    return Excess(first, apart[first], allowed[first], whole)


def rounding_noise(
    engine: Engine,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    names: Sequence[str],
    *,
    cut: Cut = lambda _, values: values,
    seed: int = 0,
) -> dict[str, float]:
    """Measure by how much tensors move when inputs and weights move by one unit in the last place.

    Args:
        engine: what runs the model; TensorRT is left out, which builds for minutes.
        model: with all of `names` among its outputs.
        feeds: inputs of it, and maybe more.
        names: tensors to look at.
        cut: see `beyond_rounding`.
        seed: of the directions.

    Returns:
        Per name, the largest difference of some runs, see `difference`.

    Raises:
        EngineError: the model cannot be run.
    """
    pieces = engine.for_pieces()
    units = 1 if pieces.provider == "CPU" else _TF32_UNITS  # of float32
    generator = np.random.default_rng(seed)

    def run(perturbed: onnx.ModelProto, given: Mapping[str, Array]) -> dict[str, Array]:
        session = pieces.session(perturbed, label="rounding check")
        results = session.run({name: given[name] for name in session.input_names}, names)
        return {name: cut(name, values) for name, values in results.items()}

    reference = run(model, feeds)
    noise = dict.fromkeys(names, 0.0)
    for _ in range(_RUNS):
        nudged = {name: moved(values, generator, units) for name, values in feeds.items()}
        results = run(_moved_weights(model, generator, units), nudged)
        noise = {name: max(noise[name], difference(results[name], reference[name])) for name in names}
    return noise


def moved(values: Array, generator: np.random.Generator, units: int = 1) -> Array:
    """Move floats by one unit in the last place (of float32: by `units`), up or down at random; zeros stay zeros."""
    if values.dtype.kind != "f":
        return values
    units = units if values.dtype == np.float32 else 1
    step = np.where((values != 0) & np.isfinite(values), np.spacing(np.abs(values)), 0).astype(values.dtype)
    signs = generator.integers(0, 2, values.shape) * 2 - 1
    return np.asarray(values + (units * signs).astype(values.dtype) * step, dtype=values.dtype)


def _moved_weights(model: onnx.ModelProto, generator: np.random.Generator, units: int) -> onnx.ModelProto:
    """The model with the weights and biases of its layers moved: no other constant, which may be a size or a bound."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    read = {name for node in found.graph.node if node.op_type in LAYERS for name in node.input[1:]}
    for tensor in found.graph.initializer:
        if tensor.name in read:
            values = moved(numpy_helper.to_array(tensor), generator, units)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return found
