"""Terminal output of a run: a table of layers that can be pasted into a message, and a summary panel."""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from onnxprune.options.data import DataOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console, RenderableType

    from onnxprune.commands.compare import Comparison
    from onnxprune.commands.record import Change, LayerRow, Report
    from onnxprune.commands.recover import RecoveryReport
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.engine.evaluation import Evaluation
    from onnxprune.engine.timing import Timing
    from onnxprune.recovery.record import Recovery

__all__ = ["end_of", "show_comparison", "show_recovery", "show_report"]

_NAME_WIDTH = 40
_PLACES = ("folder", "folder of arrays", "npy", "npz", "synthetic")  # kinds of data that `--data` takes


def show_report(console: Console, report: Report, *, verbose: bool = False) -> None:
    """Print the table of layers, warnings and notes, and the summary."""
    width = None if verbose else _NAME_WIDTH
    warnings = _warned(console, report.warnings, damaged=report.damaged)
    reasons = {reason: number for number, reason in enumerate(_reasons(report.layers), 1)}
    console.print(_layers(report.layers, reasons, width))
    for reason, number in reasons.items():
        console.print(f"[dim]{number:>4}[/dim]  {escape(reason)}", highlight=False)
    shown = report.notes if verbose else report.notes[:6]
    for note in shown:
        console.print(f"[dim]note[/dim] {escape(end_of(note.subject, width))}: {escape(note.text)}", highlight=False)
    if len(report.notes) > len(shown):
        console.print(f"[dim]note[/dim] {len(report.notes) - len(shown)} more with -v", highlight=False)
    if verbose:
        for stage, seconds in report.seconds.items():
            console.print(f"[dim]time[/dim] {stage}: {seconds:.1f} s", highlight=False)
    _warned(console, warnings)
    console.print(Panel(_summary(report), title=_title(report), title_align="left"))


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the comparison of two models."""
    warnings = _warned(console, comparison.warnings, damaged=comparison.damaged)
    table = _plain("output", "kind", "relative error", "largest difference", "agreement", "KL")
    for output in comparison.divergence:
        table.add_row(
            escape(output.name),
            output.kind,
            f"{output.relative_error:.4f}{_interval(output.error_bound)}",
            f"{output.max_abs:.3g}",
            "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}{_percent(output.agreement_bound)}",
            "" if output.kl is None else f"{output.kl:.2e}",
        )
    console.print(table)
    rows: list[tuple[str, str]] = [
        ("MACs", f"not counted: {comparison.not_counted}" if comparison.macs is None else _change(comparison.macs)),
        *([] if comparison.params is None else [("parameters", _change(comparison.params))]),
        ("file", _bytes(comparison.file_bytes)),
    ]
    if comparison.ends:
        rows.append(("compared at", ", ".join(comparison.ends)))
    if comparison.accuracy is not None:
        before, after = comparison.accuracy
        rows.append(("top-1 accuracy", f"{before:.2f} % -> {after:.2f} % ({after - before:+.2f} points)"))
    if comparison.evaluation is not None:
        rows.append(_evaluation(comparison.evaluation))
    rows.append(("compared on", f"{comparison.samples} inputs"))
    if comparison.max_drop is not None:
        verdict = "within" if comparison.within else "OUTSIDE"
        sure = ", an estimate" if comparison.estimate else ""
        lost = f"{max(comparison.drop, 0.0):.3f} {comparison.drop_kind}"
        rows.append(("drop", f"{lost}: {verdict} --max-drop {comparison.max_drop:g}{sure}"))
    if comparison.timing is not None:
        rows.append(("latency", _latency(comparison.timing)))
    _warned(console, warnings)
    console.print(Panel(_pairs(rows), title="before -> after", title_align="left"))


def _warned(console: Console, warnings: tuple[str, ...], *, damaged: bool | None = None) -> tuple[str, ...]:
    """Print all warnings, or with ``damaged`` only the first one, if it is damage; return the warnings not printed."""
    shown = warnings if damaged is None else warnings[:damaged]
    for warning in shown:
        console.print(Panel(escape(warning), title="warning", style="bold red"))
    return warnings[len(shown) :]


def _title(report: Report) -> str:
    if report.dry_run:
        return f"plan for {escape(report.model)}"
    return f"{escape(report.model)}: before -> after{', DAMAGED: see the warning at the top' * report.damaged}"


def _reasons(rows: tuple[LayerRow, ...]) -> list[str]:
    """Return the different reasons, in order of first occurrence."""
    return list(dict.fromkeys(row.reason for row in rows if row.reason))


def _layers(rows: tuple[LayerRow, ...], reasons: dict[str, int], width: int | None) -> Table:
    table = _plain("layer", "shape", "MACs", "params", "error", "why")
    table.columns[1].justify = "left"
    for row in rows:
        table.add_row(
            escape(end_of(row.name, width)),
            row.shape,
            _arrow_short(row.macs),
            _arrow_short(row.params),
            "" if row.error is None else f"{row.error:.4f}",
            str(reasons.get(row.reason, "")),
        )
    return table


def end_of(name: str, width: int | None) -> str:
    """Cut a long name at the front: names of exporters differ at the end."""
    return name if width is None or len(name) <= width else "…" + name[1 - width :]


def _plain(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", overflow="fold", no_wrap=position > 0)
    return table


def _picture(report: Report) -> list[tuple[str, str]]:
    """Return the row of a smaller picture; none for the original size."""
    if report.picture is None:
        return []
    size = f"{report.picture[0]}x{report.picture[1]}"
    if report.fed_smaller:
        return [("picture", f"THE INPUT IS NOW {size}: resize photos to it (bilinear), all else as before")]
    return [("picture", f"{size} inside, by a Resize behind the input; the input keeps its size")]


def _summary(report: Report) -> RenderableType:
    rows = [
        ("asked for", report.budget),
        *_picture(report),
        ("MACs", _change(report.macs)),
        ("parameters", _change(report.params)),
    ]
    if report.file_bytes is not None:
        rows.append(("file", _bytes(report.file_bytes)))
    if report.timing is not None:
        rows.append(("latency", _latency(report.timing)))
    if report.evaluation is not None:
        rows.append(_evaluation(report.evaluation))
    held = report.data.get("held_back")
    if report.recovery is not None:
        rows += _recovery(report.recovery, held)
    rows += [(f"output {output.name}", _agreement(output, held)) for output in report.divergence]
    if report.data.get("source"):
        count = report.data.get("fit")
        rows.append(("calibrated on", f"{count} inputs of {report.data['source']}"))
    if report.output is not None:
        rows.append(("written to", report.output))
        engine = f"trtexec --onnx={report.output}"
        alike = _flags(report.data, report.options)
        compared = f"onnxprune compare {report.model} {report.output}{alike}   (or: {engine})"
        rows.append(("next", engine if report.fed_smaller else compared))  # compare feeds both models alike
    elif report.dry_run:
        changes = report.macs.after < report.macs.before
        rows.append(("next", "the same command without --dry-run" if changes else "nothing may be removed, see above"))
    return Group(_pairs(rows))


def _flags(data: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the options that feed another command like a run: data, preprocessing, and where the model ends.

    Args:
        data: description of the run's calibration.
        options: its options by group.
    """
    found: list[object] = []
    if data.get("kind") in _PLACES:
        found += ["--data", data["source"]]
    usual = asdict(DataOptions())
    given = {name: value for name, value in options.get("data", {}).items() if value != usual.get(name)}
    read = options.get("inputs", {})
    given |= {name: read[name] for name in ("until", "set_input") if read.get(name)}
    if libraries := options.get("engine", {}).get("ops_library"):
        given["ops_library"] = libraries
    for name, value in given.items():
        found.append(f"--{name.replace('_', '-')}")
        found += [] if value is True else value if isinstance(value, (list, tuple)) else [value]
    return "".join(f" {quote(format(one, 'g') if isinstance(one, float) else str(one))}" for one in found)


