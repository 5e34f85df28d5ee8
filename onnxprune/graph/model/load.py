"""Reading a model from an untrusted file: every defect raises a `ModelError` of one line."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    uses_external_data,
)

from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.model.ends import Tail, cut_at, cut_automatically
from onnxprune.graph.model.functions import inlined
from onnxprune.graph.model.guard import check_folded, check_layers, check_tensors, drop_empty_lists
from onnxprune.graph.model.net import Net, dims, first_line, is_standard, numpy_dtype
from onnxprune.graph.model.normalize import normalize
from onnxprune.graph.model.order import is_sorted, sort_nodes
from onnxprune.note import Note
from onnxprune.options.reading import ReadOptions

Source = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["MIN_OPSET", "Parts", "load", "read_model", "read_parts"]

MIN_OPSET = 7
MIN_IR = 3
_STANDARD = ("", "ai.onnx")
_MOST_GIVEN = 1 << 20  # elements of an input that gets a value
_MOST_BYTES = 2**31 - 1  # of one protobuf message, and so of what checkers and engines take in memory


@dataclass(frozen=True)
class Parts:
    """Model in two parts, see `graph.model.ends`.

    Attributes:
        front: the part to process, checked.
        tail: the part behind it; None if the front is the whole model.
        label: name of the model in messages.
        given: names of inputs that got a default value.
    """

    front: onnx.ModelProto
    tail: Tail | None
    label: str
    given: frozenset[str] = frozenset()

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the tensors in front of the tail; none without one."""
        return () if self.tail is None else self.tail.ends

    @property
    def notes(self) -> tuple[Note, ...]:
        """Description of the tail, if there is one."""
        if self.tail is None:
            return ()
        tail = self.tail
        layers = f"; layers behind that are not pruned: {tail.layers}" if tail.layers else ""
        what, ends = ", ".join(tail.operators), ", ".join(tail.ends)
        if tail.runs:
            return (Note("end", f"outputs are compared in front of {what}, at {ends}{layers}"),)
        return (Note("end", f"{what} behind {ends} is kept as it is, and not run{layers}"),)

    def whole(self, front: onnx.ModelProto | None = None) -> onnx.ModelProto:
        """Return the whole model: the front, or another front in its place, and the tail."""
        model = self._joined(front)
        if self.given:
            bare = onnx.ModelProto()
            bare.CopyFrom(model)
            del bare.graph.initializer[:]
            bare.graph.initializer.extend(t for t in model.graph.initializer if t.name not in self.given)
            inputs = {value.name: value for value in (*self.front.graph.input, *model.graph.input)}
            del bare.graph.input[:]
            bare.graph.input.extend(inputs.values())
            return bare
        return model

    def _joined(self, front: onnx.ModelProto | None) -> onnx.ModelProto:
        model = self.front if front is None else front
        return model if self.tail is None else self.tail.joined(model)

    def runnable(self, front: onnx.ModelProto | None = None) -> onnx.ModelProto:
        """Return the model to run on the inputs of the front: the whole model, or the front if the tail cannot run."""
        return self._joined(front) if self.tail is None or self.tail.runs else front or self.front


def load(source: Source, *, label: str | None = None, given: Collection[str] = ()) -> tuple[Net, tuple[Note, ...]]:
    """Read, check and normalise a model.

    Args:
        source: the model.
        label: name of the model in messages; default its path, if it has one.
        given: names of inputs with a default value that a caller may replace.

    Returns:
        The graph, and notes on what was changed or kept on loading (see `normalize`).

    Raises:
        ModelError: the file is missing, empty, truncated, not ONNX, outside the supported versions, refers to data
            outside its folder, or holds no weights.
    """
    model, known = read_model(source)
    _check_unoptimised(model, label or known)
    frozen, overridable = _graph_input_weights(model, given)
    net = Net.from_model(model, source=label or known, overridable=overridable)
    notes = [Note("graph inputs", f"{frozen} initializers were graph inputs too; taken as constants")] if frozen else []
    net, more = normalize(net)
    check_folded(net)
    return net, (*notes, *more)


def read_model(source: Source) -> tuple[onnx.ModelProto, str]:
    """Read and check a model; return the ModelProto with its external data in memory, and a label for messages."""
    model, label = _opened(source)
    return _checked(model, label), label


