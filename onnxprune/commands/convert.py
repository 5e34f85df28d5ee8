"""Conversion of a model file to a torch module to train."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.engine.batching import group_batches
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load, read_model
from onnxprune.steps.inputs import open_inputs
from onnxprune.torchnet.module import TorchModule, fitted

if TYPE_CHECKING:
    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.options.run import Options

__all__ = ["opened_module"]

_BATCH = 32


def opened_module(
    source: onnx.ModelProto | bytes | str | os.PathLike[str],
    data: CalibrationSource | None,
    options: Options,
    *,
    batchnorm: bool,
    samples: int,
) -> TorchModule:
    """Make the torch module of a model; arguments as for `api.to_torch`."""
    model, label = read_model(source)
    net = fold(load(model, label=label)[0])[0]
    inputs = open_inputs(source, data, net, options)
    freeze = options.recover.freeze if options.recover is not None else ()
    chosen = np.random.default_rng(options.seed).permutation(inputs.fit)[:samples]
    batches = group_batches(np.sort(chosen), inputs.specs, _BATCH)
    first = inputs.calibration.load(batches[0].samples)
    module = TorchModule(net, first, batchnorm=batchnorm, freeze=freeze)
    return fitted(module, [inputs.calibration.load(batch.samples) for batch in batches]) if batchnorm else module
