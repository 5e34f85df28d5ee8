"""Rewrites that change no output and make a graph plain: what exporters leave behind is gone before anything looks.

Constant nodes become constants, shape arithmetic on known sizes is computed, Reshape targets become constants where one
size at most is unknown, channel shuffles become one Gather, equal parts of a Split get their sizes written down, and
small constants that an exporter merged (one zero bias for ten convs) get one copy a use, since
sharing would couple strangers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import ModelError
from onnxprune.graph.model.net import Draft, Net, captured_names, dims, is_standard, lengthened, values_of
from onnxprune.graph.model.shape_values import shape_value
from onnxprune.graph.model.shuffle import shuffles_as_gathers
from onnxprune.note import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["normalize", "with_shapes"]

_SHAPE_ARITHMETIC = frozenset(
    {
        *("Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Greater"),
        *("Identity", "Less", "Mod", "Mul", "Neg", "Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub"),
        *("Transpose", "Unsqueeze", "Where"),
    }
)
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Equal", "Greater", "Less", "Where"})
_SHAPED_LIKE_INPUT = frozenset({"GroupNormalization", "Swish"})
_SCALAR_ATTRIBUTES: tuple[tuple[str, type[np.generic]], ...] = (("value_int", np.int64), ("value_float", np.float32))
_MOST_ELEMENTS = 65536  # larger results are data, not shape arithmetic
_MOST_ROUNDS = 8  # each ends in a new shape inference, which may open the way for more
_SHARED_SMALL = 65536  # elements; one-dimensional constants up to this size get a copy for each use


def normalize(net: Net) -> tuple[Net, tuple[Note, ...]]:
    """Rewrite a network into a plain form with equal outputs; return it with notes for the user.

    Raises:
        ModelError: no Conv, Gemm or MatMul has constant weights.
    """
    draft = net.draft()
    _name_nodes(draft)
    passes: tuple[Callable[[Draft, frozenset[str]], bool], ...] = (
        _inline_constants,
        _fold_known_shapes,
        _fold_shape_arithmetic,
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
        draft = Draft.from_model(tidy.to_model(), source=net.source, overridable=net.overridable)
    _write_split_sizes(draft)
    _write_squeezed_axes(draft)
    shared = _unshare_small_constants(draft)
    done = draft.done()
    if not any(_has_weights(node) for node in done.nodes):
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


def _replace(tensor: Any, values: np.ndarray[Any, Any]) -> None:
    """Put a constant in the place of a node's only output."""
    constant = gs.Constant(tensor.name, np.array(values, order="C"))
    for consumer in list(tensor.outputs):
        for slot, name in enumerate(t.name for t in consumer.inputs):
            if name == tensor.name:
                consumer.inputs[slot] = constant
    tensor.inputs[0].outputs.clear()


def _protected(net: Net) -> frozenset[str]:
    """Names that must stay what they are: graph outputs, and what control-flow bodies read."""
    inner = {name for node in net.graph.nodes for name in captured_names(node)}
    return frozenset(inner.union(net.output_names))


def _replaceable(node: Any, protected: frozenset[str]) -> bool:
    return len(node.outputs) == 1 and node.outputs[0].name not in protected


def _inline_constants(net: Draft, protected: frozenset[str]) -> bool:
    changed = False
    for node in net.nodes:
        if node.op != "Constant" or not is_standard(node) or not node.outputs or not _replaceable(node, protected):
            continue
        values = _constant_value(node.attrs)
        if values is not None:
            _replace(node.outputs[0], values)
            changed = True
    return changed


