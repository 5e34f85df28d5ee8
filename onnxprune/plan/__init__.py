"""Deciding how many channels each group keeps and how each layer is carried out, and the file that says so. How a
plan is carried out is not known here."""

from onnxprune.plan.allocate import Allocation, allocate, levels
from onnxprune.plan.budget import Budget, Counted, budget_from
from onnxprune.plan.candidates import RECIPES, Candidates, Recipe
from onnxprune.plan.explain import Explanation, Option, Reason, explain
from onnxprune.plan.layers import LayerPlan
from onnxprune.plan.plan import GroupPlan, Plan
from onnxprune.plan.search import Choice, search

__all__ = [
    "RECIPES",
    "Allocation",
    "Budget",
    "Candidates",
    "Choice",
    "Counted",
    "Explanation",
    "GroupPlan",
    "LayerPlan",
    "Option",
    "Plan",
    "Reason",
    "Recipe",
    "allocate",
    "budget_from",
    "explain",
    "levels",
    "search",
]
