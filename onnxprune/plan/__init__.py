"""Deciding how many channels each group keeps, and the file that says so. How a plan is carried out is not known
here."""

from onnxprune.plan.allocate import Allocation, allocate, levels
from onnxprune.plan.budget import Budget, budget_from
from onnxprune.plan.plan import GroupPlan, Plan

__all__ = ["Allocation", "Budget", "GroupPlan", "Plan", "allocate", "budget_from", "levels"]
