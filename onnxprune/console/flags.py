"""Options of the command line alone, the panels of its help, and the conversion of arguments into groups of options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, Token

from onnxprune.commands.idle import BY_PLAN, PLANNED, Rule, check_idle
from onnxprune.console.config import RUN, config_text, differing
from onnxprune.errors import UsageError
from onnxprune.note import warn
from onnxprune.options.budget import WITHIN_DROP, Budget, BudgetOptions
from onnxprune.options.data import DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.inputs import BenchOptions, InputOptions
from onnxprune.options.planning import PlanOptions
from onnxprune.options.reading import ReadOptions
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.run import Options
from onnxprune.options.solve import RefitOptions, SelectOptions

__all__ = [
    "AUTO",
    "FIELDS",
    "GROUPS",
    "RARE",
    "BenchPanel",
    "BudgetPanel",
    "CacheFlags",
    "CachePanel",
    "Data",
    "Drop",
    "EnginePanel",
    "InputPanel",
    "Kinds",
    "NotesFlags",
    "NotesPanel",
    "PixelPanel",
    "PlanPanel",
    "ReadPanel",
    "RecoverPanel",
    "RefitPanel",
    "SelectPanel",
    "ShowFlags",
    "ShowPanel",
    "config_bytes",
    "filled",
    "options_from",
    "recover_options",
]

AUTO = "auto"
"""Value of ``--recover`` that leaves the number of epochs to the number of inputs."""
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_COURSE = re.compile(r"-*[\d.]+[smh]?")  # a number of epochs, or a time
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

_SEPARATORS = {"--mean": "[, ]+", "--std": "[, ]+", "--scale": "[, ]+", "--resize": "[x, ]+", "--crop": "[x, ]+"}
"""Separators between the numbers of one argument, by option."""


def _points(type_: object, tokens: Sequence[Token]) -> float:
    """Convert ``0.5`` or ``0.5%``."""
    text = tokens[0].value
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"--max-drop takes points or per cent, like 0.5 or 0.5%, found {text!r}") from None


Drop = Annotated[float | None, Parameter(converter=_points)]
"""Type of ``--max-drop``."""


Kinds = Annotated[tuple[str, ...], Parameter(name="--output-kind", consume_multiple=False, show_default=False)]
"""Type of ``--output NAME=KIND``, see `filled`."""


Data = Annotated[str | None, Parameter(alias="--inputs-from")]
"""Type of ``--data``, see `console.sources.source_of`."""


@dataclass(frozen=True, kw_only=True)
class CacheFlags:
    """Storage of finished steps, so that a stopped run continues where it was."""

    cache_dir: Path | None = None
    "Folder for finished steps; default the user's cache folder."

    cache: bool = True
    "Storage of finished steps, so that a run that was stopped continues where it was."


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """Outputs of a command besides the model."""

    json: Path | None = None
    "File for everything that the terminal shows, as JSON."

    quiet: Annotated[bool, Parameter(alias="-q", negative=(), show_default=False)] = False
    "No output but errors."


@dataclass(frozen=True, kw_only=True)
class NotesFlags(ShowFlags):
    """Outputs of a command with notes besides the model."""

    verbose: Annotated[bool, Parameter(alias="-v", negative=(), show_default=False)] = False
    "All notes, and the time of each stage."

    def __post_init__(self) -> None:
        if self.verbose and self.quiet:
            raise UsageError("--verbose and --quiet contradict each other: give one of them")


def _panel(title: str) -> Parameter:
    """Make the fields of a dataclass options of their own, under a title of the help."""
    return Parameter(name="*", group=Group.create_ordered(title))


# In the order of the help.
BudgetPanel = Annotated[BudgetOptions, _panel("Budget: how much is kept")]
PlanPanel = Annotated[PlanOptions, _panel("Plan: what may be removed, and where")]
SelectPanel = Annotated[SelectOptions, _panel("Selection: which channels are kept")]
RefitPanel = Annotated[RefitOptions, _panel("Refit: how the remaining weights are fitted")]
RecoverPanel = Annotated[RecoverOptions, _panel("Recovery: training on the original's outputs, without labels")]
_INPUTS = _panel("Inputs")
InputPanel = Annotated[InputOptions, _INPUTS]
CachePanel = Annotated[CacheFlags, _INPUTS]
PixelPanel = Annotated[DataOptions, _panel("Preprocessing of images: (pixel * scale - mean) / std")]
_ENGINE = _panel("Engine")
EnginePanel = Annotated[EngineOptions, _ENGINE]
ReadPanel = Annotated[ReadOptions, _panel("Reading")]
BenchPanel = Annotated[BenchOptions, _ENGINE]
_OUTPUT = _panel("Output")
ShowPanel = Annotated[ShowFlags, _OUTPUT]
NotesPanel = Annotated[NotesFlags, _OUTPUT]

GROUPS: Mapping[str, type] = {
    "budget": BudgetOptions,
    "plan": PlanOptions,
    "select": SelectOptions,
    "refit": RefitOptions,
    "recover": RecoverOptions,
    "inputs": InputOptions,
    "cache": CacheFlags,
    "data": DataOptions,
    "engine": EngineOptions,
    "bench": BenchOptions,
}
"""Groups of options by their names in ``--set`` and ``--config``."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    RUN: ("data", "plan", "max_drop", "evaluate", "recover", "output_kind", "effort"),
    **{name: tuple(field.name for field in fields(kind)) for name, kind in GROUPS.items()},
    # Epochs, seconds and seed are set by --recover and --seed.
    "recover": tuple(field.name for field in fields(RecoverOptions) if field.name not in ("epochs", "seconds", "seed")),
}
"""Fields of each group in ``--set`` and ``--config``; ``run``: options of the main command that belong to no group."""


