"""Operators as torch functions: the table, and the view of a node that a function gets.

A function gets a `Call` and the node's input tensors, an absent optional one as None, and returns the output, or a
tuple where there are several. It is written for the schema revisions that it names; an operator, revision or domain
that nobody wrote for is not run at all, and neither is a mode that a function refuses with `UnsupportedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from onnxprune.graph.model.net import revision_of

__all__ = ["Call", "TorchOp", "UnsupportedError", "op_for", "registered", "torch_op"]

TorchOp = Callable[..., Any]
Function = TypeVar("Function", bound=TorchOp)
_OPS: dict[str, dict[int, TorchOp]] = {}
_STANDARD = (None, "", "ai.onnx")


class UnsupportedError(Exception):
    """A mode of an operator that its function does not know."""


@dataclass(frozen=True)
class Call:
    """View of a node for its function.

    Attributes:
        op: operator.
        attributes: those that the node has, tensors as numpy arrays.
        revision: of the operator's schema.
        outputs: how many the node has.
    """

    op: str
    attributes: Mapping[str, Any]
    revision: int
    outputs: int = 1

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or the schema's default."""
        return self.attributes.get(name, default)

    def expect(self, name: str, default: object, *allowed: object) -> Any:
        """An attribute that must be one of `allowed`, or its default.

        Raises:
            UnsupportedError: it is another.
        """
        value = self.get(name, default)
        if value != default and value not in allowed:
            raise UnsupportedError(f"{self.op} with {name} = {value}")
        return value

    def integers(self, name: str, tensor: Tensor | None) -> list[int] | None:
        """A list that older revisions keep in an attribute and newer ones in an input; None if neither."""
        listed = self.get(name, None)
        if listed is not None:
            return [int(value) for value in listed]
        return None if tensor is None else [int(value) for value in tensor.reshape(-1).tolist()]

    def axis(self, rank: int, default: int) -> int:
        """The attribute ``axis``, counted from the front."""
        return int(self.get("axis", default)) % max(rank, 1)


def torch_op(*operators: str, since: Sequence[int]) -> Callable[[Function], Function]:
    """Register the function of operators for the schema revisions that it was written for."""

    def register(function: Function) -> Function:
        for operator in operators:
            known = _OPS.setdefault(operator, {})
            for revision in since:
                if revision in known:
                    raise ValueError(f"a function for revision {revision} of {operator} is registered already")
                known[revision] = function
        return function

    return register


def op_for(operator: str, domain: str | None, opset: int) -> tuple[TorchOp, int] | str:
    """The function of an operator and its schema revision, or the reason why there is none."""
    if domain not in _STANDARD:
        return f"{operator} of domain '{domain}'"
    if operator not in _OPS:
        return operator
    revision = revision_of(operator, opset)
    function = None if revision is None else _OPS[operator].get(revision)
    return f"{operator}, revision {revision}" if revision is None or function is None else (function, revision)


def registered() -> Mapping[str, Sequence[int]]:
    """All operators that have a function, with the revisions."""
    return {name: tuple(revisions) for name, revisions in _OPS.items()}


def beside(*tensors: Tensor) -> list[Tensor]:
    """Tensors on one device: constants that say sizes stay on the CPU until they meet data."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    return [t if t.device == device else t.to(device) for t in tensors]