def read_parts(
    source: Source, options: ReadOptions | None = None, like: Parts | None = None, *, custom: bool = False
) -> Parts:
    """Read a model, and part it into the front to process and the tail to keep.

    Args:
        source: the model.
        options: ``until``: names of tensors or nodes at which the front ends; if empty, it ends in front of selection
            operators. ``set_input``: inputs that get a default value, so that they need not be fed.
        like: another model; without ``until``, the front ends at the tensors at which the other model's front ends.
        custom: whether operators of custom domains can be run.

    Raises:
        ModelError: as for `load`, of the front; an input that gets a value has open sizes; a tensor at which the front
            of `like` ends does not exist.
        UsageError: a name in `options` does not exist.
    """
    options = options or ReadOptions()
    model, label = _opened(source)
    model = inlined(model, label)
    _sort(model, label)
    _set_inputs(model, options.values, label)
    given = frozenset(options.values)
    if options.until:
        front, tail = cut_at(model, options.until, label)
    elif like is not None and like.tail is not None:
        outputs = [value.name for value in like.front.graph.output]
        try:
            front, tail = cut_at(model, outputs, label, runs=like.tail.runs)
        except UsageError as error:
            told = f"{error}; {like.label} is compared there: give --until with tensors that both have"
            raise ModelError(told) from error
    else:
        front, tail = cut_automatically(model, custom=custom)
        if tail is not None:
            try:
                return Parts(_checked(front, label), tail, label, given)
            except ModelError:  # the type of a tensor in front does not follow: then all or nothing
                front, tail = model, None
    return Parts(_checked(front, label), tail, label, given)


def _set_inputs(model: onnx.ModelProto, values: Mapping[str, float], label: str) -> None:
    """Give inputs a default value: an initializer of their name, all elements equal."""
    known = {value.name: value for value in model.graph.input}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"--set-input {name}: {label} has no such input; its inputs are {', '.join(known)}")
        kind = known[name].type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        if not kind.HasField("shape") or not kind.elem_type or any(size < 1 for size in shape):
            raise ModelError(f"{label}: input '{name}' has open sizes, which no value fills: fix its shape")
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        except KeyError:
            dtype = np.dtype(object)
        if dtype.kind not in "fiub" or math.prod(shape) > _MOST_GIVEN:
            raise ModelError(f"{label}: input '{name}' is {dtype} {shape}: --set-input fills small inputs of numbers")
        with np.errstate(all="ignore"):
            array = np.full(shape, np.float64(value).astype(dtype))
        if not math.isfinite(value) or (dtype.kind != "f" and not np.all(array == value)):
            raise UsageError(f"--set-input {name}={value:g} does not fit {dtype}")
        others = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*others, onnx.numpy_helper.from_array(array, name)])
    if values:
        model.ir_version = max(model.ir_version, 4)  # before, an input with a value was a constant


def _opened(source: Source) -> tuple[onnx.ModelProto, str]:
    """Read a model of a known version with its external data; its graph is not checked."""
    if isinstance(source, onnx.ModelProto):
        model, label, folder = onnx.ModelProto(), "the given model", None
        model.CopyFrom(source)
    elif isinstance(source, bytes):
        label, folder = "the given bytes", None
        model = _parse(source, label)
    else:
        path = Path(source)
        label, folder = str(path), path.parent
        model = _parse(_read(path), label)
    _check_versions(model, label)
    _check_names(model.graph, label)
    _load_external(model, folder, label)
    return model, label


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path}: is a folder, not an ONNX file")
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might never end, and is read once only
            raise ModelError(f"{path}: is no regular file; save the model to a file first")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise ModelError(f"{path}: the file is empty")
    return content


def _parse(content: bytes, label: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{label}: not an ONNX file, or cut short (its protobuf cannot be parsed)") from None
    return model


def _check_versions(model: onnx.ModelProto, label: str) -> None:
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{label}: not an ONNX model (it holds no graph with nodes)")
    if model.ir_version < MIN_IR:
        raise ModelError(f"{label}: IR version {model.ir_version}; {MIN_IR} or newer is needed: export it again")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(f"{label}: IR version {model.ir_version} is newer than the installed onnx knows; update onnx")
    newest = onnx.defs.onnx_opset_version()
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), None)
    if opset is None:
        raise ModelError(f"{label}: names no version of the standard operator set")
    if not MIN_OPSET <= opset <= newest:
        raise ModelError(
            f"{label}: opset {opset}; supported are {MIN_OPSET} to {newest}: convert it with onnx.version_converter"
        )


def _check_names(graph: onnx.GraphProto, label: str) -> None:
    """Check that names are text: a damaged file may hold bytes that are none."""
    names: list[object] = [tensor.name for tensor in graph.initializer]
    names += [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
    names += [n for node in graph.node for n in (node.op_type, node.domain, node.name, *node.input, *node.output)]
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"{label}: a name in it is no text: {name!r:.60}")


def _load_external(model: onnx.ModelProto, folder: Path | None, label: str) -> None:
    tensors = [t for t in onnx.external_data_helper._get_all_tensors(model) if uses_external_data(t)]
    if not tensors:
        return
    if folder is None:
        raise ModelError(f"{label}: its weights lie in other files; pass the path of the model instead")
    root = folder.resolve()
    total = sum(_bytes(tensor) for tensor in tensors) + model.ByteSize()
    if total > _MOST_BYTES:
        raise ModelError(f"{label}: {total / 2**30:.1f} GB with its external data; up to 2 GB can be handled")
    for tensor in tensors:
        try:
            _check_external(tensor, root, label)
        except (OSError, ValueError, TypeError) as error:  # no numbers, no file name
            raise ModelError(f"{label}: weight '{tensor.name}' lies nowhere: {first_line(error)}") from error
    try:
        load_external_data_for_model(model, str(root))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{label}: its external data cannot be read: {first_line(error)}") from error


