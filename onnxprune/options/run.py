"""The options of the main job: a frozen dataclass a group, which is the panel of the command line, the argument in
Python and the record in the report.

`Options` holds them all: the fields of `PlanOptions`, `InputOptions` and `BenchOptions` as its own, the other groups
under their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import psutil

from onnxprune.errors import UsageError
from onnxprune.options.budget import WITHIN_DROP, Budget
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.inputs import LEAST_MEMORY, BenchOptions, InputOptions
from onnxprune.options.outputs import AskedKind, Evaluate
from onnxprune.options.planning import RECIPES, PlanOptions, Recipe, Uses
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.solve import RefitOptions, SelectOptions

__all__ = ["Effort", "Options"]

Effort = Literal["quick", "normal", "best"]
_MEMORY_SHARE = 4
_TIMED_ALIGN = 16
_LEAST_POINTS: Mapping[Effort, int] = {"quick": 10, "normal": 10, "best": 30}
_BEST_ROUNDS = 3


_FLAT: dict[str, type[PlanOptions | InputOptions | BenchOptions]] = {
    "plan": PlanOptions,
    "inputs": InputOptions,
    "bench": BenchOptions,
}
"""Groups whose fields are fields of `Options`."""
_NESTED = ("budget", "select", "refit", "data", "engine", "recover")


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions, InputOptions, BenchOptions):
    """All options of `prune`; see `PlanOptions`, `InputOptions` and `BenchOptions` for the other fields.

    Attributes:
        budget: limit on the cost, see `BudgetOptions.budget`; default the least latency within `max_drop`.
        effort: time against quality: ``quick`` (linear refit, no alternating rounds), ``normal``, or ``best`` (more
            positions and rounds, and with a budget a recovery where torch is installed); it changes only what is left
            at its default.
        select: selection of the channels to keep.
        refit: refit of the weights.
        data: preprocessing of images.
        engine: onnxruntime's provider and threads.
        cache_dir: folder for finished steps; None to store none.
        max_drop: largest drop on held-out inputs, in points of agreement or per cent of relative error, see
            `verify.check_drop`; with `evaluate`, in that measure's unit. None: any, but 1 where there is no budget.
        evaluate: the user's own measure, a function that gets ``run`` and returns one finite number, higher is better;
            ``run`` takes arrays by input name, the first axis the batch, and returns arrays by output name. It decides
            `max_drop`. None: the outputs' difference from the original's does.
        recover: training of the result on the original's outputs; None: no training.
        outputs: meanings by output name: ``classes`` (one label an input), ``pixels`` (a label a position) or
            ``values``; of an output that is not named, the graph, its name and the data's labels tell.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    budget: Budget = WITHIN_DROP
    effort: Effort = "normal"
    select: SelectOptions = field(default_factory=SelectOptions)
    refit: RefitOptions = field(default_factory=RefitOptions)
    data: DataOptions = field(default_factory=DataOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    cache_dir: Path | None = None
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    recover: RecoverOptions | None = None
    outputs: Mapping[str, AskedKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in _FLAT.values():
            group.__post_init__(self)
        if self.effort not in get_args(Effort):
            raise UsageError(f"--effort must be {', '.join(get_args(Effort))}, found {self.effort!r}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"--max-drop must be 0 or more, found {self.max_drop}")
        if self.evaluate is not None and not callable(self.evaluate):
            raise UsageError(f"evaluate must be a function, found {type(self.evaluate).__name__} {self.evaluate!r}")
        if self.recipe_used != "prune" and self.budget.kind in ("keep-ratio", "selector"):
            raise UsageError(f"--recipe {self.recipe} needs a budget in MACs or parameters, found: {self.budget.text}")
        if self.budget.kind == "selector" and (self.select.selector, self.select.lasso) != ("lasso", "fixed"):
            raise UsageError("only --selector lasso with --lasso fixed finds its own counts: give a budget")

    def groups(self) -> dict[str, Any]:
        """Return all groups by name, `PlanOptions`, `InputOptions` and `BenchOptions` as separate records."""
        found = {name: getattr(self, name) for name in _NESTED}
        for name, kind in _FLAT.items():
            found[name] = kind(**{one.name: getattr(self, one.name) for one in fields(kind)})
        return found

    def at_effort(self, *, torch: bool) -> Options:
        """Resolve `effort` into the options that it changes.

        Args:
            torch: True if torch is installed, so that a recovery is possible.
        """
        refit, recover = self.refit, self.recover
        if self.effort == "quick":
            refit = replace(
                refit,
                refit="linear" if refit.refit == "auto" else refit.refit,
                rounds=0 if refit.rounds == RefitOptions().rounds else refit.rounds,
            )
        elif self.effort == "best":
            refit = replace(refit, rounds=_BEST_ROUNDS if refit.rounds == RefitOptions().rounds else refit.rounds)
            if torch and self.budget.kind != "drop":
                recover = recover or RecoverOptions(seed=self.seed)
        return replace(self, refit=refit, recover=recover)

    @property
    def least_points(self) -> int:
        """Smallest number of positions sampled per input and layer if `points` is None."""
        return _LEAST_POINTS[self.effort]

    @property
    def recipe_used(self) -> Recipe:
        """`recipe`, or its default."""
        return self.recipe or ("prune" if self.budget.kind in ("keep-ratio", "selector") else "3c")

    @property
    def uses(self) -> Uses:
        """Methods that the recipe allows."""
        return RECIPES[self.recipe_used]

    @property
    def quick(self) -> Options:
        """The options with a linear refit in place of an automatic one, which is quicker and loses more."""
        return self if self.refit.refit != "auto" else replace(self, refit=replace(self.refit, refit="linear"))

    @property
    def resizes(self) -> bool:
        """Whether a smaller picture may be part of the plan."""
        smaller = self.budget.kind in ("macs", "latency", "drop") and self.input_size != "keep"
        return smaller and self.recipe_used == "3c"

    @property
    def allowed_drop(self) -> float | None:
        """Largest drop allowed of the outputs; None for any, and if the user's own measure decides instead."""
        return self.max_drop if self.evaluate is None else None

    @property
    def alignment(self) -> int:
        """`align`, or its default."""
        return self.align or (_TIMED_ALIGN if self.budget.unit == "latency" else 1)

    @property
    def memory_bytes(self) -> int:
        """`memory`, or its default."""
        return self.memory or max(LEAST_MEMORY, int(psutil.virtual_memory().total) // _MEMORY_SHARE)
