"""Meaning of each output of a network, and its evidence.

- ``classes``: one label per input; scores over one axis, all others but the batch of size 1, or integer labels.
- ``pixels``: one label per position; (N, C, H, W), (N, H, W, C) and (N, T, C) scores, or integer label maps.
- ``values``: numbers, such as boxes, embeddings, images and heat maps.
- ``undecided``: (N, C) floats that may be scores of classes or C numbers; the criteria of both apply.

The evidence is, the strongest first: the user's option (``--output NAME=KIND``), the end of the graph
(`graph.model.outputs.ending`), a name for scores of classes (``logits``), as many numbers as ImageNet has classes,
labels in the data. No other shape implies classes or pixels: 512 numbers may be an embedding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.graph.model.net import dims, numpy_dtype
from onnxprune.graph.model.outputs import ending
from onnxprune.options.outputs import AskedKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.model.net import Dim, Net
    from onnxprune.graph.model.outputs import Ending, Says

__all__ = ["UNKNOWN", "Meaning", "OutputKind", "checked_kinds", "meanings", "with_labels"]

OutputKind = Literal["classes", "pixels", "values", "undecided"]


@dataclass(frozen=True)
class Meaning:
    """Meaning of one output.

    Attributes:
        kind: ``classes``, ``pixels``, ``values`` or ``undecided``.
        axis: class axis of the output; None for values and labels, and if only the data can tell.
        evidence: evidence in words.
        says: kind of the scores by the end of the graph; None if the numbers must tell logits from probabilities.
    """

    kind: OutputKind
    axis: int | None = None
    evidence: str = ""
    says: Says | None = None


_SCORES = re.compile(r"logit|softmax|prob(s|abilit|$)|class(es)?_?scores?", re.IGNORECASE)
"""In the name of an output that has scores of classes."""
_IMAGENET = (1000, 1001, 21841, 21843)
"""Numbers of classes of ImageNet, without and with a background, of its small and its whole set."""

UNKNOWN = Meaning("undecided", None, "nothing is known of it")
"""Meaning of an output that nothing describes: undecided or values, by its numbers."""


def checked_kinds(asked: Sequence[str]) -> dict[str, AskedKind]:
    """Read ``NAME=KIND`` texts, as the command line has them.

    Raises:
        UsageError: a text has no such form, its kind is unknown, or an output is named twice.
    """
    found: dict[str, AskedKind] = {}
    for text in asked:
        name, _, kind = text.rpartition("=")
        if not name:
            raise UsageError(f"--output {text}: expected NAME=KIND, KIND one of {_kinds()}")
        if name in found:
            raise UsageError(f"--output {text}: '{name}' is given twice; give each output once")
        found[name] = _known(name, kind)
    return found


def meanings(net: Net, asked: Mapping[str, str] | None = None) -> dict[str, Meaning]:
    """Derive the meaning of every output from the user's options and the end of the graph.

    Args:
        net: the original network.
        asked: kinds by output name.

    Raises:
        UsageError: an output in `asked` does not exist, its kind is unknown, or does not fit the output's shape.
    """
    asked = asked or {}
    for name in asked:
        if name not in net.output_names:
            some = ", ".join(net.output_names[:6])
            raise UsageError(f"--output {name}={asked[name]}: no output has this name; expected one of {some}")
    tensors = net.tensors()
    found = {}
    for name in net.output_names:
        end = ending(net, name)
        if name in asked:
            found[name] = _asked(name, tensors[name], _known(name, asked[name]), end)
        else:
            found[name] = _read(name, tensors[name], end)
    return found


def with_labels(
    net: Net, known: Mapping[str, Meaning], labels: np.ndarray[Any, Any] | None, source: str
) -> dict[str, Meaning]:
    """Take the only undecided output that fits the labels as scores of classes, if no other output has classes.

    Args:
        net: the original network.
        known: meanings so far, by output name.
        labels: classes of the inputs, (n,); None without labels.
        source: name of the source of the labels, for the evidence.
    """
    found = dict(known)
    if labels is None or not len(labels) or any(meaning.kind == "classes" for meaning in known.values()):
        return found
    tensors = net.tensors()
    fitting = [
        name
        for name, meaning in known.items()
        if meaning.kind == "undecided" and _holds(tensors[name], meaning.axis, int(labels.max()))
    ]
    if len(fitting) == 1:
        (name,) = fitting
        found[name] = Meaning("classes", known[name].axis, f"labels of {source}")
    return found


def _kinds() -> str:
    return ", ".join(get_args(AskedKind))


def _known(name: str, kind: str) -> AskedKind:
    known: dict[str, AskedKind] = {one: one for one in get_args(AskedKind)}
    if kind not in known:
        raise UsageError(f"--output {name}={kind}: unknown kind '{kind}'; expected one of {_kinds()}")
    return known[kind]


def _read(name: str, tensor: Any, end: Ending | None) -> Meaning:
    """Read the meaning from the end of the graph, the name or the shape."""
    shape = dims(tensor)
    if end is not None and end.says == "numbers":
        return Meaning("values", None, end.node)
    if end is not None and end.says == "labels":
        return Meaning("pixels" if _wide(shape) else "classes", None, end.node, "labels")
    if end is not None:
        others = [place for place in _wide(shape) if place != end.axis]
        return Meaning("pixels" if others else "classes", end.axis, end.node, end.says)
    if not _is_float(tensor):
        return Meaning("values", None, "no floating-point numbers, and no ArgMax")
    if shape is None:
        return UNKNOWN
    wide = _score_axis(shape)
    if wide is None:
        return Meaning("values", None, "no Softmax, LogSoftmax or ArgMax ends it")
    if _SCORES.search(name):
        return Meaning("classes", wide, f"the name '{name}'")
    if shape[wide] in _IMAGENET:
        return Meaning("classes", wide, f"{shape[wide]} numbers, as many as ImageNet has classes")
    return Meaning("undecided", wide, f"none: {_text(shape)} without a Softmax may be scores of classes or values")


def _asked(name: str, tensor: Any, kind: AskedKind, end: Ending | None) -> Meaning:
    """Check the user's word against the shape."""
    word, shape = f"--output {name}={kind}", dims(tensor)
    if kind == "values":
        return Meaning("values", None, word)
    says = end.says if end is not None and end.says != "numbers" else None
    if not _is_float(tensor):
        fits = shape is None or bool(_wide(shape)) == (kind == "pixels")
        axis = None
        says = "labels"
    elif kind == "classes":
        axis = None if shape is None else _single(shape)
        fits = shape is None or axis is not None
    else:
        axis = end.axis if end is not None and end.axis is not None else _pixel_axis(shape)
        fits = shape is None or (axis is not None and len(_wide(shape)) > 1)
    if fits:
        return Meaning(kind, axis, word, says)
    wanted = "one axis of classes, all others of size 1" if kind == "classes" else "an axis of classes and positions"
    raise UsageError(
        f"{word}: '{name}' has shape {_text(shape)}, expected {wanted}; say {_alternatives(kind)}, or leave it out"
    )


