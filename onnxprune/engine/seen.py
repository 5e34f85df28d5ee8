"""Facts that shape inference cannot know, measured in runs of the model.

These are the output sizes of operators without a rule, and whether frames that are merged into the batch stand input by
input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxprune.graph.channels.rules.registry import rule_for
from onnxprune.graph.model.net import Seen, dims, revision_of
from onnxprune.graph.model.normalize import with_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxprune.engine.sessions import Engine
    from onnxprune.graph.model.net import Net

    Array = np.ndarray[Any, Any]

__all__ = ["by_sample", "with_seen_sizes"]

_ROUNDING = 1e-6  # of the largest value
_SMALL = 0.05  # of the difference between samples


def with_seen_sizes(net: Net, engine: Engine, samples: Callable[[int], Mapping[str, Array]]) -> Net:
    """Return the network with the output sizes of operators that have no rule, as measured in two runs.

    Channels around such operators are never removed, so these sizes hold for the compressed network too. A size that
    depends on the values of the inputs, and not on the number of samples alone, stays unknown.

    Args:
        net: a normalised network.
        engine: onnxruntime.
        samples: function of a number of samples that returns so many, or the batch that the model fixes, as arrays by
            input name; other samples for another number.

    Raises:
        EngineError: onnxruntime cannot run the model.
        ModelError: the samples contradict the graph.
    """
    names = [
        tensor.name
        for node in net.nodes
        if isinstance(rule_for(node.op, node.domain, revision_of(node.op, net.opset)), str)
        for tensor in node.outputs
        if not tensor.is_empty() and not _is_known(tensor)
    ]
    if not names:
        return net
    feeds = [samples(2), samples(3)]
    known = with_shapes(net, {name: array.shape for name, array in feeds[0].items()}).tensors()
    names = [name for name in names if name not in known or not _is_known(known[name])]
    if not names:
        return net
    model = net.to_model()
    ends = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in ends)
    session = engine.for_pieces().session(model, label=net.source)
    first, second = (session.run(feed, names) for feed in feeds)
    counts = [max(len(array) for array in feed.values()) for feed in feeds]
    found = [_seen(name, first[name], second[name], (counts[0], counts[1])) for name in names]
    seen = tuple(entry for entry in found if entry is not None)
    return replace(net, header=replace(net.header, seen=seen))


def by_sample(
    net: Net, engine: Engine, samples: Callable[[int], Mapping[str, Array]], names: Sequence[str]
) -> frozenset[str]:
    """Return the tensors whose first axis has equally many entries for each sample, sample by sample.

    The network is run on the samples, and on the same samples one place further on: such a tensor moves with them.

    Args:
        net: a network.
        engine: onnxruntime.
        samples: as for `with_seen_sizes`.
        names: tensors whose first axis is a multiple of the batch.

    Raises:
        EngineError: onnxruntime cannot run the model.
    """
    if not names:
        return frozenset()
    feed = samples(2)
    count = max(len(array) for array in feed.values())
    if count == 1:
        return frozenset(names)
    if all(np.array_equal(array, np.roll(array, 1, axis=0)) for array in feed.values()):
        return frozenset()  # equal samples show nothing
    model = net.to_model()
    ends = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in ends)
    session = engine.for_pieces().session(model, label=net.source)
    first = session.run(feed, names)
    moved = session.run({name: np.roll(array, 1, axis=0) for name, array in feed.items()}, names)
    return frozenset(name for name in names if _moves(first[name], moved[name], len(first[name]) // count))


def _moves(first: Array, moved: Array, places: int) -> bool:
    """Tell whether an array is another one moved on by some places of the first axis, but for rounding.

    Rounding is small beside the difference between samples, however alike they are.
    """
    wanted = np.roll(first, places, axis=0).astype(np.float64)
    apart, between = (float(np.abs(wanted - array).max(initial=0.0)) for array in (moved, first))
    return apart <= _SMALL * between + _ROUNDING * float(np.abs(wanted).max(initial=0.0))


def _is_known(tensor: Any) -> bool:
    shape = dims(tensor)
    return shape is not None and all(isinstance(size, int) for size in shape)


def _seen(name: str, one: Array, other: Array, counts: tuple[int, int]) -> Seen | None:
    """Return the sizes of a tensor; None if they are neither fixed nor in proportion to the number of samples."""
    if one.ndim != other.ndim or one.dtype.kind not in "fiub":
        return None
    sizes = []
    for size, again in zip(one.shape, other.shape, strict=True):
        grows = size != again
        if grows and (size % counts[0] or size // counts[0] * counts[1] != again):
            return None
        sizes.append((size // counts[0] if grows else size, grows))
    return Seen(name, onnx.helper.np_dtype_to_tensor_dtype(one.dtype), tuple(sizes))