def _constant_value(attrs: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    if isinstance(attrs.get("value"), gs.Constant):
        return values_of(attrs["value"])
    for name, kind in _SCALAR_ATTRIBUTES:
        if name in attrs:
            return np.array(attrs[name], kind)
        if name + "s" in attrs:
            return np.array(attrs[name + "s"], kind)
    return None


def _fold_known_shapes(net: Draft, protected: frozenset[str]) -> bool:
    """Shape of a tensor of known size, and Gather of one known size out of a partly known shape."""
    changed = False
    for node in net.nodes:
        if node.op == "Shape" and is_standard(node) and node.outputs and not {"start", "end"} & set(node.attrs):
            shape = dims(node.inputs[0])
            if shape is None or not _replaceable(node, protected):
                continue
            if all(isinstance(size, int) for size in shape):
                _replace(node.outputs[0], np.array(shape, np.int64))
                changed = True
                continue
            for reader in list(node.outputs[0].outputs):
                changed |= _fold_gather_of_shape(net, reader, shape, protected)
    return changed


def _fold_gather_of_shape(net: Draft, node: Any, shape: tuple[Any, ...], protected: frozenset[str]) -> bool:
    if node.op != "Gather" or not is_standard(node) or not node.outputs:
        return False
    if not isinstance(node.inputs[1], gs.Constant) or node.inputs[1].name in net.overridable:
        return False
    index = values_of(node.inputs[1])
    if index.size and (index.min() < -len(shape) or index.max() >= len(shape)):
        return False
    picked = [shape[int(i)] for i in index.ravel()]
    if not _replaceable(node, protected) or not all(isinstance(size, int) for size in picked):
        return False
    _replace(node.outputs[0], np.array(picked, np.int64).reshape(index.shape))
    return True


def _fold_shape_arithmetic(net: Draft, protected: frozenset[str]) -> bool:
    changed = False
    for node in net.nodes:
        if node.op not in _SHAPE_ARITHMETIC or node.domain not in (None, "", "ai.onnx") or not node.outputs:
            continue
        inputs = [t for t in node.inputs if not t.is_empty()]
        if not inputs or any(not isinstance(t, gs.Constant) or t.name in net.overridable for t in inputs):
            continue
        if not _replaceable(node, protected):
            continue
        result = _evaluate(net, node, inputs)
        if result is not None and result.size <= _MOST_ELEMENTS and result.dtype.kind in "iufb":
            _replace(node.outputs[0], result)
            changed = True
    return changed


def _is_small(node: Any, inputs: list[Any]) -> bool:
    if any(int(np.prod(t.shape)) > _MOST_ELEMENTS for t in inputs):
        return False
    if node.op == "ConstantOfShape":
        return 0 <= float(np.prod(values_of(inputs[0]).astype(np.float64))) <= _MOST_ELEMENTS
    if node.op == "Expand":
        return float(np.prod(values_of(inputs[1]).astype(np.float64))) <= _MOST_ELEMENTS
    shapes = [tuple(int(size) for size in t.shape) for t in inputs]
    if node.op == "Gather":
        axis = int(node.attrs.get("axis", 0))
        return math.prod(shapes[1]) * math.prod(shapes[0]) / max(shapes[0][axis], 1) <= _MOST_ELEMENTS
    if node.op in _BROADCAST:
        return math.prod(np.broadcast_shapes(*shapes)) <= _MOST_ELEMENTS
    if node.op == "Range":
        start, limit, delta = (float(values_of(t).reshape(-1)[0]) for t in inputs)
        return delta != 0 and (limit - start) / delta <= _MOST_ELEMENTS
    return True


def _evaluate(net: Net, node: Any, inputs: list[Any]) -> np.ndarray[Any, Any] | None:
    """Result of one node on constants by the reference implementation; None where that has none."""
    graph = gs.Graph(
        nodes=[node],
        inputs=[],
        outputs=[node.outputs[0]],
        opset=net.opset,
        import_domains=net.graph.import_domains,
    )
    try:
        if not _is_small(node, inputs):
            return None
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(gs.export_onnx(graph, do_type_check=False)).run(None, {})
        return np.asarray(results[0])
    # What the reference operators of `onnx` raise on attributes or inputs that they do not support; the node then stays
    # as it is, which is always right.
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, NotImplementedError, AttributeError):
        return None


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


def _unshare_small_constants(net: Draft) -> int:
    copies = 0
    taken = set(net.tensors())
    seen: set[str] = set()
    for node in net.graph.nodes:
        for slot, tensor in enumerate(list(node.inputs)):
            if not isinstance(tensor, gs.Constant) or tensor.name in net.overridable:
                continue
            small = len(tensor.shape) <= 1 and int(np.prod(tensor.shape)) <= _SHARED_SMALL
            if small and tensor.name in seen:
                name = lengthened(f"{tensor.name}_{node.name}_{slot}", taken)
                taken.add(name)
                node.inputs[slot] = gs.Constant(name, values_of(tensor))
                copies += 1
            seen.add(tensor.name)
    return copies