def _check_external(tensor: onnx.TensorProto, root: Path, label: str) -> None:
    """Check that a weight's values lie in a file in the model's folder; where no length is given, write it down."""
    info = ExternalDataInfo(tensor)
    if not info.location:
        raise ModelError(f"{label}: weight '{tensor.name}' lies in a file without a name")
    file = root / info.location
    if Path(info.location).is_absolute() or not _inside(file, root):
        raise ModelError(f"{label}: weight '{tensor.name}' lies outside the model's folder ('{info.location:.200}')")
    if not file.is_file():
        raise ModelError(f"{label}: the file '{info.location:.200}' with weight '{tensor.name}' is missing")
    offset, length = int(info.offset or 0), int(info.length or _bytes(tensor))
    if offset < 0 or length < 0:
        raise ModelError(f"{label}: weight '{tensor.name}' lies at offset {offset}, of length {length}")
    if offset + length > file.stat().st_size:
        raise ModelError(f"{label}: '{info.location:.200}' is too short for weight '{tensor.name}'")
    if length > _bytes(tensor):
        raise ModelError(f"{label}: weight '{tensor.name}' has {_bytes(tensor)} bytes, not {length}")
    if not info.length:  # the rest of the file would be read
        tensor.external_data.add(key="length", value=str(length))


def _bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a weight in memory, by its shape and type."""
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        width = 1
    return math.prod(tensor.dims) * width


def _inside(file: Path, root: Path) -> bool:
    """Tell whether a file lies below a folder with no link on the way."""
    absolute = Path(os.path.normpath(file))
    return absolute.is_relative_to(root) and absolute.resolve() == absolute


def _checked(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    if model.graph.sparse_initializer:
        raise ModelError(f"{label}: its weights are stored sparse: store them dense")
    for version in model.opset_import:
        if version.domain and version.domain in _STANDARD:
            version.domain = ""
    for node in model.graph.node:
        if node.domain and node.domain in _STANDARD:
            node.domain = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")
    _sort(model, label)
    drop_empty_lists(model.graph)
    check_tensors(model, label)
    check_layers(model.graph, label)
    _check_operators(model, label)
    _complete_types(model, label)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{label}: not a valid ONNX model: {first_line(error)}") from error
    return inlined(model, label)


def _sort(model: onnx.ModelProto, label: str) -> None:
    if not is_sorted(model.graph):
        sort_nodes(model.graph, label)


def _check_unoptimised(model: onnx.ModelProto, label: str) -> None:
    """Refuse models that onnxruntime has optimised for one machine: fused convs, and weights in blocks of channels."""
    for node in model.graph.node:
        if (node.domain == "com.microsoft" and node.op_type == "FusedConv") or node.domain == "com.microsoft.nchwc":
            raise ModelError(
                f"{label}: onnxruntime has optimised this file ({node.op_type} '{node.name}'): give the "
                "model from before, or one saved at optimisation level basic"
            )


def _check_operators(model: onnx.ModelProto, label: str) -> None:
    for node in model.graph.node:
        if is_standard(node) and not onnx.defs.has(node.op_type):
            raise ModelError(
                f"{label}: ONNX has no operator {node.op_type} (node '{node.name}'): name the last tensors "
                "in front of it with --until"
            )


def _complete_types(model: onnx.ModelProto, label: str) -> None:
    """Give graph outputs their inferred types and shapes where the file has none: engines do without, checkers do not.

    Raises:
        ModelError: an input or output has none, and it does not follow from the others.
    """
    for value in model.graph.input:
        if _is_untyped(value):
            raise ModelError(
                f"{label}: input '{value.name}' has no type or shape: give it one "
                "(onnx.tools.update_model_dims, or when exporting)"
            )
    untyped = [value for value in model.graph.output if _is_untyped(value)]
    if not untyped:
        return
    known = normalize(Net.from_model(model, source=label), demand_weights=False)[0].tensors()
    for value in untyped:
        tensor = known.get(value.name)
        if tensor is None or tensor.shape is None or tensor.dtype is None:
            raise ModelError(f"{label}: output '{value.name}' has no type or shape, and none can be inferred")
        kind = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype))
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, list(dims(tensor) or ())))


def _is_untyped(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    if kind is None:
        return True
    return kind == "tensor_type" and not (value.type.tensor_type.elem_type and value.type.tensor_type.HasField("shape"))


def _graph_input_weights(model: onnx.ModelProto, given: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Initializers that are graph inputs too: how many were made plain constants, and those left overridable.

    IR 3 demanded the double entry, and exporters of that time kept it for every weight; that is habit. Where only
    some are listed, somebody means to feed them, and they stay inputs.
    """
    weights = {tensor.name for tensor in model.graph.initializer}.difference(given)
    listed = [value.name for value in model.graph.input if value.name in weights]
    if not listed:
        return 0, tuple(given)
    if model.ir_version >= 4 and len(listed) < len(weights):
        return 0, (*listed, *given)
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # before, an initializer had to be an input
    return len(listed), tuple(given)
