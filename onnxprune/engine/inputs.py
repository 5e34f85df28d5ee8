"""Inputs of a graph, and the grouping of samples into batches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.data import InputSpec
from onnxprune.errors import ModelError
from onnxprune.graph.model.net import dims, numpy_dtype
from onnxprune.graph.model.normalize import with_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxprune.graph.model.net import Net

__all__ = ["batches", "input_specs", "one_at_a_time"]


def input_specs(net: Net) -> tuple[InputSpec, ...]:
    """Return the inputs that a caller must feed.

    Raises:
        ModelError: an input is not a tensor of numbers with a batch axis, or there is none.
    """
    tensors = net.tensors()
    specs = []
    for name in net.input_names:
        tensor = tensors.get(name)
        shape = None if tensor is None else dims(tensor)
        if tensor is None or tensor.dtype is None or shape is None or not shape:
            raise ModelError(
                f"{net.source}: input '{name}' is no tensor with a batch axis of a known type and rank: if it is no "
                f"sample, such as a rate, give its value: --set-input {name}=NUMBER"
            )
        kind = numpy_dtype(tensor.dtype)
        if kind.kind not in "fiub":
            raise ModelError(
                f"{net.source}: input '{name}' holds {kind}, which does not run here: convert the model to float32 or "
                "float16"
            )
        sizes = tuple(size if isinstance(size, int) else None for size in shape)
        specs.append(InputSpec(name, sizes, np.dtype(kind)))
    if not specs:
        raise ModelError(f"{net.source}: the model has no inputs")
    return tuple(specs)


def one_at_a_time(net: Net, specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> tuple[InputSpec, ...]:
    """Return the inputs with a batch of one where the graph fixes it though the inputs leave it open.

    Args:
        net: the network.
        specs: its inputs.
        shapes: shapes of the inputs for two samples.
    """
    if any(spec.shape[0] is not None for spec in specs):
        return tuple(specs)
    try:
        outputs = with_shapes(net, shapes).graph.outputs
        open_batch = all((dims(tensor) or (None,))[0] != 1 for tensor in outputs)
    except ModelError:  # two samples contradict the graph
        open_batch = False
    return tuple(specs) if open_batch else tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in specs)


def batches(indices: Sequence[int], specs: Sequence[InputSpec], batch: int) -> Iterator[tuple[list[int], int]]:
    """Yield the samples of each batch, and the number of real ones.

    A model that fixes the batch size runs at that size; its last batch is padded with its last sample.
    """
    fixed = next((spec.shape[0] for spec in specs if spec.shape[0]), None)
    size = fixed or batch
    for start in range(0, len(indices), size):
        chosen = [int(index) for index in indices[start : start + size]]
        fill = (size - len(chosen)) if fixed else 0
        yield chosen + chosen[-1:] * fill, len(chosen)