def show_recovery(console: Console, report: RecoveryReport, *, verbose: bool = False) -> None:
    """Print the report of a recovery."""
    warnings = _warned(console, report.warnings, damaged=report.damaged)
    width = None if verbose else _NAME_WIDTH
    for note in report.notes:
        console.print(f"[dim]note[/dim] {escape(end_of(note.subject, width))}: {escape(note.text)}", highlight=False)
    if verbose:
        table = _plain("epoch", "loss", "held-out", "agreement")
        for epoch in report.recovery.history:
            agreement = "" if epoch.agreement is None else f"{epoch.agreement:.2%}"
            table.add_row(str(epoch.epoch), f"{epoch.loss:.4f}", f"{epoch.held:.4f}", agreement)
        console.print(table)
    _warned(console, warnings)
    held = report.data.get("held_back")
    rows = _recovery(report.recovery, held)
    rows += [(f"output {output.name}", _agreement(output, held)) for output in report.recovery.after]
    if report.evaluation is not None:
        rows.append(_evaluation(report.evaluation))
    rows.append(("trained on", f"{report.data.get('fit')} inputs of {report.data.get('source')}"))
    if report.output is not None:
        rows.append(("written to", report.output))
        alike = _flags(report.data, report.reading)
        rows.append(("next", f"onnxprune compare {report.original} {report.output}{alike}"))
    title = f"{escape(report.candidate)}: recovered from {escape(report.original)}"
    console.print(Panel(_pairs(rows), title=title, title_align="left"))


