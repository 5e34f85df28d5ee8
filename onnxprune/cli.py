"""The command line: options become values, results become text, errors become exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

from onnxprune._version import __version__
from onnxprune.compare import CompareOptions, run_comparison
from onnxprune.data.recipe import OPEN_SIDE
from onnxprune.doctor import run_doctor
from onnxprune.ending import EXIT_CODES, guarded
from onnxprune.errors import DropError, EngineError, NothingFasterError, OutputError, UsageError
from onnxprune.evaluation import load_function
from onnxprune.files import check_targets, json_bytes
from onnxprune.flags import (
    AS_IT_IS,
    AUTO,
    MORE,
    BudgetFlags,
    BudgetPanel,
    Drop,
    EngineFlags,
    EnginePanel,
    InputFlags,
    InputPanel,
    Kinds,
    MethodFlags,
    MethodPanel,
    NotesFlags,
    NotesPanel,
    PixelPanel,
    RunFlags,
    RunPanel,
    SampleFlags,
    SamplePanel,
    ShowFlags,
    ShowPanel,
    TrainFlags,
    TrainPanel,
    all_options,
    amounts,
    filled,
    options_from,
    recover_options,
)
from onnxprune.graph.save import write_bytes
from onnxprune.inspection import run_inspection
from onnxprune.note import RunWarning
from onnxprune.options import Options
from onnxprune.plan import Plan
from onnxprune.recovery.pair import run_recovery
from onnxprune.report.doctor import show_doctor
from onnxprune.report.explanation import show_explanation
from onnxprune.report.inspection import show_inspection
from onnxprune.report.pareto import plot_pareto, show_pareto
from onnxprune.report.progress import StageBars, StageLines
from onnxprune.report.study import check_plot, plot_study, show_study
from onnxprune.report.terminal import show_comparison, show_recovery, show_report
from onnxprune.runtime.meaning import checked_kinds
from onnxprune.runtime.providers import EngineOptions
from onnxprune.study import run_study
from onnxprune.sweep import Pareto, Point, run_any, run_pareto

__all__ = ["app", "main"]

_EVERYTHING = "--help-all"
_NO_PLOT = "; a plot needs matplotlib: pip install 'onnxprune[plot]'"

app = App(
    name="onnxprune",
    help="Make a trained convolutional network smaller and faster, on the ONNX file itself.",
    usage="Usage: onnxprune MODEL --data PHOTOS [-o RESULT] [OPTIONS]"
    "\n       onnxprune compare ORIGINAL CANDIDATE [OPTIONS]"
    "\n       onnxprune recover ORIGINAL CANDIDATE -o RESULT [OPTIONS]"
    "\n       onnxprune study MODEL --site NAME [OPTIONS]\n       onnxprune inspect MODEL [OPTIONS]"
    "\n       onnxprune doctor [OPTIONS]",
    help_epilogue=EXIT_CODES,
    version=__version__,
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)


@app.default
def prune(
    model: Path,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    data: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    explain: Annotated[bool, Parameter(negative=(), show_default=False), MORE] = False,
    plan_out: Path | None = None,
    max_drop: Drop = None,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    pareto: Path | None = None,
    recover: str | None = None,
    budget: BudgetPanel = BudgetFlags(),
    method: MethodPanel = MethodFlags(),
    training: TrainPanel = TrainFlags(),
    sampling: SamplePanel = SampleFlags(),
    preprocessing: PixelPanel = AS_IT_IS,
    engine: EnginePanel = EngineFlags(),
    show: NotesPanel = NotesFlags(),
) -> None:
    """Make a network faster: onnxprune model.onnx -o pruned.onnx --data photos/

    Parameters
    ----------
    model
        The network, an ONNX file.
    output
        Where the result goes; MODEL-pruned.onnx beside the model unless given.
    data
        Inputs to calibrate on: an image folder, .npy or .npz, or the word synthetic for made-up images (a folder of
        that name is ./synthetic). Without it MODEL.calib.npz beside MODEL.onnx.
    dry_run
        Only plan, and show the plan.
    explain
        Show why each layer got what it got: its error and weight, what it costs, and the next best choice.
    plan_out
        Write the plan to this file.
    max_drop
        Points of top-1 agreement (or, for other outputs, per cent of relative error) that may be lost on held-back
        inputs, with --evaluate how much its value may fall. Without a budget the fastest network within it is looked
        for, within 1 unless given; with a budget, it is an error to lose more.
    output_kind
        What an output means, NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        FILE.py:FUNCTION, your own measure: it gets run(inputs) -> outputs, both dicts of arrays by name, and returns
        one number, higher is better. It decides --max-drop.
    pareto
        A dozen speed-ups instead of one: models, table, JSON and a plot go to this folder.
    recover
        Train the result on the original's answers, without labels: a number of epochs, or auto, which a bare --recover
        means.
    """
    learnt = recover_options(recover, training, sampling.seed)
    options = options_from(budget, method, sampling, preprocessing, engine, max_drop, evaluate)
    options = replace(options, recover=learnt, outputs=checked_kinds(output_kind))
    if pareto is not None:
        _check_points(pareto, budget, given=(output, plan_out, dry_run, explain, show.verbose))
        check_targets([model, data], [show.json])
        _write_points(model, data, options, pareto, show)
        return
    if output is None and not dry_run:
        output = model.with_name(f"{model.stem}-pruned.onnx")
    check_targets([model, data, budget.plan], [output, show.json, plan_out])
    unweighed = budget.plan is not None or options.budget.kind in ("keep-ratio", "selector")
    if explain and (show.quiet or unweighed):
        why = "with --quiet" if show.quiet else "where nothing was weighed: with --plan, --keep-ratio or --lasso fixed"
        raise UsageError(f"--explain does nothing {why}: leave it out")
    plan = None if budget.plan is None else Plan.load(budget.plan)
    with _bars(show) as bars:
        result = run_any(model, data, options, plan=plan, dry_run=dry_run, progress=bars)
    report = result.report
    if output is not None and not dry_run:
        result.save(output)
        report = replace(report, output=str(output))
    if plan_out is not None:
        write_bytes(plan_out, result.plan.to_json().encode())
    if show.json is not None:
        write_bytes(show.json, json_bytes({**report.to_dict(), "plan": result.plan.to_dict()}))
    if not show.quiet:
        if explain and report.explanation is not None:
            show_explanation(_paper(), report.explanation, verbose=show.verbose)
        show_report(_paper(), report, verbose=show.verbose)
    if result.returned:
        raise NothingFasterError(f"{report.budget}: nothing faster was found: the result is the original")


@app.command
def compare(
    original: Path,
    candidate: Path,
    *,
    data: str | None = None,
    labels: Path | None = None,
    label_offset: int = 0,
    samples: int | None = None,
    max_drop: Drop = None,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    seed: int = 0,
    preprocessing: PixelPanel = AS_IT_IS,
    engine: EnginePanel = EngineFlags(),
    show: ShowPanel = ShowFlags(),
) -> None:
    """Compare two models on the same inputs: outputs, accuracy where there are labels, latency.

    Parameters
    ----------
    original
        The first model.
    candidate
        The second model.
    data
        Inputs, as for the main command. Without it ORIGINAL.test.npz or ORIGINAL.calib.npz beside the first model.
    labels
        Classes: .npy, .npz with 'labels', or one integer a line; the data's own 'labels' unless given.
    label_offset
        Added to every label: 1 for models whose class 0 is the background.
    samples
        Inputs at most.
    max_drop
        Exit with 8 if the second model loses more: points of accuracy, without labels points of top-1 agreement,
        for other outputs per cent of relative error; with --evaluate, if its value falls by more.
    output_kind
        What an output means, NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        FILE.py:FUNCTION, your own measure, as for the main command.
    seed
        Of the choice of inputs.
    """
    check_targets([original, candidate, data, labels], [show.json])
    options = CompareOptions(
        samples=samples,
        label_offset=label_offset,
        max_drop=max_drop,
        evaluate=load_function(evaluate),
        bench=engine.bench,
        bench_batch=engine.bench_batch,
        seed=seed,
        data=preprocessing,
        engine=EngineOptions(provider=engine.provider, threads=engine.threads),
        outputs=checked_kinds(output_kind),
    )
    with _bars(show) as bars:
        comparison = run_comparison(original, candidate, data, labels, options, bars)
    if show.json is not None:
        write_bytes(show.json, json_bytes(comparison.to_dict()))
    if not show.quiet:
        show_comparison(_paper(), comparison)
    if not comparison.within:
        hint = f"; {comparison.hint}" if comparison.hint else ""
        raise DropError(f"{comparison.drop:.3f} {comparison.drop_kind}, --max-drop allows {max_drop:g}{hint}")


@app.command
def recover(
    original: Path,
    candidate: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    data: str | None = None,
    epochs: str = AUTO,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    training: TrainPanel = TrainFlags(),
    inputs: InputPanel = InputFlags(),
    preprocessing: PixelPanel = AS_IT_IS,
    engine: RunPanel = RunFlags(),
    show: NotesPanel = NotesFlags(),
) -> None:
    """Train a smaller network on the original's answers, without labels: any pair with the same inputs and outputs.

    Parameters
    ----------
    original
        The network that is asked.
    candidate
        The network that is trained; the file is not changed.
    output
        Where the result goes.
    data
        Inputs to train on, as for the main command.
    epochs
        Passes over the inputs, or auto.
    output_kind
        What an output means, NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        FILE.py:FUNCTION, your own measure, as for the main command: its value is shown before and after.
    """
    check_targets([original, candidate, data], [output, show.json])
    sampling = SampleFlags(**vars(inputs))
    run_flags = EngineFlags(**vars(engine))
    options = options_from(BudgetFlags(), MethodFlags(), sampling, preprocessing, run_flags, None, evaluate)
    learnt = recover_options(epochs, training, inputs.seed)
    chosen = replace(options, recover=learnt, outputs=checked_kinds(output_kind))
    with _bars(show) as bars:
        result = run_recovery(original, candidate, data, chosen, bars)
    result.save(output)
    result = result.written_to(output)
    if show.json is not None:
        write_bytes(show.json, json_bytes(result.report.to_dict()))
    if not show.quiet:
        show_recovery(_paper(), result.report, verbose=show.verbose)


@app.command
def study(
    model: Path,
    *,
    site: tuple[str, ...],
    data: str | None = None,
    speedups: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0, 5.0),
    plot: Path | None = None,
    sampling: SamplePanel = SampleFlags(),
    preprocessing: PixelPanel = AS_IT_IS,
    engine: RunPanel = RunFlags(),
    show: ShowPanel = ShowFlags(),
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
    check_targets([model, data], [plot, show.json])
    if plot is not None:
        check_plot(plot)
    options = options_from(BudgetFlags(), MethodFlags(), sampling, preprocessing, EngineFlags(**vars(engine)), None)
    with _bars(show) as bars:
        found = run_study(model, data, site, options, speedups, bars)
    if plot is not None:
        write_bytes(plot, plot_study(found, plot.suffix.lower()))
    if show.json is not None:
        write_bytes(show.json, json_bytes(found.to_dict()))
    if not show.quiet:
        show_study(_paper(), found)


@app.command
def inspect(model: Path, *, size: int = OPEN_SIDE, show: NotesPanel = NotesFlags()) -> None:
    """List what of a network may be pruned, layer by layer, and what stands in the way; nothing is run.

    Parameters
    ----------
    model
        The network, an ONNX file.
    size
        Of the axes that its inputs leave open, the batch apart.
    """
    check_targets([model], [show.json])
    found = run_inspection(model, size=size)
    if show.json is not None:
        write_bytes(show.json, json_bytes(found.to_dict()))
    if not show.quiet:
        show_inspection(_paper(), found, verbose=show.verbose)


@app.command
def doctor(*, show: ShowPanel = ShowFlags()) -> None:
    """Say what this installation can do: versions, providers, cores, the cache, and what is missing for what."""
    check_targets([], [show.json])
    found = run_doctor()
    if show.json is not None:
        write_bytes(show.json, json_bytes(found.to_dict()))
    if not show.quiet:
        show_doctor(_paper(), found)
    if found.problems:
        raise EngineError(found.problems[0])


def _check_points(folder: Path, budget: BudgetFlags, *, given: Sequence[object]) -> None:
    """Whether a dozen speed-ups can be written there, and nothing else was asked for."""
    names = ["-o", "--plan-out", "--dry-run", "--explain", "--verbose"]
    others = [name for name, value in zip(names, given, strict=True) if value]
    others += [f"--{name.replace('_', '-')}" for name in (*amounts(budget), *(["plan"] if budget.plan else []))]
    if others:
        raise UsageError(f"--pareto makes a dozen models of its own: leave {', '.join(others)} out")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, expected a folder")
    if not folder.parent.is_dir():
        raise OutputError(f"{folder}: the folder that it would lie in does not exist")


def _write_points(model: Path, data: str | None, options: Options, folder: Path, show: ShowFlags) -> None:
    """Each model as soon as it is there, and the JSON with it: what is done is not lost."""
    points: list[Point] = []
    with _bars(show) as bars:
        for point in run_pareto(model, data, options, bars):
            folder.mkdir(exist_ok=True)
            done = point
            if point.result is not None:
                path = folder / f"{model.stem}-{point.asked:g}x.onnx"
                point.result.save(path)
                done = replace(
                    point, result=replace(point.result, report=replace(point.result.report, output=str(path)))
                )
            points.append(done)
            found = Pareto(str(model), options.budget.unit, tuple(points))
            for target in filter(None, (folder / "pareto.json", show.json)):
                write_bytes(target, json_bytes(found.to_dict()))
    drawn = find_spec("matplotlib") is not None
    if drawn:
        write_bytes(folder / "pareto.svg", plot_pareto(found, ".svg"))
    if not show.quiet:
        show_pareto(_paper(), found)
        print(f"models, pareto.json{', pareto.svg' if drawn else ''} in {folder}" + ("" if drawn else _NO_PLOT))


def _bars(show: ShowFlags) -> StageBars | StageLines:
    warnings.simplefilter("ignore" if show.quiet else "always", RunWarning)
    console = Console(stderr=True)
    if show.quiet or console.is_terminal:
        return StageBars(console, enabled=not show.quiet)
    return StageLines(console)


def _paper() -> Console:
    """Stdout; wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def main(arguments: list[str] | None = None) -> Literal[0] | int:
    """Run a command and return its exit code; users' errors are one line on stderr."""
    given = filled(sys.argv[1:] if arguments is None else arguments)
    with all_options() if _EVERYTHING in given else nullcontext():
        given = ["--help" if argument == _EVERYTHING else argument for argument in given]
        return guarded(lambda: app(given, exit_on_error=False, print_error=False, result_action="return_value"))
