"""Study as a table in the terminal, and as a plot: error of a layer's output against its speed-up."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from onnxprune.commands.study import Point, Study

__all__ = ["check_plot", "plot_study", "show_study"]

_FORMATS = (".png", ".svg")


def show_study(console: Console, study: Study) -> None:
    """Print a table for each layer: one row per method, one column per speed-up."""
    if study.data.get("warning"):
        console.print(Panel(escape(str(study.data["warning"])), title="warning", style="bold red"))
    for site in dict.fromkeys(point.site for point in study.points):
        points = {(point.method, point.asked): point for point in study.points if point.site == site}
        asked = sorted({point.asked for point in points.values()})
        table = Table(title=escape(site), box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column("method", no_wrap=True)
        for speedup in asked:
            table.add_column(f"{speedup:g}x", justify="right", no_wrap=True)
        for method in dict.fromkeys(method for method, _ in points):
            table.add_row(escape(method), *(_cell(points.get((method, speedup))) for speedup in asked))
        console.print(table)
    console.print(
        "per cent: relative squared error of the layer's output, behind its activation where that is piecewise linear "
        "(relative error of the network's outputs); sizes, exact speed-ups, KL and agreement: --json"
    )


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    error = point.error if point.behind is None else point.behind
    return f"{100 * error:.2f} ({100 * max(output.relative_error for output in point.divergence):.1f})"


def check_plot(path: Path) -> None:
    """Check before the work that a plot can be drawn.

    Raises:
        UsageError: the file's suffix is unknown, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--plot {path}: expected a file that ends in {' or '.join(_FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'onnxprune[plot]', or use --json") from error


def plot_study(study: Study, suffix: str) -> bytes:
    """Plot one line per method for each layer; return the file's content.

    Args:
        study: the study.
        suffix: ``.png`` or ``.svg``.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    sites = list(dict.fromkeys(point.site for point in study.points))
    figure = Figure(figsize=(10, 4.5 * len(sites)), layout="constrained")
    panels = figure.subplots(len(sites), 1, squeeze=False)[:, 0]
    for panel, site in zip(panels, sites, strict=True):
        points = [point for point in study.points if point.site == site]
        for number, method in enumerate(dict.fromkeys(point.method for point in points)):
            own = [point for point in points if point.method == method]
            line = sorted((point.speedup, point.error if point.behind is None else point.behind) for point in own)
            style = "o" if method.startswith("prune") else "s"
            panel.plot(
                *zip(*line, strict=True),
                marker=style,
                ms=4,
                lw=1.2,
                label=method,
                color=colormaps["tab20"](number % 20),
            )
        panel.set_yscale("log")
        panel.set_title(site)
        panel.set_xlabel("MACs of the layer, before over after")
        where = "" if points[0].behind is None else ", behind the activation"
        panel.set_ylabel(f"relative error of its answer{where}")
        panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.removeprefix("."), dpi=150)
    return buffer.getvalue()
