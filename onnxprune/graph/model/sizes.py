"""Sizes that inference leaves open though the shapes of the inputs settle them.

Shapes computed from shapes (a Reshape to what Shape, Slice and Concat make of its input) follow only where the inputs
have fixed shapes. A network with open sizes is therefore also read at two settings of them: what is the same in both
counts as fixed, and the rank of what differs is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import dims, is_constant
from onnxprune.graph.model.normalize import with_shapes
from onnxprune.graph.model.save import complaint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.model.net import Dim, Net

    Shapes = Mapping[str, Sequence[int]]

__all__ = ["with_settled_sizes"]

_MORE_SAMPLES = 9  # from 2 to 11: no size grows as much that is a multiple of a height or a width
_MULTIPLES = ((2, 3), (2, 2), (1, 1))  # of sizes at odd and even places: a height and a width, in either layout


def with_settled_sizes(net: Net, shapes: Shapes) -> Net:
    """Return the network with the ranks and sizes of its tensors that do not depend on its open sizes.

    Args:
        net: a normalised network; its inputs keep their open sizes.
        shapes: shapes of its inputs that are known to fit, for two samples or for the batch that the model fixes.
            Open sizes that can be no others, since the graph fixes them, count as fixed.

    Raises:
        ModelError: shape inference fails for these shapes.
    """
    if not any(_is_unsettled(dims(tensor)) for tensor in net.tensors().values() if not is_constant(tensor)):
        return net
    first = with_shapes(net, shapes).tensors()
    second = _read_otherwise(net, shapes) or first
    draft = net.draft()
    tensors = draft.tensors()
    named = {*net.input_names, *net.output_names}  # a caller reads the names of their sizes
    symbols: dict[tuple[Dim, Dim], Dim] = {}
    for name in dict.fromkeys([*net.input_names, *tensors]):  # the inputs first: their symbols are kept
        tensor = tensors[name]
        own = dims(tensor)
        one, other = (dims(read[name]) if name in read else None for read in (first, second))
        if is_constant(tensor) or one is None or other is None or len(one) != len(other):
            continue
        if own is not None and len(own) != len(one):
            continue
        found = [_size(*sizes, symbols) for sizes in zip(own or (None,) * len(one), one, other, strict=True)]
        if own is None or name not in named:
            tensor.shape, tensor.dtype = tuple(found), tensor.dtype or first[name].dtype
    return draft.done()


def _is_unsettled(shape: Sequence[Dim] | None) -> bool:
    """Tell whether a rank, or a size behind the first axis, is unknown."""
    return shape is None or not all(isinstance(size, int) for size in shape[1:])


def _read_otherwise(net: Net, shapes: Shapes) -> Mapping[str, Any] | None:
    """Return the tensors for other open sizes; None if the graph takes no others."""
    for high, wide in _MULTIPLES if not net.header.seen else _MULTIPLES[-1:]:  # sizes that were seen are no others
        given = {name: _other(dims(net.tensors()[name]), shape, (high, wide)) for name, shape in shapes.items()}
        try:
            read = with_shapes(net, given)
        except ModelError:
            continue
        if not complaint(read):
            return read.tensors()
    return None


def _other(own: Sequence[Dim] | None, given: Sequence[int], times: tuple[int, int]) -> tuple[int, ...]:
    """Return another shape: more samples, and multiples of the other open sizes, in turn."""
    sizes = [given[0] + _MORE_SAMPLES, *(size * times[axis % 2] for axis, size in enumerate(given[1:]))]
    fixed = own or (None,) * len(given)
    return tuple(one if isinstance(one, int) else size for one, size in zip(fixed, sizes, strict=True))


def _size(own: Dim, one: Dim, other: Dim, symbols: dict[tuple[Dim, Dim], Dim]) -> Dim:
    """Return a size: a number if it is the same both times, otherwise one symbol for all that differ alike."""
    if isinstance(own, int) or not (isinstance(one, int) and isinstance(other, int)):
        return own
    return one if one == other else symbols.setdefault((one, other), own or f"size_{one}_{other}")
