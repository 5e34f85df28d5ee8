"""Points of a sweep as a table in the terminal, and as a plot of loss against gain."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from onnxprune.options.budget import WORDS

if TYPE_CHECKING:
    from rich.console import Console

    from onnxprune.commands.record import Report
    from onnxprune.commands.sweep import Pareto, Point

__all__ = ["plot_pareto", "show_pareto"]


def show_pareto(console: Console, found: Pareto) -> None:
    """Print a row for each point; points that another beats in both latency and divergence are marked."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = (
        "asked",
        "MACs",
        "parameters",
        "file",
        "latency",
        "agreement",
        "KL",
        "relative error",
        _measure(found),
        "",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("file name", overflow="fold")
    beaten = _beaten(found.points)
    for point in found.points:
        if point.result is not None:
            mark, path = "beaten" if point.asked in beaten else "", escape(Path(point.result.report.output or "").name)
            table.add_row(f"{point.asked:g}x", *_cells(point.result.report), mark, path)
    console.print(table)
    for point in found.points:
        if point.result is None:
            console.print(f"{point.asked:g}x: {escape(point.why)}", highlight=False)
    console.print(
        f"asked: speed-up in {WORDS[found.counted]}; others: before over after, with its 95 % interval; "
        "agreement, KL and error of the worst output on held-out inputs; beaten: another is as fast and near.",
        highlight=False,
    )


def _cells(report: Report) -> tuple[str, ...]:
    timing = report.timing
    agreements = [o.top1_agreement for o in report.divergence if o.top1_agreement is not None]
    kls = [o.kl for o in report.divergence if o.kl is not None]
    return (
        f"{report.macs.ratio:.2f}x",
        f"{report.params.ratio:.2f}x",
        "" if report.file_bytes is None else f"{report.file_bytes.after / 1e6:.2f} MB",
        "" if timing is None else f"{timing.ratio:.2f}x [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]",
        f"{min(agreements):.2%}" if agreements else "",
        f"{max(kls):.2e}" if kls else "",
        f"{_worst(report):.4f}",
        "" if report.evaluation is None else f"{report.evaluation.after:.6g}",
    )


def _measure(found: Pareto) -> str:
    """Return the name of the user's own measure; empty without one."""
    names = [p.result.report.evaluation.name for p in found.points if p.result and p.result.report.evaluation]
    return names[0] if names else ""


def _worst(report: Report) -> float:
    """Return the relative error of the worst output."""
    return max((output.relative_error for output in report.divergence), default=0.0)


def _lost(report: Report) -> float:
    """Return the loss: the drop of the user's own measure if there is one, else the error of the worst output."""
    return _worst(report) if report.evaluation is None else report.evaluation.drop


def _gained(report: Report) -> float:
    """Return the gain: the speed-up, or the ratio of MACs if latency was not measured."""
    return report.macs.ratio if report.timing is None else report.timing.ratio


def _beaten(points: tuple[Point, ...]) -> set[float]:
    """Return the speed-ups of points to which another is at least equal in loss and gain, and better in one."""
    known = [(p.asked, _gained(p.result.report), _lost(p.result.report)) for p in points if p.result is not None]
    return {
        asked
        for asked, gained, lost in known
        if any(g >= gained and e <= lost and (g, e) != (gained, lost) for _, g, e in known)
    }


def plot_pareto(found: Pareto, suffix: str) -> bytes:
    """Plot the error of the outputs, or the drop of the user's own measure, against MACs and latency; return the file.

    Args:
        found: points of the sweep.
        suffix: ``.png`` or ``.svg``.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    reports = [point.result.report for point in found.points if point.result is not None]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    panel.plot([r.macs.ratio for r in reports], [_lost(r) for r in reports], marker="o", label="MACs")
    timed = [(r.timing.ratio, _lost(r)) for r in reports if r.timing is not None]
    if timed:
        panel.plot(*zip(*timed, strict=True), marker="s", label="latency")
    panel.set_xlabel("before over after")
    measure = _measure(found)
    panel.set_ylabel(f"{measure} lost" if measure else "relative error of the outputs, held-out inputs")
    panel.grid(alpha=0.3)
    panel.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.removeprefix("."), dpi=150)
    return buffer.getvalue()
