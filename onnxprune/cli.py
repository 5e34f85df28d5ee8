"""The command line: options become values, results become text, errors become exit codes.

What a command runs is imported when it runs, so that ``--help`` does not wait for numpy and onnx.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.help import DefaultFormatter

from onnxprune._version import __version__
from onnxprune.commands.idle import Rule, check_idle
from onnxprune.console.config import configured
from onnxprune.console.ending import EXIT_CODES, guarded
from onnxprune.console.flags import (
    AUTO,
    FIELDS,
    BenchPanel,
    BudgetPanel,
    CacheFlags,
    CachePanel,
    Data,
    Drop,
    EnginePanel,
    InputPanel,
    Kinds,
    NotesFlags,
    NotesPanel,
    PixelPanel,
    PlanPanel,
    ReadPanel,
    RecoverPanel,
    RefitPanel,
    SelectPanel,
    ShowFlags,
    ShowPanel,
    config_bytes,
    filled,
    options_from,
    recover_options,
)
from onnxprune.console.sources import source_of
from onnxprune.console.targets import check_targets, write_json
from onnxprune.console.terminal import UsualHelp, bars, paper
from onnxprune.errors import DropError, EngineError, NothingFasterError, UsageError
from onnxprune.files import write_bytes
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.data import OPEN_SIDE, DataOptions
from onnxprune.options.engine import EngineOptions
from onnxprune.options.inputs import BenchOptions, InputOptions
from onnxprune.options.planning import PlanOptions
from onnxprune.options.reading import ReadOptions
from onnxprune.options.recovery import RecoverOptions
from onnxprune.options.run import Effort
from onnxprune.options.solve import RefitOptions, SelectOptions

__all__ = ["app", "main"]

_EVERYTHING = "--help-all"
_COMMANDS = ("compare", "recover", "study", "inspect", "doctor")

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
    help_formatter=UsualHelp(),
)
app.register_install_completion_command(help="Install the completion of this program for the shell in use.")


@app.default
def prune(
    model: Path,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    data: Data = None,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    explain: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    plan: Path | None = None,
    plan_out: Path | None = None,
    max_drop: Drop = None,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    pareto: Path | None = None,
    recover: str | None = None,
    effort: Effort = "normal",
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=False, show_default=False)] = (),
    config_out: Path | None = None,
    budget: BudgetPanel = BudgetOptions(),
    planning: PlanPanel = PlanOptions(),
    select: SelectPanel = SelectOptions(),
    refit: RefitPanel = RefitOptions(),
    training: RecoverPanel = RecoverOptions(),
    inputs: InputPanel = InputOptions(),
    cache: CachePanel = CacheFlags(),
    preprocessing: PixelPanel = DataOptions(),
    engine: EnginePanel = EngineOptions(),
    bench: BenchPanel = BenchOptions(),
    show: NotesPanel = NotesFlags(),
) -> None:
    """Make a network faster: onnxprune model.onnx -o pruned.onnx --data photos/

    Parameters
    ----------
    model
        Network, an ONNX file.
    output
        File for the result; default MODEL-pruned.onnx beside the model.
    data
        Inputs to calibrate on: an image folder, .npy or .npz, or the word synthetic for synthetic images (a folder of
        that name is ./synthetic). Default MODEL.calib.npz beside MODEL.onnx.
    dry_run
        Plan only; nothing is fitted or written.
    explain
        Reasons of the plan: error, weight and cost of each layer, and its next best choice.
    plan
        Plan file to carry out instead of a budget.
    plan_out
        File for the plan.
    max_drop
        Largest loss on held-out inputs: points of top-1 agreement, per cent of relative error for other outputs, or
        the unit of --evaluate. Without a budget the fastest network within it is searched, default 1; with a budget,
        losing more is an error.
    output_kind
        Meaning of an output: NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        Your own measure, FILE.py:FUNCTION: it gets run(inputs) -> outputs, both dicts of arrays by name, and returns
        one number, higher is better. It decides --max-drop.
    pareto
        Folder for a dozen speed-ups instead of one: models, table, JSON and a plot.
    recover
        Training on the original's outputs, without labels: a number of epochs, a time such as 45m or 2h, or auto, the
        default of a bare --recover.
    effort
        Time against quality: quick, normal or best; changes only options that are at their defaults.
    config
        TOML file of options, a table a group; options that are typed replace its.
    set_
        Option by group and field: GROUP.FIELD=VALUE, such as refit.rounds=2. Repeatable.
    config_out
        File for the options of this run, as --config reads them.
    """
    from onnxprune.commands.sweep import run_any
    from onnxprune.console.points import check_points, write_points
    from onnxprune.engine.meaning import checked_kinds
    from onnxprune.engine.usercode import load_function
    from onnxprune.planning import Plan
    from onnxprune.report.explanation import show_explanation
    from onnxprune.report.terminal import show_report

    del set_  # `configured` has replaced each --set by the option that it names
    learnt = recover_options(recover, training, inputs.seed)
    options = options_from(
        budget,
        planning,
        select,
        refit,
        bench,
        inputs=inputs,
        cache=cache,
        data=preprocessing,
        engine=engine,
        planned=plan is not None,
    )
    options = replace(
        options,
        effort=effort,
        max_drop=max_drop,
        evaluate=load_function(evaluate),
        recover=learnt,
        outputs=checked_kinds(output_kind),
    )
    written = b""
    if config_out is not None:
        records = budget, planning, select, refit, training, inputs, cache, preprocessing, engine, bench
        chosen: dict[str, object] = {"data": data, "plan": plan, "max_drop": max_drop, "evaluate": evaluate}
        chosen |= {"recover": recover, "output_kind": output_kind or None, "effort": effort}
        written = config_bytes(records, chosen)
    if pareto is not None:
        check_points(pareto, budget, given=(output, plan, plan_out, dry_run, explain, show.verbose))
        check_targets([model, data, config], [show.json, config_out])
        write_points(model, source_of(data), options, pareto, show)
        if config_out is not None:
            write_bytes(config_out, written)
        return
    if output is None and not dry_run:
        output = model.with_name(f"{model.stem}-pruned.onnx")
    check_targets([model, data, plan, config], [output, show.json, plan_out, config_out])
    unweighed = plan is not None or options.budget.kind in ("keep-ratio", "selector")
    if explain and (show.quiet or unweighed):
        why = "with --quiet" if show.quiet else "without an allocation: with --plan, --keep-ratio or --lasso fixed"
        raise UsageError(f"--explain does nothing {why}: leave it out")
    planned = None if plan is None else Plan.load(plan)
    with bars(show) as progress:
        result = run_any(model, source_of(data), options, plan=planned, dry_run=dry_run, progress=progress)
    report = result.report
    if output is not None and not dry_run:
        result.save(output)
        report = replace(report, output=str(output))
    for path, content in ((plan_out, result.plan.to_json().encode()), (config_out, written)):
        if path is not None:
            write_bytes(path, content)
    write_json(show.json, {**report.to_dict(), "plan": result.plan.to_dict()})
    if not show.quiet:
        if explain and report.explanation is not None:
            show_explanation(paper(), report.explanation, verbose=show.verbose)
        show_report(paper(), report, verbose=show.verbose)
    if result.returned:
        raise NothingFasterError(f"{report.budget}: nothing faster was found: the result is the original")


@app.command
def compare(
    original: Path,
    candidate: Path,
    *,
    data: Data = None,
    labels: Path | None = None,
    label_offset: int = 0,
    samples: int | None = None,
    max_drop: Drop = None,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    reading: ReadPanel = ReadOptions(),
    seed: int = 0,
    preprocessing: PixelPanel = DataOptions(),
    engine: EnginePanel = EngineOptions(),
    bench: BenchPanel = BenchOptions(),
    show: ShowPanel = ShowFlags(),
) -> None:
    """Compare two models on the same inputs: outputs, accuracy if there are labels, latency.

    Parameters
    ----------
    original
        The first model.
    candidate
        The second model.
    data
        Inputs, as for the main command; default ORIGINAL.test.npz, else ORIGINAL.calib.npz, beside the first model.
    labels
        File of classes: .npy, .npz with 'labels', or text with one integer per line; default the data's 'labels'.
    label_offset
        Number added to every label; 1 for models whose class 0 is the background.
    samples
        Largest number of inputs, drawn at random; default all.
    max_drop
        Largest loss of the second model, else exit code 8: points of accuracy, without labels points of top-1
        agreement, per cent of relative error for other outputs, or the unit of --evaluate. Default any.
    output_kind
        Meaning of an output: NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        Your own measure, FILE.py:FUNCTION, as for the main command.
    seed
        Seed of the choice of inputs and of the timing.
    """
    from onnxprune.commands.compare import CompareOptions, run_comparison
    from onnxprune.engine.meaning import checked_kinds
    from onnxprune.engine.usercode import load_function
    from onnxprune.report.terminal import show_comparison

    check_targets([original, candidate, data, labels], [show.json])
    options = CompareOptions(
        samples=samples,
        label_offset=label_offset,
        max_drop=max_drop,
        evaluate=load_function(evaluate),
        **vars(reading),
        **vars(bench),
        seed=seed,
        data=preprocessing,
        engine=engine,
        outputs=checked_kinds(output_kind),
    )
    with bars(show) as progress:
        comparison = run_comparison(original, candidate, source_of(data), labels, options, progress)
    write_json(show.json, comparison.to_dict())
    if not show.quiet:
        show_comparison(paper(), comparison)
    if not comparison.within:
        told = f"{comparison.drop:.3f} {comparison.drop_kind}, --max-drop allows {max_drop:g}"
        raise DropError("; ".join(filter(None, (told, comparison.hint))))


@app.command
def recover(
    original: Path,
    candidate: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    data: Data = None,
    epochs: str = AUTO,
    output_kind: Kinds = (),
    evaluate: str | None = None,
    training: RecoverPanel = RecoverOptions(),
    inputs: InputPanel = InputOptions(),
    cache: CachePanel = CacheFlags(),
    preprocessing: PixelPanel = DataOptions(),
    engine: EnginePanel = EngineOptions(),
    show: NotesPanel = NotesFlags(),
) -> None:
    """Train a smaller network on the original's outputs, without labels: any pair with the same inputs and outputs.

    Parameters
    ----------
    original
        Original network, the teacher.
    candidate
        Network to train; the file is not changed.
    output
        File for the result.
    data
        Inputs to train on, as for the main command.
    epochs
        Number of passes over the inputs, a time such as 45m or 2h, or auto: by the number of inputs.
    output_kind
        Meaning of an output: NAME=classes, NAME=pixels or NAME=values; also spelt --output NAME=KIND. Repeatable.
    evaluate
        Your own measure, FILE.py:FUNCTION, as for the main command: its value before and after the training is shown.
    """
    from onnxprune.commands.recover import run_recovery
    from onnxprune.engine.meaning import checked_kinds
    from onnxprune.engine.usercode import load_function
    from onnxprune.report.terminal import show_recovery

    check_targets([original, candidate, data], [output, show.json])
    check_idle(inputs, InputOptions(), (Rule(("points",), False, "in a recovery, which samples no layer"),))
    options = options_from(inputs=inputs, cache=cache, data=preprocessing, engine=engine)
    learnt = recover_options(epochs, training, inputs.seed)
    outputs = checked_kinds(output_kind)
    chosen = replace(options, recover=learnt, evaluate=load_function(evaluate), outputs=outputs)
    with bars(show) as progress:
        result = run_recovery(original, candidate, source_of(data), chosen, progress)
    result.save(output)
    result = result.written_to(output)
    write_json(show.json, result.report.to_dict())
    if not show.quiet:
        show_recovery(paper(), result.report, verbose=show.verbose)


@app.command
def study(
    model: Path,
    *,
    site: tuple[str, ...],
    data: Data = None,
    speedups: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0, 5.0),
    plot: Path | None = None,
    inputs: InputPanel = InputOptions(),
    cache: CachePanel = CacheFlags(),
    preprocessing: PixelPanel = DataOptions(),
    engine: EnginePanel = EngineOptions(),
    show: ShowPanel = ShowFlags(),
) -> None:
    """Study layers one at a time: error, damage and cost by every method and size; the model is not changed.

    Parameters
    ----------
    model
        Network, an ONNX file.
    site
        Node names or globs of the layers to study.
    data
        Inputs to calibrate on, as for the main command.
    speedups
        Factors, above 1, by which the MACs of each layer are reduced.
    plot
        File for a plot of error against speed-up, .png or .svg.
    """
    from onnxprune.commands.study import run_study
    from onnxprune.report.study import check_plot, plot_study, show_study

    check_targets([model, data], [plot, show.json])
    if plot is not None:
        check_plot(plot)
    options = options_from(inputs=inputs, cache=cache, data=preprocessing, engine=engine)
    with bars(show) as progress:
        found = run_study(model, source_of(data), site, options, speedups, progress)
    if plot is not None:
        write_bytes(plot, plot_study(found, plot.suffix.lower()))
    write_json(show.json, found.to_dict())
    if not show.quiet:
        show_study(paper(), found)


@app.command
def inspect(
    model: Path, *, size: int = OPEN_SIDE, reading: ReadPanel = ReadOptions(), show: NotesPanel = NotesFlags()
) -> None:
    """List for each layer whether it can be pruned, and the reason if not; the network is not run.

    Parameters
    ----------
    model
        Network, an ONNX file.
    size
        Extent of the input axes that the model leaves open, except the batch.
    """
    from onnxprune.commands.inspect import run_inspection
    from onnxprune.report.inspection import show_inspection

    check_targets([model], [show.json])
    found = run_inspection(model, size=size, reading=reading)
    write_json(show.json, found.to_dict())
    if not show.quiet:
        show_inspection(paper(), found, verbose=show.verbose)


@app.command
def doctor(*, show: ShowPanel = ShowFlags()) -> None:
    """Check this installation: versions, providers, cores, the cache, and missing packages with their uses."""
    from onnxprune.commands.doctor import run_doctor
    from onnxprune.report.doctor import show_doctor

    check_targets([], [show.json])
    found = run_doctor()
    write_json(show.json, found.to_dict())
    if not show.quiet:
        show_doctor(paper(), found)
    if found.problems:
        raise EngineError(found.problems[0])


def main(arguments: list[str] | None = None) -> Literal[0] | int:
    """Run a command and return its exit code; users' errors are one line on stderr."""
    return guarded(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> object:
    everything = _EVERYTHING in arguments
    app.help_formatter = DefaultFormatter() if everything else UsualHelp()
    given = ["--help" if argument == _EVERYTHING else argument for argument in arguments]
    if given and given[0] not in _COMMANDS:
        given = configured(filled(given), FIELDS)
    return app(filled(given), exit_on_error=False, print_error=False, result_action="return_value")
