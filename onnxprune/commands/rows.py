"""Rows of the table of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.commands.record import Change, LayerRow
from onnxprune.graph.channels.forms import DENSE, describe
from onnxprune.planning.assignment import Assignment
from onnxprune.steps.prepare import Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.steps.fit import SiteOutcome

__all__ = ["layer_rows"]


def layer_rows(run: Prepared, assignment: Assignment, fits: Mapping[str, SiteOutcome]) -> tuple[LayerRow, ...]:
    """Make one row for each layer with weights, in topological order.

    Args:
        run: the prepared run.
        assignment: assignment that was carried out, or planned.
        fits: quality of the fit of each fitted site, by name.
    """
    channels, cost = run.channels, run.cost
    macs = run.before.layer_macs(), cost.layer_macs(assignment)
    params = cost.layer_params(), cost.layer_params(assignment)
    left = {name: (cost.layer_axes(name), cost.layer_axes(name, assignment)) for name in macs[0]}
    gone = {name for group in assignment.removed for name in cost.branches[group].nodes}
    reasons = {**_reasons(run, assignment), **dict.fromkeys(gone, "its residual branch is removed")}
    rows = []
    for node in run.net.nodes:
        if node.name not in macs[0]:
            continue
        site = channels.uses.get(node.name)
        before, after = left[node.name]
        outputs = site.output_axis.axis if site else 0
        inputs = site.input_axis.axis if site else 1
        # A depthwise conv has as many groups as channels: its inputs are its groups.
        groups = (site.groups, site.groups) if site else (1, 1)
        if site and site.groups > 1 and before[inputs] == 1:
            groups = (site.groups, site.groups * after[outputs] // before[outputs])
        owner = channels.owner.get(node.name, node.name)
        outcome = fits.get(owner)
        form = assignment.forms.get(node.name, DENSE)
        remarks = [reasons.get(node.name, "") if form.dense else ""]
        if owner != node.name:
            remarks.append(f"it has the weights of '{owner}'")
        elif outcome is not None and outcome.status != "ok":
            remarks.append(outcome.status)
        rows.append(
            LayerRow(
                name=node.name,
                op=str(node.op),
                inputs=Change(before[inputs] * groups[0], after[inputs] * groups[1]),
                outputs=Change(before[outputs], after[outputs]),
                macs=Change(macs[0][node.name], macs[1][node.name]),
                params=Change(params[0][node.name], params[1][node.name]),
                error=outcome.error if outcome else None,
                held_error=outcome.held_error if outcome else None,
                shape=describe(_outputs_first(before, outputs), _outputs_first(after, outputs), form, groups[1]),
                reason="; ".join(remark for remark in remarks if remark),
            )
        )
    return tuple(rows)


def _outputs_first(axes: Sequence[int], outputs: int) -> tuple[int, ...]:
    return (axes[outputs], *(size for axis, size in enumerate(axes) if axis != outputs))


def _reasons(run: Prepared, assignment: Assignment) -> dict[str, str]:
    """Return per layer the reason why no output channel is removed; layers that lose channels are left out."""
    counts, skipped = assignment.counts, run.eligible.skipped
    reasons = dict(run.channels.fixed)
    lose: set[str] = set()
    for group in run.channels.groups:
        if group.pins:
            text = group.pins[0]
        elif group.name in skipped:
            text = skipped[group.name]
        elif counts.get(group.name, group.size) == group.size:
            text = "the plan keeps them all"
        else:
            lose.update(group.producers)
            continue
        for name in group.producers:
            reasons.setdefault(name, text)
    return {name: text for name, text in reasons.items() if name not in lose}
