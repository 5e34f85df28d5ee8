"""All options of the main job, with their defaults: what the command line and `prune` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from onnxprune.data import DataOptions
from onnxprune.errors import UsageError
from onnxprune.evaluation import Evaluate
from onnxprune.plan import RECIPES, WITHIN_DROP, Allocation, Budget, Recipe, Uses
from onnxprune.recovery.options import RecoverOptions
from onnxprune.runtime.meaning import AskedKind
from onnxprune.runtime.providers import EngineOptions
from onnxprune.solve import RefitOptions, SelectOptions

__all__ = ["Options", "parse_bytes"]

_MEMORY_SHARE = 4
_TIMED_ALIGN = 16
_LEAST_MEMORY = 64 << 20
_UNITS = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "KB": 1 << 10,
    "M": 1 << 20,
    "MB": 1 << 20,
    "G": 1 << 30,
    "GB": 1 << 30,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a network is pruned.

    Attributes:
        budget: how much may be kept; unless given, the least latency within `max_drop`, or 1 point where that is None.
        recipe: what may be done: ``prune`` channels, ``spatial`` (V and H) or ``channel`` (P) decompositions, or all
            of it (``3c``); None: all, but ``prune`` where the budget counts channels.
        drop_branches: let whole residual branches go, each with all of its layers.
        allocation: how the budget is spread over the groups.
        sensitivity: weigh errors by what a trial of them does to the network's outputs.
        align: counts are multiples of it where groups are large enough; None: 16 where time is counted, since engines
            run such layers faster, else 1.
        include: only groups all of whose producers match one of these node-name globs.
        exclude: no group with a producer or consumer that matches one of these.
        select: which channels stay.
        refit: how weights are fitted.
        downstream: also fit the layers anew that only see the effects of the removal.
        samples: calibration inputs, of which a tenth is held back for the verification; None: all.
        points: positions an input and layer; None: 10 as published, and more for layers that would see fewer than 30
            rows a column.
        seed: of all sampling.
        data: preprocessing.
        engine: onnxruntime's provider and threads.
        memory: bytes for held activations and moments; None: a quarter of what the machine has.
        cache_dir: where finished steps are kept; None: nowhere.
        max_drop: how far the result may be from the original on held-back inputs, see `verify.check_drop`; with
            `evaluate`, how much lower its value may be; None: anything.
        evaluate: the user's own measure, a function that gets ``run`` and returns one finite number, higher is better;
            ``run`` takes arrays by input name, the first axis the batch, and returns arrays by output name. It decides
            `max_drop`. None: the outputs' difference from the original's does.
        bench: measure latency before and after.
        bench_batch: at this batch size.
        recover: train the result on the original's answers; None: do not.
        outputs: what outputs mean, by name: ``classes`` (one label an input), ``pixels`` (a label a position) or
            ``values``; for an output that is not named, the end of the graph and the data's labels tell.
    """

    budget: Budget = WITHIN_DROP
    recipe: Recipe | None = None
    drop_branches: bool = True
    allocation: Allocation = "greedy"
    sensitivity: bool = True
    align: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    select: SelectOptions = field(default_factory=SelectOptions)
    refit: RefitOptions = field(default_factory=RefitOptions)
    downstream: bool = True
    samples: int | None = None
    points: int | None = None
    seed: int = 0
    data: DataOptions = field(default_factory=DataOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    memory: int | None = None
    cache_dir: Path | None = None
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    bench: bool = True
    bench_batch: int = 1
    recover: RecoverOptions | None = None
    outputs: Mapping[str, AskedKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for flag, value in (
            ("--align", 1 if self.align is None else self.align),
            ("--points", 1 if self.points is None else self.points),
            ("--bench-batch", self.bench_batch),
        ):
            if value < 1:
                raise UsageError(f"{flag} must be 1 or more, found {value}")
        if self.samples is not None and self.samples < 2:
            raise UsageError(f"--samples must be 2 or more, found {self.samples}")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, found {self.seed}")
        if self.memory is not None and self.memory < _LEAST_MEMORY:
            raise UsageError(
                f"--memory must be at least {_LEAST_MEMORY >> 20} MB, found {self.memory / (1 << 20):.1f} MB"
            )
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"--max-drop must be 0 or more, found {self.max_drop}")
        if self.evaluate is not None and not callable(self.evaluate):
            raise UsageError(f"evaluate must be a function, found {type(self.evaluate).__name__} {self.evaluate!r}")
        if self.recipe_used != "prune" and self.budget.kind in ("keep-ratio", "selector"):
            raise UsageError(f"--recipe {self.recipe} needs a budget in MACs or parameters, found: {self.budget.text}")
        if self.budget.kind == "selector" and (self.select.selector, self.select.lasso) != ("lasso", "fixed"):
            raise UsageError("only --selector lasso with --lasso fixed finds its own counts: give a budget")

    @property
    def recipe_used(self) -> Recipe:
        """`recipe`, or its default."""
        return self.recipe or ("prune" if self.budget.kind in ("keep-ratio", "selector") else "3c")

    @property
    def uses(self) -> Uses:
        """What that recipe may do."""
        return RECIPES[self.recipe_used]

    @property
    def alignment(self) -> int:
        """`align`, or its default."""
        return self.align or (_TIMED_ALIGN if self.budget.unit == "latency" else 1)

    @property
    def memory_bytes(self) -> int:
        """`memory`, or its default."""
        return self.memory or max(_LEAST_MEMORY, int(psutil.virtual_memory().total) // _MEMORY_SHARE)


def parse_bytes(flag: str, text: str) -> int:
    """Bytes from ``2GB``, ``512M`` or a plain number.

    Raises:
        UsageError: it is something else.
    """
    number = text.strip().upper().replace("IB", "B").rstrip("BGKM")
    unit = text.strip().upper().replace("IB", "B")[len(number) :]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in _UNITS or not 0 < value < 1e15:
        raise UsageError(f"{flag} takes a size like 2GB or 512MB, found {text!r}")
    return int(value * _UNITS[unit])