def _flags_of(*kinds: type) -> set[str]:
    return {f"--{field.name.replace('_', '-')}" for kind in kinds for field in fields(kind)}


RARE = frozenset(
    {
        "--explain",
        "--set",
        "--config-out",
        "--effort",
        "--keep-ratio",
        "--layout",
        "--install-completion",
        *("--resize-mode", "--pad-value", "--skip-unreadable", "--ops-library"),
        *_flags_of(PlanOptions, SelectOptions, RefitOptions, RecoverOptions, InputOptions, CacheFlags, BenchOptions),
    }
    - {"--include", "--exclude", "--samples", "--epochs", "--seconds"}
)
"""Options shown by ``--help-all`` only."""


def recover_options(course: str | None, training: RecoverOptions, seed: int) -> RecoverOptions | None:
    """Make the options of ``--recover 20``, ``--recover 45m`` or ``--recover auto``; None without ``--recover``.

    Raises:
        UsageError: `course` is neither a number of epochs nor a time nor ``auto``, or options of the training are given
            without it.
    """
    asked = course is not None
    check_idle(training, RecoverOptions(), (Rule(tuple(vars(training)), asked, "without --recover"),))
    if course is None:
        return None
    if course == AUTO:
        return replace(training, seed=seed)
    timed = _TIME.fullmatch(course)
    if timed is not None:
        return replace(training, seconds=float(timed[1]) * _SECONDS[timed[2]], seed=seed)
    try:
        return replace(training, epochs=int(course), seed=seed)
    except ValueError:
        raise UsageError(f"--recover takes a number of epochs, a time such as 45m, or auto, found {course!r}") from None


