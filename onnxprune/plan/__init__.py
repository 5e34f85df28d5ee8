"""Plans: number of channels that each group keeps, form of each layer, and the plan file. Carrying a plan out is left
to the stages."""

from onnxprune.plan.budget import WITHIN_DROP, Budget, BudgetOptions, times_less
from onnxprune.plan.candidates import RECIPES, Candidates, Recipe, Uses
from onnxprune.plan.explain import Explanation, Option, Reason, explain
from onnxprune.plan.layers import LayerPlan
from onnxprune.plan.levels import levels
from onnxprune.plan.plan import GroupPlan, Plan
from onnxprune.plan.search import Allocation, Choice, search

__all__ = [
    "RECIPES",
    "WITHIN_DROP",
    "Allocation",
    "Budget",
    "BudgetOptions",
    "Candidates",
    "Choice",
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
