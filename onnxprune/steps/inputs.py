"""Inputs of a run: the calibration, its division, and the meanings of the outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data import open_calibration, split
from onnxprune.engine.batching import group_batches, sample_shapes
from onnxprune.engine.inputs import input_specs, one_at_a_time
from onnxprune.engine.meaning import meanings, with_labels

if TYPE_CHECKING:
    from onnxprune.data import Calibration, CalibrationSource, InputSpec, Split
    from onnxprune.engine.meaning import Meaning
    from onnxprune.graph.model.net import Net
    from onnxprune.options.run import Options

    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Inputs", "open_inputs"]


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run: the model's inputs, the calibration, and the split of its samples.

    Attributes:
        specs: the model's inputs.
        calibration: the samples.
        parts: samples to fit on, to choose by, and held-out.
        outputs: meaning of each output, by name.
    """

    specs: tuple[InputSpec, ...]
    calibration: Calibration
    parts: Split
    outputs: Mapping[str, Meaning] = field(default_factory=dict)

    @property
    def fit(self) -> Indices:
        """Samples to fit on, (n,)."""
        return self.parts.fit

    @property
    def choose(self) -> Indices:
        """Samples to choose between results by, (n,)."""
        return self.parts.choose

    @property
    def held(self) -> Indices:
        """Held-out samples, to report on, (n,)."""
        return self.parts.held

    @property
    def distinct(self) -> int:
        """Number of held-out samples, near-duplicates counted once."""
        return self.parts.distinct_held

    def probe(self, count: int) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return some samples from all over the calibration, or as many as the model fixes; others for each count."""
        size, total = self.specs[0].shape[0] or count, len(self.calibration)
        return self.calibration.load([(count + index * total // size) % total for index in range(size)])

    def repeated(self, batch: int) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return one batch of held-out samples for a measurement of latency, repeated if there are fewer."""
        return self.calibration.load(group_batches(np.resize(self.held, batch), self.specs, batch)[0].samples)


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
    specs = one_at_a_time(net, specs, sample_shapes(calibration, specs, 2))
    parts = split(calibration, options.samples, choosing=choosing, seed=options.seed)
    outputs = with_labels(net, outputs, calibration.labels, str(calibration.description["source"]))
    return Inputs(specs, calibration, parts, outputs)
