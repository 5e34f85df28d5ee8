"""The graph that every stage reads: an onnx-graphsurgeon graph, the header of its model, and shapes.

A `Net` is a value: nothing changes it, so its index of nodes and tensors stays true. Whoever wants to change one takes
a `Draft` of it, and makes that a `Net` again when the changes are done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.graph.model.bounds import bounded_memory

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "LAYERS",
    "Dim",
    "Draft",
    "Header",
    "Net",
    "Seen",
    "captured_names",
    "dims",
    "is_per_output",
    "lengthened",
    "numpy_dtype",
    "revision_of",
    "values_of",
]

G_LOGGER.severity = G_LOGGER.ERROR  # what a user should know is said in our own words
Dim = int | str | None  # a fixed size, a symbol, or nothing known
_INFERENCE_BYTES, _INFERENCE_COPIES = 1 << 30, 4  # of memory for shape inference: see `bounded_memory`
_WEIGHT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_SMALL_WEIGHTS = 1024  # elements
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with a second input that may be a matrix of weights; not all such nodes are sites."""


@dataclass(frozen=True)
class Seen:
    """Tensor whose sizes no inference knows, as runs of the model have it.

    Attributes:
        name: its name.
        kind: data type, an ``onnx.TensorProto.DataType``.
        sizes: extents, (for one sample, True) for one that grows with the batch, and (extent, False) for a fixed one.
    """

    name: str
    kind: int
    sizes: tuple[tuple[int, bool], ...]

    def value(self, batch: int) -> onnx.ValueInfoProto:
        """Return its type for a batch."""
        shape = [size * batch if grows else size for size, grows in self.sizes]
        return onnx.helper.make_tensor_value_info(self.name, self.kind, shape)


@dataclass(frozen=True)
class Header:
    """Fields of a model besides its graph, copied from the input file to the output file.

    ``has_shapes``: whether the model lists the shapes of tensors between the nodes. ``half``: names of the weights that
    the file stores as float16, with a Cast to float32 behind each. ``seen``: tensors whose sizes only runs tell.
    """

    ir_version: int
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    has_shapes: bool = True
    half: frozenset[str] = frozenset()
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class _Index:
    """Nodes and tensors of a graph by name."""

    nodes: tuple[Any, ...]
    by_name: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @classmethod
    def of(cls, graph: Any) -> _Index:
        """Index a graph."""
        nodes = tuple(graph.nodes)
        return cls(nodes, {node.name: node for node in reversed(nodes)}, MappingProxyType(dict(graph.tensors())))