def _alternatives(kind: AskedKind) -> str:
    return " or ".join(other for other in get_args(AskedKind) if other != kind)


def _text(shape: Sequence[Dim] | None) -> str:
    return "unknown" if shape is None else f"({', '.join('?' if size is None else str(size) for size in shape)})"


def _is_float(tensor: Any) -> bool:
    return tensor.dtype is None or bool(np.issubdtype(numpy_dtype(tensor.dtype), np.floating))


def _wide(shape: Sequence[Dim] | None) -> list[int]:
    """Axes behind the batch that are not of size 1."""
    return [place for place in range(1, len(shape or ())) if (shape or ())[place] != 1]


def _single(shape: Sequence[Dim]) -> int | None:
    """The one axis behind the batch that is not of size 1; None if there is none, or several."""
    wide = _wide(shape)
    return wide[0] if len(wide) == 1 else None


def _score_axis(shape: Sequence[Dim]) -> int | None:
    """Find the class axis of (N, C), (N, C, 1, 1) or (N, 1, 1, C); None for (N, P, 1), one number a position."""
    wide = _single(shape)
    return None if wide is None or (len(shape) == 3 and wide == 1) else wide


def _pixel_axis(shape: Sequence[Dim] | None) -> int | None:
    """Class axis of a map: the last of (N, T, C); of larger ones the shorter of the second and the last."""
    if shape is None or len(shape) < 3:
        return None
    first, last = shape[1], shape[-1]
    if len(shape) == 3 or (isinstance(last, int) and last > 1 and (not isinstance(first, int) or last < first)):
        axis = len(shape) - 1
    else:
        axis = 1
    return None if shape[axis] == 1 else axis


def _holds(tensor: Any, axis: int | None, label: int) -> bool:
    """Tell whether the largest label is a class of the output."""
    shape = dims(tensor)
    size = None if shape is None or axis is None else shape[axis]
    return not isinstance(size, int) or label < size