def _recovery(recovery: Recovery, held: object) -> list[tuple[str, str]]:
    done, planned = recovery.epochs
    where = f"{recovery.threads} thread{'s' * (recovery.threads > 1)}" if recovery.device == "cpu" else recovery.device
    minutes = f"{recovery.seconds / 60:.1f} min" if recovery.seconds >= 90 else f"{recovery.seconds:.0f} s"
    kept = f"best epoch {recovery.best}" if recovery.best else "NOTHING BETTER THAN THE START, which was kept"
    rows = [
        ("recovery", f"{done} of {planned} epochs of {recovery.batch} inputs a step, {minutes} ({where}): {kept}"),
        ("held-out loss", f"{recovery.held[0]:.4f} -> {recovery.held[1]:.4f}"),
        ("augmentation", recovery.augmentation),
    ]
    return rows + [(f"before: {output.name}", _agreement(output, held)) for output in recovery.before]


def _evaluation(found: Evaluation) -> tuple[str, str]:
    start = "" if found.start is None else f", {found.start:.6g} before the training"
    return found.name, f"{found.before:.6g} -> {found.after:.6g} ({found.after - found.before:+.4g}){start}"


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    return table


def _agreement(output: OutputDivergence, held: object) -> str:
    parts = []
    if output.top1_agreement is not None:
        words = "agreement of positions" if output.kind == "pixels" else "top-1 agreement"
        parts.append(f"{words} {output.top1_agreement:.2%}{_percent(output.agreement_bound)}")
    if output.kl is not None:
        parts.append(f"KL {output.kl:.2e}")
    if output.top1_agreement is None or output.kl is not None:
        parts.append(f"relative error {output.relative_error:.4f}{_interval(output.error_bound)}")
    return f"{output.kind}: {', '.join(parts)} on {held} held-out inputs"


def _percent(bound: tuple[float, float] | None) -> str:
    return "" if bound is None else f" [{100 * bound[0]:.1f}, {100 * bound[1]:.1f}]"


def _interval(bound: tuple[float, float] | None) -> str:
    return "" if bound is None else f" [{bound[0]:.3f}, {bound[1]:.3f}]"


def _latency(timing: Timing) -> str:
    threads = "default threads" if timing.threads == 0 else f"{timing.threads} thread{'s' * (timing.threads > 1)}"
    verdict = ""
    if timing.ratio_high < 1:
        verdict = ": SLOWER than the original"
    elif timing.ratio_low <= 1:
        verdict = ": no certain difference"
    clock = ", speed-up by CPU time" if timing.clock == "cpu" else ""
    return (
        f"median {timing.before.median_ms:.3g} -> {timing.after.median_ms:.3g} ms, p90 {timing.before.p90_ms:.3g} -> "
        f"{timing.after.p90_ms:.3g} ms, {timing.ratio:.2f}x [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]{verdict} "
        f"({timing.provider}, batch {timing.batch}, {threads}{clock})"
    )


def _change(change: Change) -> str:
    return f"{_short(change.before)} -> {_short(change.after)} ({_times(change, 'fewer', 'more')})"


def _bytes(change: Change) -> str:
    before, after = (f"{size / 1e6:.2f} MB" for size in (change.before, change.after))
    return f"{before} -> {after} ({_times(change, 'smaller', 'larger')})"


def _times(change: Change, less: str, more: str) -> str:
    if f"{change.ratio:.2f}" == "1.00":
        return "as before"
    return f"{change.ratio:.2f}x {less}" if change.after <= change.before else f"{1 / change.ratio:.2f}x {more}"


def _arrow_short(change: Change) -> str:
    before, after = _short(change.before), _short(change.after)
    return before if change.before == change.after else f"{before} -> {after}"


def _short(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
