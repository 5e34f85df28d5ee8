"""The options of the command line, panel by panel of its help, and what they become."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, Token

from onnxprune.data import DataOptions
from onnxprune.errors import UsageError
from onnxprune.evaluation import load_function
from onnxprune.idle import BY_PLAN, SETTLED, Rule, check_idle
from onnxprune.note import warn
from onnxprune.options import Options, parse_bytes
from onnxprune.plan import WITHIN_DROP, Allocation, Budget, Recipe, budget_from
from onnxprune.recovery.options import RecoverOptions
from onnxprune.runtime.providers import EngineOptions, ProviderName
from onnxprune.solve import Basis, LassoVariant, Refit, RefitOptions, SelectOptions, Selector
from onnxprune.stages.checkpoint import default_cache_dir, make_cache_dir, own_folder

__all__ = [
    "AS_IT_IS",
    "AUTO",
    "MORE",
    "BudgetFlags",
    "BudgetPanel",
    "Drop",
    "EngineFlags",
    "EnginePanel",
    "InputFlags",
    "InputPanel",
    "Kinds",
    "MethodFlags",
    "MethodPanel",
    "NotesFlags",
    "NotesPanel",
    "PixelPanel",
    "RunFlags",
    "RunPanel",
    "SampleFlags",
    "SamplePanel",
    "ShowFlags",
    "ShowPanel",
    "TrainFlags",
    "TrainPanel",
    "all_options",
    "amounts",
    "filled",
    "options_from",
    "recover_options",
]

_NO_DEFAULT = Parameter(show_default=False)
MORE = Parameter(show=False)
"""Of options that ``--help`` leaves to ``--help-all``."""


@contextmanager
def all_options() -> Iterator[None]:
    """List every option in the help: annotations are read when the help is made."""
    global MORE
    hidden, MORE = MORE, Parameter()
    try:
        yield
    finally:
        MORE = hidden


def _panel(title: str) -> Parameter:
    """Fields of a dataclass as options of their own, under a title of the help."""
    return Parameter(name="*", group=Group.create_ordered(title))


def _points(type_: object, tokens: Sequence[Token]) -> float:
    """``0.5`` or ``0.5%``."""
    text = tokens[0].value
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"--max-drop takes points or per cent, like 0.5 or 0.5%, found {text!r}") from None


Drop = Annotated[float | None, Parameter(converter=_points)]
"""Of ``--max-drop``."""


Kinds = Annotated[tuple[str, ...], Parameter(name="--output-kind", consume_multiple=False, show_default=False)]
"""Of ``--output NAME=KIND``, see `filled`."""


def _says_kind(value: str) -> bool:
    """Whether the value of ``--output`` says what an output means, ``NAME=KIND``, and names no file to write: it has an
    equals sign, and a plain word behind the last one."""
    name, equals, kind = value.rpartition("=")
    return bool(name and equals) and kind.isalpha()


@dataclass(frozen=True, kw_only=True)
class BudgetFlags:
    """How much may be kept. Give one; without any, the fastest network within --max-drop is looked for."""

    speedup: float | None = None
    "Time of the original over the result's, measured on this machine with --provider, --threads and --bench-batch."
    latency_ms: float | None = None
    "Milliseconds of one run, measured on this machine with --provider, --threads and --bench-batch."
    macs: str | None = None
    "Multiply-accumulates left: 50%, 0.5, or 2x for half of them."
    params: str | None = None
    "Parameters left: 50%, 0.5, or 2x for half of them."
    keep_ratio: Annotated[str | None, MORE] = None
    "Channels left in every group: 50%, 0.5, or 2x for half of them."
    plan: Path | None = None
    "Do what this plan file says instead."
    recipe: Annotated[Recipe | None, MORE] = None
    "What may be done: remove channels, decompose kernels (spatial) or channels (channel), or all (3c, the default)."
    drop_branches: Annotated[bool, MORE] = True
    "Residual branches may go whole, each with all of its layers."
    allocation: Annotated[Allocation, MORE] = "greedy"
    "How the budget is spread: by closed-form error per cost saved, or the same ratio everywhere."
    sensitivity: Annotated[bool, MORE] = True
    "Weigh the error of a layer by what a trial of it does to the network's outputs."
    align: Annotated[int | None, MORE] = None
    "Channel counts are multiples of this in groups that are wide enough; 16 for a budget in time, else 1."
    include: Annotated[tuple[str, ...], _NO_DEFAULT] = ()
    "Only layers whose node names match these globs lose channels."
    exclude: Annotated[tuple[str, ...], _NO_DEFAULT] = ()
    "Layers whose node names match these globs stay as they are."


@dataclass(frozen=True, kw_only=True)
class MethodFlags:
    """Which channels stay, and how weights are fitted to what is left."""

    selector: Annotated[Selector, MORE] = "obs"
    "Which channels stay."
    lasso: Annotated[LassoVariant, MORE] = "path"
    "With --selector lasso: the whole path, re-estimated weights between steps, or one penalty that finds the counts."
    rank_tol: Annotated[float, MORE] = 0.1
    "With --selector lasso: tolerance on the wanted count."
    lasso_alpha: Annotated[float, MORE] = 1e-4
    "With --lasso fixed: the penalty, divided by channels to the power of --layer-alpha."
    layer_alpha: Annotated[float, MORE] = 0.0
    "See --lasso-alpha."
    refit: Annotated[Refit, MORE] = "auto"
    "How weights are fitted; auto: behind the activation that follows, where there is one, else linear."
    basis: Annotated[Basis, MORE] = "data"
    "What a spatial decomposition's singular values weigh: the data, or nothing (as published)."
    rounds: Annotated[int, MORE] = 1
    "Of V fitted anew for the H that was found, then H for that V; 0: V as the singular values give it."
    ridge: Annotated[float, MORE] = 1e-4
    "With --refit ridge: its strength, relative to the mean variance of the inputs."
    downstream: Annotated[bool, MORE] = True
    "Also fit the layers that only see the effects of what was removed."


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """How a network is trained on the original's answers; needs torch: pip install 'onnxprune[recover]'."""

    learning_rate: Annotated[float, MORE] = 4e-4
    "Of AdamW, at its highest; it falls along a cosine."
    train_batch: Annotated[int | None, MORE] = None
    "Inputs a step; 100 unless given, less where inputs are few or large."
    temperature: Annotated[float, MORE] = 4.0
    "Of the softened answers of classifiers."
    features: Annotated[float, MORE] = 0.5
    "Weight of the tensors between the layers, against the outputs; 0 does without."
    blockwise: Annotated[float, MORE] = 0.6
    "Share of the training in which each block is trained for itself."
    augment: Annotated[bool, MORE] = True
    "Mirror, shift and mix inputs that are images; the original is asked about each."
    freeze: Annotated[tuple[str, ...], _NO_DEFAULT, MORE] = ()
    "Layers whose node names match these globs are not trained."


