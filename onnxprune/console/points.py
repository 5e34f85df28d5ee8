"""Files of ``--pareto``: a model per speed-up, the table as JSON, and a plot, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.commands.sweep import Pareto, Point, run_pareto
from onnxprune.console.flags import ShowFlags
from onnxprune.console.targets import json_bytes
from onnxprune.console.terminal import bars, paper
from onnxprune.errors import OutputError, UsageError
from onnxprune.files import check_writable, write_bytes
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.run import Options
from onnxprune.report.pareto import plot_pareto, show_pareto

if TYPE_CHECKING:
    from onnxprune.data import CalibrationSource

__all__ = ["check_points", "write_points"]

_NO_PLOT = "; a plot needs matplotlib: pip install 'onnxprune[plot]'"


def check_points(folder: Path, budget: BudgetOptions, *, given: Sequence[object]) -> None:
    """Check that the folder of ``--pareto`` can be made, and that no option is given that it does not use.

    Args:
        folder: the folder.
        budget: budget of the command.
        given: values of the options in `names`.
    """
    names = ["-o", "--plan", "--plan-out", "--dry-run", "--explain", "--verbose"]
    others = [name for name, value in zip(names, given, strict=True) if value]
    others += [f"--{name.replace('_', '-')}" for name, value in vars(budget).items() if value is not None]
    if others:
        raise UsageError(f"--pareto makes a dozen models of its own: leave {', '.join(others)} out")
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, expected a folder: choose another path")
        if not folder.parent.is_dir():
            raise OutputError(f"{folder}: the folder {folder.parent} does not exist: create it")
        there = folder.is_dir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}): choose another path") from error
    check_writable(folder / "pareto.json" if there else folder)  # made as soon as there is something to write


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


def write_points(model: Path, data: CalibrationSource, options: Options, folder: Path, show: ShowFlags) -> None:
    """Write each model and the JSON as soon as the model is made, so that an interruption loses nothing."""
    points: list[Point] = []
    with bars(show) as progress:
        for point in run_pareto(model, data, options, progress):
            _make(folder)
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
        show_pareto(paper(), found)
        print(f"models, pareto.json{', pareto.svg' if drawn else ''} in {folder}" + ("" if drawn else _NO_PLOT))
