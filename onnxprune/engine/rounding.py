"""Rounding differences between equivalent networks: measured on the network, not assumed.

Once channels are removed, the engine adds products in another order, and every layer rounds. The effect on an output
depends on the network: negligible for a large sum, several per cent for a sigmoid of -12. A perturbation of this size
is therefore applied on purpose: inputs and weights are moved by one unit in the last place, up or down at random,
several times. A difference of up to 16 times the resulting movement of the output counts as rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.graph.model.net import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxprune.engine.sessions import Engine

    Array = np.ndarray[Any, Any]
    Cut = Callable[[str, Array], Array]

__all__ = ["MULTIPLE", "Excess", "beyond_rounding", "difference", "least_difference", "moved", "rounding_noise"]

MULTIPLE = 16
"""Largest ratio of an output's difference to its movement that counts as rounding; measured ratios reach 2, and 10 if
the movement is a few units in the last place."""

_LEAST_UNITS = 32  # difference in units in the last place of a tensor's largest value that is always allowed
_LEAST_FLIPPED = 1e-2  # share of differing integers that is always allowed
_RUNS = 4
_TF32_UNITS = 2**13  # GPUs multiply float32 with 13 bits less: the movement on them, in units of float32


def difference(found: Array, reference: Array) -> float:
    """Return the largest difference divided by the largest finite magnitude of the reference; for integers, the share
    that differs.

    The result is infinite if the shapes differ, an absolute difference if the reference is zero, and NaN if an element
    is NaN in one of the arrays only.
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
    """Return the largest `difference` that counts as rounding without a measurement."""
    return _LEAST_UNITS * float(np.finfo(dtype).eps) if dtype.kind == "f" else _LEAST_FLIPPED


@dataclass(frozen=True)
class Excess:
    """Tensor that differs by more than rounding explains.

    Attributes:
        name: name of the tensor.
        found: its `difference`.
        explained: largest `difference` that rounding explains.
        whole: quantity that both numbers are shares of.
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
    """Find the first tensor in which two networks differ by more than rounding explains; None if there is none.

    Args:
        engine: engine that ran both.
        found: tensors of one network, by name.
        reference: tensors of the other network, by name, in the order of the search.
        models: networks with the tensors as outputs, to measure rounding on; the largest movement counts. They are run
            only if a difference exceeds `least_difference`.
        feeds: inputs of both networks.
        share: difference that is always allowed, 0 by default.
        cut: function (name, values) that returns the part of a tensor of `models` to compare; default all of it.

    Raises:
        EngineError: onnxruntime cannot run one of the models.
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
    """Measure how far tensors move when inputs and weights are moved by one unit in the last place.

    Args:
        engine: engine that runs the model, without TensorRT, which builds for minutes.
        model: model with all of `names` among its outputs.
        feeds: inputs of the model; others are ignored.
        names: names of the tensors.
        cut: function (name, values) that returns the part of a tensor to measure; default all of it.
        seed: seed of the directions.

    Returns:
        Largest `difference` of 4 runs, per name.

    Raises:
        EngineError: onnxruntime cannot run the model.
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
    """Move floats by one unit in the last place (float32 by `units`), up or down at random; zeros are kept."""
    if values.dtype.kind != "f":
        return values
    units = units if values.dtype == np.float32 else 1
    step = np.where((values != 0) & np.isfinite(values), np.spacing(np.abs(values)), 0).astype(values.dtype)
    signs = generator.integers(0, 2, values.shape) * 2 - 1
    return np.asarray(values + (units * signs).astype(values.dtype) * step, dtype=values.dtype)


def _moved_weights(model: onnx.ModelProto, generator: np.random.Generator, units: int) -> onnx.ModelProto:
    """Copy the model with weights and biases of its layers moved; other constants may be sizes or bounds."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    read = {name for node in found.graph.node if node.op_type in LAYERS for name in node.input[1:]}
    for tensor in found.graph.initializer:
        if tensor.name in read:
            values = moved(numpy_helper.to_array(tensor), generator, units)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return found
