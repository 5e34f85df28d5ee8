"""Plans: number of channels that each group keeps, form of each layer, and the plan file. Carrying a plan out is left
to the stages."""

from onnxprune.options.budget import WITHIN_DROP, Budget, BudgetOptions, times_less
from onnxprune.options.planning import RECIPES, Allocation, Recipe, Uses
from onnxprune.planning.assignment import REMOVED, Assignment
from onnxprune.planning.candidates import Candidates
from onnxprune.planning.explain import Explanation, Option, Reason, explain
from onnxprune.planning.layers import LayerPlan
from onnxprune.planning.levels import levels
from onnxprune.planning.plan import GroupPlan, Plan
from onnxprune.planning.search import search

__all__ = [
    "RECIPES",
    "REMOVED",
    "WITHIN_DROP",
    "Allocation",
    "Assignment",
    "Budget",
    "BudgetOptions",
    "Candidates",
    "Explanation",
    "GroupPlan",
    "LayerPlan",
    "Option",
    "Plan",
    "Reason",
    "Recipe",
    "Uses",
    "explain",
    "levels",
    "search",
    "times_less",
]
