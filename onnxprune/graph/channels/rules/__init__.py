"""One rule an operator. Importing this package registers all of them."""

from onnxprune.graph.channels.rules import elementwise, layers, layout, selection, shapes, spatial
from onnxprune.graph.channels.rules.registry import (
    MOST_SLOTS,
    Axis,
    Coupling,
    Edit,
    NodeView,
    Pin,
    Tie,
    fixup_for,
    registered,
    rule_for,
)

__all__ = [
    "MOST_SLOTS",
    "Axis",
    "Coupling",
    "Edit",
    "NodeView",
    "Pin",
    "Tie",
    "elementwise",
    "fixup_for",
    "layers",
    "layout",
    "registered",
    "rule_for",
    "selection",
    "shapes",
    "spatial",
]