@dataclass(frozen=True, kw_only=True)
class InputFlags:
    """Which inputs are used, and what is kept of a run."""

    samples: int | None = None
    "Calibration inputs at most; a tenth of them is held back for the verification."
    seed: Annotated[int, MORE] = 0
    "Of all sampling."
    memory: Annotated[str | None, MORE] = None
    "For held activations and moments, like 2GB; a quarter of what the machine has unless given."
    cache_dir: Annotated[Path | None, MORE] = None
    "Where finished steps are kept, so that a killed run goes on; the user's cache folder unless given."
    cache: Annotated[bool, MORE] = True
    "Keep finished steps."


@dataclass(frozen=True, kw_only=True)
class SampleFlags(InputFlags):
    """How the network is sampled."""

    points: Annotated[int | None, MORE] = None
    "Positions an input and layer; 10 unless given, and more where inputs are few."


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """onnxruntime."""

    provider: ProviderName = "auto"
    "Where networks run; auto takes CUDA where it works."
    threads: int | None = None
    "Threads within an operator; onnxruntime's default unless given."


@dataclass(frozen=True, kw_only=True)
class EngineFlags(RunFlags):
    """onnxruntime, and the measurement of latency."""

    bench: Annotated[bool, MORE] = True
    "Measure latency before and after."
    bench_batch: Annotated[int, MORE] = 1
    "Batch size of that measurement."


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """What is shown and kept beside the model."""

    json: Path | None = None
    "Write everything that the terminal shows to this file, as JSON."
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), show_default=False)] = False
    "Show errors only."


@dataclass(frozen=True, kw_only=True)
class NotesFlags(ShowFlags):
    """What is shown and kept beside the model, of commands that have notes."""

    verbose: Annotated[bool, Parameter(alias="-v", negative=(), show_default=False)] = False
    "Show all notes, and the time of each stage."

    def __post_init__(self) -> None:
        if self.verbose and self.quiet:
            raise UsageError("--verbose and --quiet contradict each other: give one of them")


# In the order of the help.
BudgetPanel = Annotated[BudgetFlags, _panel("Budget: how much is left")]
MethodPanel = Annotated[MethodFlags, _panel("Method: what goes, and how the rest is fitted")]
TrainPanel = Annotated[TrainFlags, _panel("Recovery: training on the original's answers, without labels")]
InputPanel = Annotated[InputFlags, _panel("Inputs")]
SamplePanel = Annotated[SampleFlags, _panel("Sampling")]
PixelPanel = Annotated[DataOptions, _panel("Preprocessing of images: (pixel * scale - mean) / std")]
RunPanel = Annotated[RunFlags, _panel("Engine")]
EnginePanel = Annotated[EngineFlags, _panel("Engine")]
ShowPanel = Annotated[ShowFlags, _panel("Output")]
NotesPanel = Annotated[NotesFlags, _panel("Output")]
_AMOUNTS = ("speedup", "latency_ms", "macs", "params", "keep_ratio")
_SEPARATORS = {"--mean": "[, ]+", "--std": "[, ]+", "--scale": "[, ]+", "--resize": "[x, ]+", "--crop": "[x, ]+"}
"""What parts the numbers of a word, by option."""
AUTO = "auto"
"""Epochs of a recovery that are left to us."""
AS_IT_IS = DataOptions()
"""Preprocessing that nothing was said about."""


