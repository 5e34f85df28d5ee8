"""The two models of a comparison: any that onnxruntime runs, including models that onnxprune cannot prune.

The inputs and outputs of a model that cannot be pruned (quantized, optimised by an engine) are read from onnxruntime,
and its MACs and parameters are not counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.data import InputSpec
from onnxprune.engine.inputs import input_specs
from onnxprune.errors import ModelError
from onnxprune.graph.channels.groups import channel_map
from onnxprune.graph.model.load import Parts, load, read_parts
from onnxprune.options.reading import ReadOptions
from onnxprune.planning.cost import cost_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxprune.engine.sessions import Engine, Session
    from onnxprune.graph.model.net import Net

    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["Side", "open_pair"]

_KIND = re.compile(r"tensor\((\w+)\)")
_KINDS = {"float": "float32", "double": "float64", "bool": "bool"}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models.

    Attributes:
        parts: the model.
        session: the front of the model, loaded.
        specs: inputs of the front.
        net: graph of the front; None if onnxprune cannot prune it.
        why: reason why it cannot be pruned; empty if it can.
    """

    parts: Parts
    session: Session
    specs: tuple[InputSpec, ...]
    net: Net | None
    why: str = ""

    @property
    def label(self) -> str:
        """Name of the model in messages."""
        return self.parts.label

    def cost(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int] | str:
        """Return MACs and parameters for inputs of these shapes, or the reason why they cannot be counted."""
        if self.net is None:
            return self.why
        found = cost_model(self.net, channel_map(self.net), shapes)
        if found.unknown:
            return f"{self.label}: the size of '{min(found.unknown)}' does not follow from the input shapes"
        return found.macs(), found.params()


def open_pair(original: Model, candidate: Model, options: ReadOptions, engine: Engine) -> tuple[Side, Side]:
    """Open two models, both up to the same tensors.

    Args:
        original: the first model.
        candidate: the second model.
        options: where they end, and inputs that are no samples, see `read_parts`.
        engine: the engine that runs them.

    Raises:
        ModelError: a model cannot be read, or the second has not the inputs, the tensors or the outputs of the first.
        EngineError: onnxruntime cannot load one of them.
    """
    custom = bool(engine.options.ops_library)
    first = read_parts(original, options, custom=custom)
    second = read_parts(candidate, options, like=first, custom=custom)
    before, after = (_opened(parts, engine) for parts in (first, second))
    ours, theirs = ("; ".join(map(str, side.specs)) for side in (before, after))
    if ours != theirs:
        raise ModelError(f"{after.label} takes {theirs}, expected the inputs of {before.label}: {ours}")
    fixed = {spec.shape[0] for spec in (*before.specs, *after.specs) if spec.shape[0]}
    if len(fixed) > 1:
        raise ModelError(f"{after.label} and {before.label} fix different batch sizes: {sorted(fixed)}")
    names = [", ".join(sorted(side.session.output_names)) for side in (before, after)]
    if names[0] != names[1]:
        raise ModelError(f"{after.label} has outputs {names[1]}, expected the outputs of {before.label}: {names[0]}")
    return before, after


def _opened(parts: Parts, engine: Engine) -> Side:
    session = engine.session(parts.front, label=parts.label)
    try:
        net, _ = load(parts.front, label=parts.label, given=parts.given)
        return Side(parts, session, input_specs(net), net)
    except ModelError as error:
        return Side(parts, session, _specs_of(session, parts.label), None, str(error))


def _specs_of(session: Session, label: str) -> tuple[InputSpec, ...]:
    found = []
    for name, shape, kind in session.inputs:
        match = _KIND.fullmatch(kind)
        try:
            dtype = np.dtype(_KINDS.get(match[1], match[1]) if match else kind)
        except TypeError as error:
            raise ModelError(f"{label}: input '{name}' is a {kind}, which cannot be fed here") from error
        found.append(InputSpec(name, tuple(size if isinstance(size, int) else None for size in shape), dtype))
    return tuple(found)
