"""Plans: number of channels that each group keeps, form of each layer, and the plan file. Carrying a plan out is left
to the steps."""

from onnxprune.planning.assignment import REMOVED, Assignment
from onnxprune.planning.candidates import Candidates
from onnxprune.planning.explain import Explanation, Option, Reason, explain
from onnxprune.planning.layers import LayerPlan
from onnxprune.planning.levels import levels
from onnxprune.planning.plan import GroupPlan, Plan
from onnxprune.planning.search import search

__all__ = [
    "REMOVED",
    "Assignment",
    "Candidates",
    "Explanation",
    "GroupPlan",
    "LayerPlan",
    "Option",
    "Plan",
    "Reason",
    "explain",
    "levels",
    "search",
]
