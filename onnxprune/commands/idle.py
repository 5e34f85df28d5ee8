"""Errors for options that have no effect in a run.

An option counts as given if it differs from its default. One table states the requirement of each option; `Rule.met`
says whether this run meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.options.run import Options
    from onnxprune.planning import Plan

__all__ = ["BY_PLAN", "PLANNED", "Rule", "check_idle", "check_options"]

PLANNED = ("recipe", "input_size", "drop_branches", "allocation", "sensitivity", "align")
"""Options that have no effect with a plan file."""
BY_PLAN = "with --plan, which fixes what is done"


@dataclass(frozen=True)
class Rule:
    """Requirement of some options.

    Attributes:
        fields: names of the options in their record, with dots for nested records (``select.rank_tol``).
        met: whether this run meets the requirement.
        why: the requirement, as the end of "--rank-tol does nothing ...".
    """

    fields: tuple[str, ...]
    met: bool
    why: str


def check_idle(given: object, usual: object, rules: Sequence[Rule]) -> None:
    """Refuse options that have no effect.

    Args:
        given: record of options.
        usual: record of this type with all defaults.
        rules: requirements; the first one that is violated raises.

    Raises:
        UsageError: an option differs from its default, and its requirement is not met.
    """
    for rule in rules:
        idle = [_flag(given, name) for name in rule.fields if not rule.met and _at(given, name) != _at(usual, name)]
        if idle:
            flags = ", ".join(idle)
            raise UsageError(f"{flags} {'do' if len(idle) > 1 else 'does'} nothing {rule.why}: leave {flags} out")


def check_options(options: Options, plan: Plan | None = None) -> None:
    """Refuse options of `prune` that have no effect in combination with the others, or with a plan file.

    Args:
        options: all options of the run.
        plan: plan to carry out; None for a budget.

    Raises:
        UsageError: an option differs from its default, and has no effect.
    """
    check_idle(options, type(options)(), _rules(options, plan))


def _rules(options: Options, plan: Plan | None) -> tuple[Rule, ...]:
    planned, uses, kind = plan is not None, options.uses, options.budget.kind
    lasso = options.select.selector == "lasso"
    chosen = "select.selector", "select.lasso", "select.rank_tol", "select.lasso_alpha", "select.layer_alpha"
    free = plan is None or _selects(plan)
    split = any(layer.form.spatial is not None for layer in plan.layers) if plan is not None else uses.spatial
    counted = kind not in ("keep-ratio", "selector")
    no_budget = "with --keep-ratio" if kind == "keep-ratio" else "if the LASSO finds its own counts"
    timed = options.bench or (options.budget.unit == "latency" and not planned)
    return (
        Rule(PLANNED, not planned, BY_PLAN),
        Rule(chosen, free, "with a plan that names the channels to keep"),
        Rule(chosen, planned or uses.prune, f"with --recipe {options.recipe_used}, which removes no channels"),
        Rule(chosen[1:], lasso, "without --selector lasso"),
        Rule(("select.rank_tol",), options.select.lasso != "fixed", "with --lasso fixed"),
        Rule(("select.lasso_alpha", "select.layer_alpha"), options.select.lasso == "fixed", "without --lasso fixed"),
        Rule(("refit.ridge",), options.refit.refit == "ridge", "without --refit ridge"),
        Rule(("refit.basis", "refit.rounds"), split, "if no kernel is decomposed: they need --recipe spatial or 3c"),
        Rule(("refit.rounds",), options.refit.refit != "none", "with --refit none"),
        Rule(("refit.rounds",), options.refit.basis != "plain", "with --basis plain"),
        Rule(("refit.downstream",), options.refit.refit != "none", "with --refit none"),
        Rule(("drop_branches", "allocation", "sensitivity"), counted, no_budget),
        Rule(
            ("input_size",),
            kind in ("macs", "latency", "drop") and options.recipe_used == "3c",
            "without --recipe 3c and a budget in time or MACs",
        ),
        Rule(("align",), kind != "selector", no_budget),
        Rule(("drop_branches",), uses.prune, f"with --recipe {options.recipe_used}, which removes no channels"),
        Rule(
            ("sensitivity",),
            options.recipe_used != "prune" or options.allocation == "greedy",
            "with --allocation uniform and --recipe prune",
        ),
        Rule(("bench_batch",), timed, "with --no-bench, unless the budget is a latency"),
    )


def _selects(plan: Plan) -> bool:
    """Return True if a plan leaves the channels of some group to the selector."""
    return any(group.kept is None for group in plan.groups)


def _at(record: object, name: str) -> object:
    return reduce(getattr, name.split("."), record)


def _flag(record: object, name: str) -> str:
    """Return the option as typed: ``--no-bench`` for a field ``bench`` that is off."""
    word = name.rpartition(".")[2].replace("_", "-")
    return f"--no-{word}" if _at(record, name) is False else f"--{word}"
