"""The command line: options become values, results become text, errors become exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console

from onnxprune._version import __version__
from onnxprune.compare import CompareOptions, run_comparison
from onnxprune.data import DataOptions
from onnxprune.errors import DropError, OnnxPruneError, OutputError, UsageError
from onnxprune.graph.save import write_bytes
from onnxprune.options import Options, parse_bytes
from onnxprune.pipeline import run
from onnxprune.plan import Allocation, Budget, Plan, Recipe, budget_from
from onnxprune.report.progress import StageBars
from onnxprune.report.study import check_plot, plot_study, show_study
from onnxprune.report.terminal import show_comparison, show_report
from onnxprune.runtime.providers import EngineOptions, ProviderName
from onnxprune.solve import Basis, LassoVariant, Refit, RefitOptions, SelectOptions, Selector
from onnxprune.stages.checkpoint import default_cache_dir
from onnxprune.study import run_study

__all__ = ["app", "main"]

EXIT_CODES = """\
Exit codes: 0 done, 2 an option cannot be used, 3 the model cannot be read or pruned, 4 the data cannot be used,
5 no plan (nothing to prune, or the budget is out of reach), 6 the result failed its verification, 7 onnxruntime
cannot run it, 8 compare: outside --max-drop, 9 a file cannot be written, 130 interrupted. Nothing is written unless
the exit code is 0."""

app = App(
    name="onnxprune",
    help="Make a trained convolutional network smaller and faster, on the ONNX file itself.",
    usage="Usage: onnxprune MODEL -o RESULT [OPTIONS]\n       onnxprune compare ORIGINAL CANDIDATE [OPTIONS]"
    "\n       onnxprune study MODEL --site NAME [OPTIONS]",
    help_epilogue=EXIT_CODES,
    version=__version__,
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)

_NO_DEFAULT = Parameter(show_default=False)


def _panel(title: str) -> Parameter:
    """Fields of a dataclass as options of their own, under a title of the help."""
    return Parameter(name="*", group=Group.create_ordered(title))


_BUDGET = _panel("Budget: how much is left")
_METHOD = _panel("Method: what goes, and how the rest is fitted")
_SAMPLING = _panel("Sampling")
_PIXELS = _panel("Preprocessing of images: (pixel * scale - mean) / std")
_ENGINE = _panel("Engine")
_SHOW = _panel("Output")
_AS_IT_IS = DataOptions()


@dataclass(frozen=True, kw_only=True)
class BudgetFlags:
    """How much may be kept. Give one; --speedup 2 unless another is given."""

    speedup: float | None = None
    "Original MACs over the result's: 2 leaves half. This, at 2, unless another budget is given."
    macs: str | None = None
    "MACs left: 50% or 0.5."
    params: str | None = None
    "Parameters left: 50% or 0.5."
    keep_ratio: float | None = None
    "Channels left in every group: 0.5."
    plan: Path | None = None
    "Do what this plan file says instead."
    recipe: Recipe = "prune"
    "What may be done: take channels away, decompose kernels (V, H) or channels (P), or all of it."
    allocation: Allocation = "greedy"
    "How the budget is spread: by closed-form error per cost saved, or the same ratio everywhere."
    align: int = 16
    "Channel counts are multiples of this in groups that are wide enough; engines run such layers faster."
    include: Annotated[tuple[str, ...], _NO_DEFAULT] = ()
    "Only layers whose node names match these globs lose channels."
    exclude: Annotated[tuple[str, ...], _NO_DEFAULT] = ()
    "Layers whose node names match these globs stay as they are."


@dataclass(frozen=True, kw_only=True)
class MethodFlags:
    """Which channels stay, and how weights are fitted to what is left."""

    selector: Selector = "obs"
    "Which channels stay."
    lasso: LassoVariant = "path"
    "With --selector lasso: the whole path, re-estimated weights between steps, or one penalty that finds the counts."
    rank_tol: float = 0.1
    "With --selector lasso: tolerance on the wanted count."
    lasso_alpha: float = 1e-4
    "With --lasso fixed: the penalty, divided by channels to the power of --layer-alpha."
    layer_alpha: float = 0.0
    "See --lasso-alpha."
    refit: Refit = "linear"
    "How weights are fitted."
    basis: Basis = "data"
    "What a spatial decomposition's singular values weigh: the data, or nothing (as published)."
    ridge: float = 1e-4
    "With --refit ridge: its strength, relative to the mean variance of the inputs."
    downstream: bool = True
    "Also fit the layers that only see the effects of what was removed."


@dataclass(frozen=True, kw_only=True)
class SampleFlags:
    """How the network is sampled."""

    samples: int | None = None
    "Calibration inputs at most; a tenth of them is held back for the verification."
    points: int | None = None
    "Positions an input and layer; 10 unless given, and more where inputs are few."
    seed: int = 0
    "Of all sampling."
    memory: str | None = None
    "For held activations and moments, like 2GB; a quarter of what the machine has unless given."
    cache_dir: Path | None = None
    "Where finished steps are kept, so that a killed run goes on; the user's cache folder unless given."
    cache: bool = True
    "Keep finished steps."


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """onnxruntime, and the measurement of latency."""

    provider: ProviderName = "auto"
    "Where networks run; auto takes CUDA where it works."
    threads: int | None = None
    "Threads within an operator; onnxruntime's default unless given."
    bench: bool = True
    "Measure latency before and after."
    bench_batch: int = 1
    "Batch size of that measurement."


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """What is shown and kept beside the model."""

    json: Path | None = None
    "Write everything that the terminal shows to this file, as JSON."
    verbose: Annotated[bool, Parameter(alias="-v", negative=(), show_default=False)] = False
    "Show all notes, and the time of each stage."
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), show_default=False)] = False
    "Show errors only."


@app.default
def prune(
    model: Path,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    data: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    plan_out: Path | None = None,
    max_drop: float | None = None,
    budget: Annotated[BudgetFlags, _BUDGET] = BudgetFlags(),
    method: Annotated[MethodFlags, _METHOD] = MethodFlags(),
    sampling: Annotated[SampleFlags, _SAMPLING] = SampleFlags(),
    preprocessing: Annotated[DataOptions, _PIXELS] = _AS_IT_IS,
    engine: Annotated[EngineFlags, _ENGINE] = EngineFlags(),
    show: Annotated[ShowFlags, _SHOW] = ShowFlags(),
) -> None:
    """Prune the channels of a network: onnxprune model.onnx -o pruned.onnx

    Parameters
    ----------
    model
        The network, an ONNX file.
    output
        Where the result goes; required unless --dry-run.
    data
        Inputs to calibrate on: an image folder, .npy or .npz. Without it MODEL.calib.npz beside MODEL.onnx, or
        synthetic images with a warning.
    dry_run
        Only plan, and show the plan.
    plan_out
        Write the plan to this file.
    max_drop
        Fail if more than so many points of top-1 agreement (or, for other outputs, per cent of relative error) are
        lost on held-back inputs.
    """
    if output is None and not dry_run:
        raise UsageError("-o FILE is missing: say where the result goes, or use --dry-run")
    _check_targets(model, [path for path in (output, show.json, plan_out) if path is not None])
    options = _options(budget, method, sampling, preprocessing, engine, max_drop)
    plan = None if budget.plan is None else Plan.load(budget.plan)
    with _bars(show) as bars:
        result = run(model, data, options, plan=plan, dry_run=dry_run, progress=bars)
    report = result.report
    if output is not None and not dry_run:
        result.save(output)
        report = replace(report, output=str(output))
    if plan_out is not None:
        write_bytes(plan_out, result.plan.to_json().encode())
    if show.json is not None:
        write_bytes(show.json, _json({**report.to_dict(), "plan": result.plan.to_dict()}))
    if not show.quiet:
        show_report(_paper(), report, verbose=show.verbose)


@app.command
def compare(
    original: Path,
    candidate: Path,
    *,
    data: Path | None = None,
    labels: Path | None = None,
    label_offset: int = 0,
    samples: int | None = None,
    max_drop: float | None = None,
    seed: int = 0,
    preprocessing: Annotated[DataOptions, _PIXELS] = _AS_IT_IS,
    engine: Annotated[EngineFlags, _ENGINE] = EngineFlags(),
    show: Annotated[ShowFlags, _SHOW] = ShowFlags(),
) -> None:
    """Compare two models on the same inputs: outputs, accuracy where there are labels, latency.

    Parameters
    ----------
    original
        The first model.
    candidate
        The second model.
    data
        Inputs: an image folder, .npy or .npz. Without it ORIGINAL.test.npz or ORIGINAL.calib.npz beside the first
        model, or synthetic images.
    labels
        Classes: .npy, .npz with 'labels', or one integer a line; the data's own 'labels' unless given.
    label_offset
        Added to every label: 1 for models whose class 0 is the background.
    samples
        Inputs at most.
    max_drop
        Exit with 8 if the second model loses more: points of accuracy, without labels points of top-1 agreement,
        for other outputs per cent of relative error.
    seed
        Of the choice of inputs.
    """
    if show.json is not None:
        _check_targets(original, [show.json])
    options = CompareOptions(
        samples=samples,
        label_offset=label_offset,
        max_drop=max_drop,
        bench=engine.bench,
        bench_batch=engine.bench_batch,
        seed=seed,
        data=preprocessing,
        engine=EngineOptions(provider=engine.provider, threads=engine.threads),
    )
    with _bars(show) as bars:
        comparison = run_comparison(original, candidate, data, labels, options, bars)
    if show.json is not None:
        write_bytes(show.json, _json(comparison.to_dict()))
    if not show.quiet:
        show_comparison(_paper(), comparison)
    if not comparison.within:
        raise DropError(f"{comparison.drop_kind}: {comparison.drop:.3f}, --max-drop allows {max_drop:g}")


@app.command
def study(
    model: Path,
    *,
    site: tuple[str, ...],
    data: Path | None = None,
    speedups: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0, 5.0),
    plot: Path | None = None,
    sampling: Annotated[SampleFlags, _SAMPLING] = SampleFlags(),
    preprocessing: Annotated[DataOptions, _PIXELS] = _AS_IT_IS,
    engine: Annotated[EngineFlags, _ENGINE] = EngineFlags(),
    show: Annotated[ShowFlags, _SHOW] = ShowFlags(),
) -> None:
    """Study layers one at a time: error, damage and cost by every method and size; the model is not changed.

    Parameters
    ----------
    model
        The network, an ONNX file.
    site
        Node names of layers, or globs of them.
    data
        Inputs to calibrate on, as for the main command.
    speedups
        How much less each layer shall cost, in MACs.
    plot
        Draw error against speed-up to this file, .png or .svg.
    """
    _check_targets(model, [path for path in (plot, show.json) if path is not None])
    if plot is not None:
        check_plot(plot)
    options = _options(BudgetFlags(), MethodFlags(), sampling, preprocessing, engine, None)
    with _bars(show) as bars:
        found = run_study(model, data, site, options, speedups, bars)
    if plot is not None:
        write_bytes(plot, plot_study(found, plot.suffix.lower()))
    if show.json is not None:
        write_bytes(show.json, _json(found.to_dict()))
    if not show.quiet:
        show_study(_paper(), found)


def _options(
    budget: BudgetFlags,
    method: MethodFlags,
    sampling: SampleFlags,
    preprocessing: DataOptions,
    engine: EngineFlags,
    max_drop: float | None,
) -> Options:
    given = (budget.speedup, budget.macs, budget.params, budget.keep_ratio)
    if budget.plan is not None and any(value is not None for value in given):
        raise UsageError("--plan says what is kept: leave --speedup, --macs, --params and --keep-ratio out")
    counts_itself = method.selector == "lasso" and method.lasso == "fixed" and budget.plan is None
    default = Budget("selector", 1.0, "what the LASSO keeps") if counts_itself else None
    cache_dir = (sampling.cache_dir or default_cache_dir()) if sampling.cache else None
    return Options(
        budget=budget_from(
            speedup=budget.speedup,
            macs=budget.macs,
            params=budget.params,
            keep_ratio=budget.keep_ratio,
            default=default,
        ),
        recipe=budget.recipe,
        allocation=budget.allocation,
        align=budget.align,
        include=budget.include,
        exclude=budget.exclude,
        select=SelectOptions(
            selector=method.selector,
            lasso=method.lasso,
            rank_tol=method.rank_tol,
            lasso_alpha=method.lasso_alpha,
            layer_alpha=method.layer_alpha,
            seed=sampling.seed,
        ),
        refit=RefitOptions(refit=method.refit, basis=method.basis, ridge=method.ridge),
        downstream=method.downstream,
        samples=sampling.samples,
        points=sampling.points,
        seed=sampling.seed,
        data=preprocessing,
        engine=EngineOptions(provider=engine.provider, threads=engine.threads),
        memory=None if sampling.memory is None else parse_bytes("--memory", sampling.memory),
        cache_dir=cache_dir,
        max_drop=max_drop,
        bench=engine.bench,
        bench_batch=engine.bench_batch,
    )


def _check_targets(model: Path, targets: list[Path]) -> None:
    """Find out before the work, not after it, that a file cannot be written."""
    for path in targets:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder, expected a file to write")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: its folder does not exist")
        if path.exists() and model.exists() and path.samefile(model):
            raise UsageError(f"{path}: is the original itself; give the result another name")
    if len({path.resolve() for path in targets}) < len(targets):
        raise UsageError(f"{targets[-1]}: two results would go to one file")


def _bars(show: ShowFlags) -> StageBars:
    console = Console(stderr=True)
    return StageBars(console, enabled=not show.quiet and console.is_terminal)


def _paper() -> Console:
    """Stdout; wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, default=str) + "\n").encode()


def main(arguments: list[str] | None = None) -> Literal[0] | int:
    """Run a command and return its exit code; users' errors are one line on stderr."""
    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGTERM, _terminate)
    return _guarded(lambda: app(arguments, exit_on_error=False, print_error=False, result_action="return_value"))


def _terminate(number: int, frame: object) -> None:
    """Leave as after Ctrl-C, so that held activations are deleted."""
    sys.exit(128 + number)


def _guarded(command: Callable[[], object]) -> int:
    try:
        command()
    except OnnxPruneError as error:
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), UsageError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"onnxprune: error: {message}", file=sys.stderr)
    return code
