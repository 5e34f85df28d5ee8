"""What a user may say of outputs: their kinds, and a measure of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

__all__ = ["AskedKind", "Evaluate", "Run"]

AskedKind = Literal["classes", "pixels", "values"]
"""Kinds of outputs that a user may name."""
Run = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Function that runs the network under test: arrays by input name, the first axis the batch, to arrays by output
name."""


Evaluate = Callable[[Run], Any]
"""Measure: a function that takes a `Run` and returns one finite number, higher is better."""