def options_from(
    budget: BudgetOptions | None = None,
    plan: PlanOptions | None = None,
    select: SelectOptions | None = None,
    refit: RefitOptions | None = None,
    bench: BenchOptions | None = None,
    *,
    inputs: InputOptions,
    cache: CacheFlags,
    data: DataOptions,
    engine: EngineOptions,
    planned: bool = False,
) -> Options:
    """Combine the option groups of a command into one `Options`; groups that are None keep their defaults.

    Args:
        budget: limit on the result.
        plan: what may be removed.
        select: selection of the channels.
        refit: fit of the weights.
        bench: measurement of latency.
        inputs: sampling of the inputs.
        cache: storage of finished steps.
        data: preprocessing of images.
        engine: provider and threads of onnxruntime.
        planned: True if a plan file replaces the budget.

    Raises:
        UsageError: two options contradict each other, or one has no effect.
    """
    budget, plan, select = budget or BudgetOptions(), plan or PlanOptions(), select or SelectOptions()
    check_idle(budget, BudgetOptions(), (Rule(tuple(vars(budget)), not planned, BY_PLAN),))
    check_idle(plan, PlanOptions(), (Rule(PLANNED, not planned, BY_PLAN),))
    check_idle(cache, CacheFlags(), (Rule(("cache_dir",), cache.cache, "with --no-cache"),))
    counts_itself = select.selector == "lasso" and select.lasso == "fixed" and not planned
    default = Budget("selector", 1.0, "the counts of the LASSO") if counts_itself else WITHIN_DROP
    return Options(
        **vars(plan),
        **vars(inputs),
        **vars(bench or BenchOptions()),
        budget=budget.budget(default),
        select=select,
        refit=refit or RefitOptions(),
        data=data,
        engine=engine,
        cache_dir=_cache_dir(cache),
    )


def _cache_dir(cache: CacheFlags) -> Path | None:
    """Return the folder for finished steps; None, with a warning, if the user's cache folder cannot be written."""
    if not cache.cache or cache.cache_dir is not None:
        return cache.cache_dir
    from onnxprune.cache import default_cache_dir, scratch_parent  # only where a run begins

    try:
        folder = default_cache_dir()
        scratch_parent(folder)
    except UsageError as error:
        warn(f"caching is off, so a stopped run cannot continue: {error}")
        return None
    return folder


def filled(arguments: Sequence[str]) -> list[str]:
    """Rewrite arguments into the form that the parser takes.

    A bare ``--recover`` becomes ``--recover auto``, ``--output NAME=KIND`` becomes ``--output-kind``; several numbers
    may be one argument (``--mean 0.485,0.456,0.406``, ``--resize 224x224``), and a number may be a fraction
    (``--scale 1/255``).
    """
    filled: list[str] = []
    numbers = ""
    for place, argument in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if argument == "--output" and _says_kind(following):
            argument = "--output-kind"
        elif argument.startswith("--output=") and _says_kind(argument.removeprefix("--output=")):
            argument = argument.replace("--output=", "--output-kind=", 1)
        flag, equals, value = argument.partition("=")
        if flag in _SEPARATORS:
            numbers = flag
            filled += [flag, *(_numbers(flag, value) if equals else ())]
        else:
            numbers = numbers if re.match(r"[-+]?[\d.]", argument) else ""
            filled += _numbers(numbers, argument) if numbers else [argument]
        if argument == "--recover" and following != AUTO and not _COURSE.fullmatch(following):
            filled.append(AUTO)
    return filled


def _says_kind(value: str) -> bool:
    """Tell ``NAME=KIND`` (a plain word behind the last equals sign) from a file to write, as value of ``--output``."""
    name, equals, kind = value.rpartition("=")
    return bool(name and equals) and kind.isalpha()


def _numbers(flag: str, word: str) -> list[str]:
    """Split an argument into numbers, fractions divided; other text is kept for the parser to refuse."""
    found = []
    for part in filter(None, re.split(_SEPARATORS[flag], word)):
        above, slash, below = part.partition("/")
        with suppress(ValueError, ZeroDivisionError):
            part = repr(float(above) / float(below)) if slash else part
        found.append(part)
    return found


def config_bytes(records: Sequence[object], chosen: Mapping[str, object]) -> bytes:
    """Format the options of a run as TOML: a table per group, and ``[run]`` for `chosen`."""
    names = {kind: name for name, kind in GROUPS.items()}
    groups = {names[type(record)]: differing(record) for record in records}
    left = {name: value for name, value in chosen.items() if value is not None}
    return config_text({RUN: left, **groups}).encode()
