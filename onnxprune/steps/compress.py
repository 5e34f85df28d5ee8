"""Compression in steps, in order of execution: fit, remove channels, write the weights, save a checkpoint.

The original and the network compressed so far each run through the calibration inputs on a frontier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.frontier import Frontier
from onnxprune.engine.store import TensorStore
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.channels.sites import Site
from onnxprune.graph.edit.decompose import Chain, with_chains
from onnxprune.graph.edit.drop import silence, without_branches
from onnxprune.graph.edit.remove import remove
from onnxprune.graph.edit.weights import with_weights
from onnxprune.steps.factorise import merge_factors
from onnxprune.steps.fit import Fitted, SiteOutcome, fit_step
from onnxprune.steps.fit_order import fit_order
from onnxprune.steps.sample import State

if TYPE_CHECKING:
    from onnxprune.cache import Checkpoint, Saved
    from onnxprune.graph.channels.rules import Axis
    from onnxprune.graph.model.net import Net
    from onnxprune.planning import Assignment
    from onnxprune.progress import Progress
    from onnxprune.steps.fit_order import FitStep
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Compressed", "compress"]


@dataclass(frozen=True)
class Compressed:
    """Result of the compression.

    Attributes:
        net: the compressed network.
        dense: the compressed network with one node per layer: low-rank weights instead of V, H and P, and zero weights
            in removed residual branches.
        alive: (units,) bool, units left in `dense`.
        assignment: the chosen channels of every group, and the form of every decomposed layer.
        outcomes: quality of the fit per site name.
    """

    net: Net
    dense: Net
    alive: Mask
    assignment: Assignment
    outcomes: Mapping[str, SiteOutcome]


def compress(run: Prepared, assignment: Assignment) -> Compressed:
    """Carry out an assignment.

    Args:
        run: the prepared run.
        assignment: assignment to carry out; channels are selected for a group that has only a number.
    """
    steps, checkpoint = fit_order(run, assignment), _checkpoint(run, assignment)
    branches = [run.cost.branches[name] for name in assignment.removed]
    # A residual branch to remove still runs, with zero output, so that all tensors exist.
    silent = with_weights(run.net, silence(run.net, run.channels, branches))
    net, alive = _without(run, silent, run.channels.all_alive(), _early(steps, assignment))
    outcomes: dict[str, SiteOutcome] = {}
    chains: dict[Site, tuple[Chain, Mask]] = {}
    with TensorStore(run.room.held, run.scratch) as store:
        frontiers = [
            Frontier(name, run.engine, run.order, run.inputs.calibration, run.batches, store)
            for name in ("original", "current")
        ]
        state = State(net, alive, *frontiers)
        for number, step in enumerate(steps):
            done = _restore(checkpoint.load(f"step-{number}"), step, assignment)
            if done is None:
                later = {t.tensor for other in steps[number + 1 :] for t in other.targets}
                part = replace(run, progress=_share(run.progress, number, len(steps)))
                done = fit_step(part, state, step, later, assignment)
                checkpoint.save(f"step-{number}", *_saved(done))
            assignment = assignment.selecting(done.kept)
            outcomes.update(done.outcomes)
            state = _apply(run, state, step, done)
            chains.update({run.channels.sites[name]: (chain, state.alive) for name, chain in done.chains.items()})
    merged = _merged(run, chains, state.alive, assignment)
    made = with_chains(state.net, merged) if merged else state.net
    made = without_branches(made, run.channels, branches) if branches else made
    found = replace(assignment, forms={site.name: chain.form for site, chain in merged.items()})
    return Compressed(made, state.net, state.alive, found, outcomes)


def _checkpoint(run: Prepared, assignment: Assignment) -> Checkpoint:
    options = run.options
    rows = options.memory_bytes if options.refit.refit == "auto" else None  # memory limits the raw samples held
    wanted = sorted(assignment.channels.items()), sorted(assignment.forms.items())
    depends = options.exclude, sorted(run.network.forbidden), rows, *wanted
    return run.cache.checkpoint("compress", options.select, options.refit, *depends)


def _merged(
    run: Prepared, chains: Mapping[Site, tuple[Chain, Mask]], alive: Mask, assignment: Assignment
) -> dict[Site, Chain]:
    """Restrict the chains to the outputs left, and merge neighbouring factors if that is cheaper."""
    forms = {site.name: chain.form for site, (chain, _) in chains.items()}
    wanted = run.cost.simplified(replace(assignment, forms=forms), run.options.budget.unit).forms
    found = {}
    for site, (chain, before) in chains.items():
        if site.name not in wanted:
            continue
        kept = run.channels.kept_after(site.output_axis, before, alive)
        left = chain if kept is None else chain.outputs(kept)
        found[site] = merge_factors(site, left, wanted[site.name])
    return found


def _share(progress: Progress, number: int, steps: int) -> Progress:
    """Scale the progress of one step to its part of all steps."""

    def show(stage: str, done: int, total: int, detail: str = "", /) -> None:
        progress(stage, number * total + done, steps * total)

    return show


def _early(steps: Sequence[FitStep], assignment: Assignment) -> dict[str, Indices]:
    """Return the selected groups that belong to no step and are pruned before the first one."""
    waiting = {group.name for step in steps for group in step.groups} | assignment.removed
    return {name: indices for name, indices in assignment.selected.items() if name not in waiting}


def _without(run: Prepared, net: Net, alive: Mask, kept: Mapping[str, Indices]) -> tuple[Net, Mask]:
    """Remove all but the channels `kept` of the groups named in it; return the network and its units."""
    after = alive.copy()
    for group in run.channels.prunable:
        if group.name in kept:
            gone = np.ones(group.size, dtype=np.bool_)
            gone[kept[group.name]] = False
            after[group.units[gone]] = False
    return (net, alive) if (after == alive).all() else (remove(net, run.channels, alive, after), after)


def _apply(run: Prepared, state: State, step: FitStep, done: Fitted) -> State:
    """Remove the channels, narrow the held activations, write the weights."""
    net, alive = _without(run, state.net, state.alive, done.kept)
    if alive is not state.alive:
        for axis in run.channels.labels:
            _narrow(run, state, axis, alive)
    sites = {name: run.channels.sites[name] for name in done.weights}
    net = with_weights(net, {sites[name]: fitted for name, fitted in done.weights.items()})
    return replace(state, net=net, alive=alive)


def _narrow(run: Prepared, state: State, axis: Axis, alive: Mask) -> None:
    index = run.channels.kept_after(axis, state.alive, alive)
    if index is not None:
        state.current.narrow(axis.tensor, axis.axis, index)


def _saved(done: Fitted) -> tuple[dict[str, Array], dict[str, object]]:
    """Convert the result of a step to plain arrays and facts, for the checkpoint."""
    arrays: dict[str, Array] = {f"kept.{position}": indices for position, indices in enumerate(done.kept.values())}
    for position, (name, (weight, bias)) in enumerate(done.weights.items()):
        arrays |= {f"weight.{position}": weight, f"bias.{position}": bias}
        if name in done.chains:
            chain = done.chains[name]
            factors = {"first": chain.first, "second": chain.second, "last": chain.last}
            arrays |= {f"{part}.{position}": factor for part, factor in factors.items() if factor is not None}
    return arrays, {
        "groups": list(done.kept),
        "sites": list(done.weights),
        "outcomes": [asdict(done.outcomes[name]) for name in done.weights],
        "forms": {name: chain.form.parts for name, chain in done.chains.items()},
    }


def _restore(saved: Saved | None, step: FitStep, assignment: Assignment) -> Fitted | None:
    """Restore the result of a step from the value of `_saved`; None if it is missing or of another step."""
    try:
        return None if saved is None else _read(saved, step, assignment)
    except (KeyError, ValueError, TypeError):
        return None


def _read(saved: Saved, step: FitStep, assignment: Assignment) -> Fitted:
    arrays, facts = saved.arrays, saved.facts
    groups, sites = [group.name for group in step.groups], [site.name for site in step.sites]
    if facts["groups"] != groups or facts["sites"] != sites:
        raise ValueError("a step of other layers")
    kept = {name: arrays[f"kept.{position}"] for position, name in enumerate(groups)}
    weights, chains = {}, {}
    for position, name in enumerate(sites):
        weights[name] = arrays[f"weight.{position}"], arrays[f"bias.{position}"]
        if name in assignment.forms:
            form = Form.from_parts(np.array(facts["forms"][name]))
            first, last = (arrays.get(f"{part}.{position}") for part in ("first", "last"))
            chains[name] = Chain(form, first, arrays[f"second.{position}"], last)
    outcomes = {name: SiteOutcome(**outcome) for name, outcome in zip(sites, facts["outcomes"], strict=True)}
    return Fitted(kept, weights, outcomes, chains)
