"""Rewrites that change no output and bring exported graphs into one plain form.

Nodes on constants and known sizes are computed, branches with a constant condition are inlined, Reshape targets become
constants where one size at most is unknown, channel shuffles become one Gather, the sizes of equal parts of a Split are
written down, and small constants that an exporter has merged (one zero bias for ten convs) get one copy a use, since
sharing would couple unrelated layers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError
from onnxprune.graph.model.conditions import inline_branches
from onnxprune.graph.model.constants import Budget, fold_constants, fold_known_shapes, inline_constants
from onnxprune.graph.model.net import LAYERS, Draft, Net, captured_names, dims, is_standard, lengthened, values_of
from onnxprune.graph.model.shape_values import shape_value
from onnxprune.graph.model.shuffle import shuffles_as_gathers
from onnxprune.note import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["normalize", "with_shapes"]

_SHAPED_LIKE_INPUT = frozenset({"GroupNormalization", "Swish"})
_MOST_ROUNDS = 8  # each ends in a new shape inference, which may open the way for more
_SHARED_SMALL = 65536  # elements; one-dimensional constants up to this size get a copy for each use


def normalize(net: Net, *, demand_weights: bool = True) -> tuple[Net, tuple[Note, ...]]:
    """Rewrite a network into a plain form with equal outputs; return it with notes for the user.

    Raises:
        ModelError: no Conv, Gemm or MatMul has constant weights, and `demand_weights`.
    """
    draft = net.draft()
    half = _stored_in_half(draft)
    _name_nodes(draft)
    passes: tuple[Callable[[Draft, frozenset[str]], bool], ...] = (
        inline_constants,
        fold_known_shapes,
        partial(fold_constants, budget=Budget(net)),
        inline_branches,
        _settle_reshapes,
        _pass_shapes_on,
        shuffles_as_gathers,
    )
    protected = _protected(draft)
    for _ in range(_MOST_ROUNDS):
        changed = False
        while _once(draft, passes, protected):
            changed = True
        if not changed:
            break
        tidy = draft.done(tidy=True)
        draft = Draft.from_model(tidy.to_model(), source=net.source, overridable=net.overridable, header=net.header)
    _write_split_sizes(draft)
    _write_squeezed_axes(draft)
    shared = _unshare_small_constants(draft)
    done = draft.done()
    half = frozenset(name for name in half if isinstance(done.tensors().get(name), gs.Constant))
    done = replace(done, header=replace(done.header, half=done.header.half | half))
    if demand_weights and not any(_has_weights(node) for node in done.nodes):
        raise ModelError(f"{net.source}: {_why_nothing(done)}")
    notes = [Note("shared constants", f"{shared} uses of merged constants given their own copy")] if shared else []
    return done, tuple(notes)


def with_shapes(net: Net, shapes: Mapping[str, Sequence[int]]) -> Net:
    """Return the network for inputs of exactly these shapes, with all sizes that follow from them.

    Args:
        net: a normalised network.
        shapes: per input.

    Raises:
        ModelError: the shapes contradict the graph.
    """
    return normalize(net.with_input_shapes(shapes))[0]


def _why_nothing(net: Net) -> str:
    quantized = [node.op for node in net.nodes if "quantize" in node.op.lower() or node.op.endswith("Integer")]
    if quantized:
        return f"its weights are quantized ({quantized[0]}): prune the floating-point model, and quantize the result"
    return "no Conv, Gemm or MatMul with constant weights; there is nothing to prune"


def _once(net: Draft, passes: Iterable[Callable[[Draft, frozenset[str]], bool]], protected: frozenset[str]) -> bool:
    """Run every pass, whatever the others did."""
    changed = False
    for step in passes:
        changed |= step(net, protected)
    return changed


def _has_weights(node: Any) -> bool:
    return (
        node.op in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
        and len(node.inputs) > 1
        and isinstance(node.inputs[1], gs.Constant)
    )


def _stored_in_half(net: Net) -> frozenset[str]:
    """Names of matrices and kernels that are float16 constants behind a Cast to float32."""
    found = set()
    for node in net.nodes:
        if node.op == "Cast" and is_standard(node) and node.attrs.get("to") == onnx.TensorProto.FLOAT:
            given, made = node.inputs[0], node.inputs[0].inputs
            fixed = isinstance(given, gs.Constant) or (len(made) == 1 and made[0].op == "Constant")
            shape = dims(given)
            if fixed and given.dtype == np.float16 and shape is not None and len(shape) > 1:
                found.add(node.outputs[0].name)
    return frozenset(found)


def _name_nodes(net: Draft) -> None:
    """A name of its own for every node; the first that has one keeps it."""
    first: dict[str, Any] = {}
    for node in net.graph.nodes:
        first.setdefault(node.name, node)
    taken = set(first)
    for index, node in enumerate(net.graph.nodes):
        if not node.name or first[node.name] is not node:
            node.name = lengthened(f"{node.name or node.op}_{index}", taken)
            taken.add(node.name)


def _protected(net: Net) -> frozenset[str]:
    """Names that must stay what they are: graph outputs, and what control-flow bodies read."""
    inner = {name for node in net.graph.nodes for name in captured_names(node)}
    return frozenset(inner.union(net.output_names))


def _pass_shapes_on(net: Draft, protected: frozenset[str]) -> bool:
    """Shapes of results that are shaped like their inputs, where inference has none."""
    changed = False
    for node in net.nodes:
        if node.op not in _SHAPED_LIKE_INPUT or node.domain not in (None, "", "ai.onnx") or not node.outputs:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if dims(source) is not None and dims(result) is None:
            result.shape, result.dtype = source.shape, result.dtype or source.dtype
            changed = True
    return changed


def _settle_reshapes(net: Draft, protected: frozenset[str]) -> bool:
    """Reshape to a computed target of which one size at most is open: the target becomes a constant."""
    changed = False
    for node in net.nodes:
        if node.op != "Reshape" or not is_standard(node) or not node.outputs or net.overridable:
            continue  # what a caller may replace may be in the target
        if isinstance(node.inputs[1], gs.Constant):
            continue
        target = _reshape_target(node)
        if target is not None:
            node.inputs[1] = gs.Constant(net.unused_name(f"{node.name}_target"), np.array(target, np.int64))
            changed = True
    return changed


def _reshape_target(node: Any) -> list[int] | None:
    """A constant target with the meaning of the computed one: 0 copies a size, -1 is what is left."""
    source, computed, result = dims(node.inputs[0]), shape_value(node.inputs[1]), dims(node.outputs[0])
    if computed is not None and source is not None and not node.attrs.get("allowzero", 0):
        copied = [
            0 if isinstance(entry, str) and axis < len(source) and source[axis] == entry else entry
            for axis, entry in enumerate(computed)
        ]
        if all(isinstance(entry, int) for entry in copied):
            return [int(entry) for entry in copied if isinstance(entry, int)]
    if result is None or sum(not isinstance(size, int) for size in result) > 1:
        return None
    if dims(node.inputs[1]) not in (None, (len(result),)):
        return None  # what the file declares, which engines overlook, is not what the node makes
    return [size if isinstance(size, int) else -1 for size in result]


def _write_split_sizes(net: Draft) -> None:
    """Equal parts of an axis of known size become sizes: parts need not stay equal."""
    for node in net.nodes:
        shape = dims(node.inputs[0]) if node.op == "Split" and node.domain in (None, "", "ai.onnx") else None
        if not shape or len(node.inputs) > 1 or "split" in node.attrs:
            continue
        axis = int(node.attrs.get("axis", 0)) % max(len(shape), 1)
        sizes = [(dims(tensor) or shape)[axis] for tensor in node.outputs]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) < len(sizes) or sum(known) != shape[axis]:
            continue
        node.attrs.pop("num_outputs", None)
        if net.opset >= 13:
            node.inputs.append(gs.Constant(net.unused_name(f"{node.name}_split"), np.array(known, np.int64)))
        else:
            node.attrs["split"] = known


def _write_squeezed_axes(net: Draft) -> None:
    """A Squeeze of whatever has size one squeezes what has it now: other axes may come to have it."""
    for node in net.nodes:
        bare = node.op == "Squeeze" and is_standard(node) and "axes" not in node.attrs
        if not bare or any(not tensor.is_empty() for tensor in node.inputs[1:]):
            continue
        shape, result = dims(node.inputs[0]), dims(node.outputs[0])
        axes = [axis for axis, size in enumerate(shape or ()) if size == 1]
        if shape is None or result is None or len(result) != len(shape) - len(axes):
            continue
        if net.opset < 13:
            node.attrs["axes"] = axes
        else:
            while len(node.inputs) > 1:
                node.inputs.pop()
            node.inputs.append(gs.Constant(net.unused_name(f"{node.name}_axes"), np.array(axes, np.int64)))


def _of_one_layer(bias: Any) -> bool:
    """Tell whether all that read a bias have the same weights, too."""
    readers = bias.outputs
    weights = {id(node.inputs[1]) for node in readers if node.op in LAYERS and len(node.inputs) > 1}
    return len(weights) == 1 and all(
        node.op in LAYERS and sum(tensor is bias for tensor in node.inputs) == 1 and node.inputs[1] is not bias
        for node in readers
    )


def _unshare_small_constants(net: Draft) -> int:
    copies = 0
    taken = set(net.tensors())
    seen: set[str] = set()
    for node in net.graph.nodes:
        for slot, tensor in enumerate(list(node.inputs)):
            if not isinstance(tensor, gs.Constant) or tensor.name in net.overridable:
                continue
            small = len(tensor.shape) <= 1 and int(np.prod(tensor.shape)) <= _SHARED_SMALL
            if small and tensor.name in seen and not _of_one_layer(tensor):
                name = lengthened(f"{tensor.name}_{node.name}_{slot}", taken)
                taken.add(name)
                node.inputs[slot] = gs.Constant(name, values_of(tensor))
                copies += 1
            seen.add(tensor.name)
    return copies