@dataclass(frozen=True, eq=False)
class Net:
    """A loaded graph.

    Attributes:
        graph: the onnx-graphsurgeon graph, nodes in topological order, every node named and unique.
        header: the model's own fields.
        source: the file that it came from, for messages.
        overridable: names of initializers that are graph inputs too; a caller may replace their values.
    """

    graph: Any
    header: Header
    source: str = "model"
    overridable: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_model(
        cls,
        model: onnx.ModelProto,
        *,
        source: str = "model",
        overridable: Iterable[str] = (),
        header: Header | None = None,
    ) -> Self:
        """Import a checked model, with shapes inferred where onnx can.

        Args:
            model: the model.
            source: the file that it came from, for messages.
            overridable: names of initializers that are graph inputs too.
            header: fields besides the graph; default those of the model.

        Raises:
            ModelError: an attribute holds what no graph can carry, such as text that is none.
        """
        inferred = infer_shapes(model, source)
        header = header or Header(
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            domain=model.domain,
            model_version=model.model_version,
            doc_string=model.doc_string,
            metadata=tuple((entry.key, entry.value) for entry in model.metadata_props),
            has_shapes=bool(model.graph.value_info),
        )
        try:
            graph = gs.import_onnx(inferred)
        except (UnicodeDecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{source}: an attribute or tensor cannot be read: {first_line(error)}") from error
        return cls(graph, header, source, frozenset(overridable))

    @cached_property
    def _index(self) -> _Index:
        return _Index.of(self.graph)

    @property
    def nodes(self) -> Sequence[Any]:
        """The nodes in topological order."""
        return self._index.nodes

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs that a caller must feed."""
        return tuple(t.name for t in self.graph.inputs if not isinstance(t, gs.Constant))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return tuple(t.name for t in self.graph.outputs)

    def node(self, name: str) -> Any:
        """The node of that name; KeyError if there is none."""
        return self._index.by_name[name]

    def holds(self, node: Any) -> bool:
        """Tell whether a node is in the outer graph, and not in the body of an If or Loop."""
        return self._index.by_name.get(node.name) is node

    def tensors(self) -> Mapping[str, Any]:
        """All tensors of the outer graph by name."""
        return self._index.tensors

    def draft(self) -> Draft:
        """A copy whose nodes and tensors may be changed; the weights' arrays are shared until replaced."""
        return Draft(self.graph.copy(), self.header, self.source, self.overridable)

    def to_model(self) -> onnx.ModelProto:
        """The graph as a ModelProto, header restored."""
        header = self.header
        model = exported(self.graph, header.ir_version)
        model.producer_name, model.producer_version = header.producer_name, header.producer_version
        model.domain, model.model_version = header.domain, header.model_version
        model.doc_string = header.doc_string
        onnx.helper.set_model_props(model, dict(header.metadata))
        return model

    def parameters(self) -> int:
        """Number of floating-point numbers in the weights."""
        return sum(
            int(np.prod(t.shape))
            for t in self.tensors().values()
            if isinstance(t, gs.Constant) and np.issubdtype(numpy_dtype(t.dtype), np.floating)
        )

    def with_input_shapes(self, shapes: Mapping[str, Sequence[int]]) -> Net:
        """Copy the graph for inputs of exactly these shapes, every other shape inferred anew.

        Raises:
            ModelError: the shapes contradict the graph.
        """
        model = self.to_model()
        del model.graph.value_info[:]
        for value in model.graph.input:
            if value.name in shapes:
                value.CopyFrom(
                    onnx.helper.make_tensor_value_info(
                        value.name, value.type.tensor_type.elem_type, list(shapes[value.name])
                    )
                )
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        ends = {value.name for value in model.graph.output}
        batch = max((int(shape[0]) for shape in shapes.values() if len(shape)), default=1)
        model.graph.value_info.extend(seen.value(batch) for seen in self.header.seen if seen.name not in ends)
        return Net.from_model(model, source=self.source, overridable=self.overridable, header=self.header)


@dataclass(frozen=True, eq=False)
class Draft(Net):
    """A mutable copy of a graph; `nodes` and `tensors` are read from the graph at each call."""

    @property
    def nodes(self) -> Sequence[Any]:
        """The nodes as they are now."""
        return list(self.graph.nodes)

    def node(self, name: str) -> Any:
        """The node that had that name when it was first asked for one; KeyError if there is none."""
        return self._index.by_name[name]

    def tensors(self) -> Mapping[str, Any]:
        """All tensors of the outer graph by name, as they are now."""
        return dict(self.graph.tensors())

    @cached_property
    def _taken(self) -> set[str]:
        return set(self.graph.tensors())

    def unused_name(self, name: str) -> str:
        """The name, lengthened until no tensor of the outer graph has it; it is taken from then on."""
        found = lengthened(name, self._taken)
        self._taken.add(found)
        return found

    def done(self, *, tidy: bool = False) -> Net:
        """Make the network of the graph.

        Args:
            tidy: remove what no output depends on, and sort the nodes.
        """
        if tidy:
            self.graph.cleanup(remove_unused_graph_inputs=False).toposort()
        return Net(self.graph, self.header, self.source, self.overridable)


def exported(graph: Any, ir_version: int) -> onnx.ModelProto:
    """The model of an onnx-graphsurgeon graph, in this version of the format but at least 4."""
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = max(ir_version, 4)
    return model


def constant(name: str, values: np.ndarray[Any, Any]) -> Any:
    """A new constant of the graph."""
    return gs.Constant(name, values)


def is_constant(tensor: Any) -> bool:
    """Tell whether a tensor is a constant: an initializer, or the value of a tensor attribute."""
    return isinstance(tensor, gs.Constant)


def infer_shapes(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Shape inference with data propagation; a contradiction in the model, and values without end, are a ModelError."""
    try:
        with bounded_memory(_INFERENCE_BYTES, _INFERENCE_COPIES):
            inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except MemoryError as error:  # it makes the values of a Range, for instance
        raise ModelError(f"{source}: shape inference fails: the sizes that it computes take gigabytes") from error
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(f"{source}: shape inference fails: {first_line(error)}") from error
    for bare, tensor in zip(inferred.graph.initializer, model.graph.initializer, strict=True):
        if not bare.HasField("raw_data") and tensor.HasField("raw_data"):
            bare.raw_data = tensor.raw_data
    return inferred


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the values of its large weights, of which shape inference reads the shapes only."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if tensor.data_type in _WEIGHT_TYPES and math.prod(tensor.dims) > _SMALL_WEIGHTS:
            tensor.ClearField("raw_data")
    return light


def first_line(error: BaseException) -> str:
    """The first line of an exception that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_standard(node: Any) -> bool:
    """Tell whether a node's operator is in ONNX's own domain: another domain may have one of that name."""
    return node.domain in (None, "", "ai.onnx")


def dims(tensor: Any) -> tuple[Dim, ...] | None:
    """Shape of a tensor, sizes that are not positive taken as unknown; None where the rank is unknown."""
    if tensor.shape is None:
        return None
    return tuple(_dim(size) for size in tensor.shape)


def _dim(size: Any) -> Dim:
    if isinstance(size, str):
        return size or None
    return int(size) if size is not None and int(size) > 0 else None


def values_of(tensor: Any) -> np.ndarray[Any, Any]:
    """Values of a constant."""
    return np.asarray(tensor.values)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The numpy type of an onnx-graphsurgeon dtype (which may be an ONNX number for types numpy lacks)."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype)) if isinstance(dtype, int) else np.dtype(dtype)


def revision_of(operator: str, opset: int) -> int | None:
    """The schema revision of a standard operator in an operator set; None if it is not in it."""
    try:
        return int(onnx.defs.get_schema(operator, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def lengthened(name: str, taken: Container[str]) -> str:
    """The name, with underscores behind it until it is not taken."""
    while name in taken:
        name += "_"
    return name


def captured_names(node: Any) -> Iterator[str]:
    """Names that the bodies of a control-flow node may read from outside: all that they read and do not make."""
    for subgraph in node.attrs.values():
        if isinstance(subgraph, gs.Graph):
            made = {tensor.name for inner in subgraph.nodes for tensor in inner.outputs}
            made.update(tensor.name for tensor in subgraph.inputs)
            read = [tensor.name for inner in subgraph.nodes for tensor in inner.inputs if not tensor.is_empty()]
            read += [name for inner in subgraph.nodes for name in captured_names(inner)]
            read += [tensor.name for tensor in subgraph.outputs]
            yield from (name for name in read if name not in made)


def is_per_output(shape: Sequence[int], outputs: int) -> bool:
    """Tell whether the C of a Gemm has one value an output, or one for all; it may also differ from row to row."""
    size = int(np.prod(shape))
    return size == 1 or (size == outputs and int(shape[-1]) == outputs)