def amounts(budget: BudgetFlags) -> list[str]:
    """Which fields say how much may be kept."""
    return [name for name in _AMOUNTS if getattr(budget, name) is not None]


def recover_options(epochs: str | None, training: TrainFlags, seed: int) -> RecoverOptions | None:
    """Of ``--recover EPOCHS`` or ``--recover auto``; None without it.

    Raises:
        UsageError: it is neither, or there are options of the training without it.
    """
    asked = epochs is not None
    check_idle(training, TrainFlags(), (Rule(tuple(vars(training)), asked, "without --recover"),))
    if epochs is None:
        return None
    try:
        count = None if epochs == AUTO else int(epochs)
    except ValueError:
        raise UsageError(f"--recover takes a number of epochs, or auto, found {epochs!r}") from None
    return RecoverOptions(
        epochs=count,
        learning_rate=training.learning_rate,
        batch=training.train_batch,
        temperature=training.temperature,
        features=training.features,
        blockwise=training.blockwise,
        augment=training.augment,
        freeze=training.freeze,
        seed=seed,
    )


def options_from(
    budget: BudgetFlags,
    method: MethodFlags,
    sampling: SampleFlags,
    preprocessing: DataOptions,
    engine: EngineFlags,
    max_drop: float | None,
    evaluate: str | None = None,
) -> Options:
    """What was asked for, with the defaults filled in.

    Raises:
        UsageError: two options contradict each other, or one does nothing.
    """
    usual, unplanned = BudgetFlags(), budget.plan is None
    check_idle(budget, usual, (Rule((*_AMOUNTS, *SETTLED), unplanned, BY_PLAN),))
    check_idle(sampling, type(sampling)(), (Rule(("cache_dir",), sampling.cache, "with --no-cache"),))
    counts_itself = method.selector == "lasso" and method.lasso == "fixed" and budget.plan is None
    default = Budget("selector", 1.0, "what the LASSO keeps") if counts_itself else WITHIN_DROP
    return Options(
        budget=budget_from(
            speedup=budget.speedup,
            macs=budget.macs,
            params=budget.params,
            keep_ratio=budget.keep_ratio,
            latency_ms=budget.latency_ms,
            default=default,
        ),
        recipe=budget.recipe,
        drop_branches=budget.drop_branches,
        allocation=budget.allocation,
        sensitivity=budget.sensitivity,
        align=budget.align,
        include=budget.include,
        exclude=budget.exclude,
        select=SelectOptions(
            selector=method.selector,
            lasso=method.lasso,
            rank_tol=method.rank_tol,
            lasso_alpha=method.lasso_alpha,
            layer_alpha=method.layer_alpha,
        ),
        refit=RefitOptions(refit=method.refit, basis=method.basis, rounds=method.rounds, ridge=method.ridge),
        downstream=method.downstream,
        samples=sampling.samples,
        points=sampling.points,
        seed=sampling.seed,
        data=preprocessing,
        engine=EngineOptions(provider=engine.provider, threads=engine.threads),
        memory=None if sampling.memory is None else parse_bytes("--memory", sampling.memory),
        cache_dir=_cache_dir(sampling),
        max_drop=max_drop,
        evaluate=load_function(evaluate),
        bench=engine.bench,
        bench_batch=engine.bench_batch,
    )


def _cache_dir(sampling: InputFlags) -> Path | None:
    """Where finished steps are kept; nowhere, with a warning, if the user's cache folder cannot be written."""
    if not sampling.cache or sampling.cache_dir is not None:
        return sampling.cache_dir
    folder = default_cache_dir()
    try:
        make_cache_dir(own_folder(folder))
    except UsageError as error:
        warn(f"nothing is kept for a run that goes on: {error}")
        return None
    return folder


def filled(arguments: Sequence[str]) -> list[str]:
    """Arguments as the parser takes them.

    A bare ``--recover`` means ``--recover auto``; ``--output NAME=KIND`` is an ``--output-kind``; numbers may be one
    word, ``--mean 0.485,0.456,0.406`` and ``--resize 224x224``, and a number a fraction, ``--scale 1/255``.
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
        if argument == "--recover" and following != AUTO and not following.lstrip("-").isdigit():
            filled.append(AUTO)
    return filled


def _numbers(flag: str, word: str) -> list[str]:
    """The numbers of a word, fractions divided; what is no number stays as it is, for the parser to refuse."""
    found = []
    for part in filter(None, re.split(_SEPARATORS[flag], word)):
        above, slash, below = part.partition("/")
        with suppress(ValueError, ZeroDivisionError):
            part = repr(float(above) / float(below)) if slash else part
        found.append(part)
    return found
