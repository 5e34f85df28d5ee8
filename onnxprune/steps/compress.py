"""Compression in steps, in order of execution: fit, remove channels, write the weights, save a checkpoint.

The original and the network compressed so far each run through the calibration inputs on a frontier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from onnxprune.steps.chains import chain_arrays, merge_chain, read_chain
from onnxprune.steps.fit import Fitted, SiteOutcome, State, fit_step
from onnxprune.steps.room import Room

if TYPE_CHECKING:
    from onnxprune.graph.channels.branches import Branch
    from onnxprune.graph.channels.rules import Axis
    from onnxprune.graph.model.net import Net
    from onnxprune.options.solve import RefitOptions, SelectOptions
    from onnxprune.progress import Progress
    from onnxprune.steps.checkpoint import Checkpoint
    from onnxprune.steps.fit_order import Step
    from onnxprune.steps.workload import Workload

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Compressed", "Settle", "compress"]

Settle = Callable[[Mapping[str, Form]], Mapping[str, Form]]


@dataclass(frozen=True)
class Compressed:
    """Result of the compression.

    Attributes:
        net: the compressed network.
        dense: the compressed network with one node per layer: low-rank weights instead of V, H and P, and zero weights
            in removed residual branches.
        alive: (units,) bool, units left in `dense`.
        kept: channels kept per group name, (k,) int64 sorted.
        forms: form per decomposed site.
        outcomes: quality of the fit per site name.
    """

    net: Net
    dense: Net
    alive: Mask
    kept: Mapping[str, Indices]
    forms: Mapping[str, Form]
    outcomes: Mapping[str, SiteOutcome]


def compress(
    work: Workload,
    steps: Sequence[Step],
    keep: Mapping[str, int],
    kept: Mapping[str, Indices],
    forms: Mapping[str, Form],
    branches: Sequence[Branch],
    settle: Settle,
    select_options: SelectOptions,
    refit_options: RefitOptions,
    checkpoint: Checkpoint,
) -> Compressed:
    """Carry out a plan.

    Args:
        work: the original network and the inputs.
        steps: steps in order of execution, see `plan_steps`.
        keep: number of channels to keep, per group name.
        kept: channels to keep, for the groups that a plan file settles or that are selected before the first step.
        forms: forms of the sites to decompose.
        branches: residual branches to remove.
        settle: function from the fitted forms to the cheapest forms with equal outputs, by the channels left.
        select_options: options of the selection for the groups that are not in `kept`.
        refit_options: options of the refit.
        checkpoint: storage of finished steps.
    """
    gone = {branch.group: np.zeros(0, dtype=np.int64) for branch in branches}
    chosen = {name: indices for name, indices in kept.items() if name not in gone}
    # A residual branch to remove still runs, with zero output, so that all tensors exist.
    silent = with_weights(work.net, silence(work.net, work.channels, branches))
    net, alive = _without(work, silent, work.channels.all_alive(), _early(steps, chosen))
    outcomes: dict[str, SiteOutcome] = {}
    chains: dict[Site, tuple[Chain, Mask]] = {}
    with TensorStore(Room(work.memory).held, work.scratch) as store:
        frontiers = [
            Frontier(name, work.engine, work.order, work.calibration, work.batches, store)
            for name in ("original", "current")
        ]
        state = State(net, alive, *frontiers)
        for number, step in enumerate(steps):
            done = _restore(checkpoint.load(f"step-{number}"), step, forms)
            if done is None:
                later = {t.tensor for other in steps[number + 1 :] for t in other.targets}
                report = _share(work.progress, number, len(steps))
                done = fit_step(
                    replace(work, progress=report),
                    state,
                    step,
                    later,
                    keep,
                    chosen,
                    forms,
                    select_options,
                    refit_options,
                )
                checkpoint.save(f"step-{number}", _arrays(done))
            chosen.update(done.kept)
            outcomes.update(done.outcomes)
            state = _apply(work, state, step, done)
            chains.update({work.channels.sites[name]: (chain, state.alive) for name, chain in done.chains.items()})
    settled = _settled(work, chains, state.alive, settle)
    made = with_chains(state.net, settled) if settled else state.net
    made = without_branches(made, work.channels, branches) if branches else made
    found = {site.name: chain.form for site, chain in settled.items()}
    return Compressed(made, state.net, state.alive, {**chosen, **gone}, found, outcomes)


def _settled(
    work: Workload, chains: Mapping[Site, tuple[Chain, Mask]], alive: Mask, settle: Settle
) -> dict[Site, Chain]:
    """Restrict the chains to the outputs left, and merge neighbouring factors if that is cheaper."""
    wanted = settle({site.name: chain.form for site, (chain, _) in chains.items()})
    found = {}
    for site, (chain, before) in chains.items():
        if site.name not in wanted:
            continue
        kept = work.channels.kept_after(site.output_axis, before, alive)
        left = chain if kept is None else chain.outputs(kept)
        found[site] = merge_chain(site, left, wanted[site.name])
    return found


def _share(progress: Progress, number: int, steps: int) -> Progress:
    """Scale the progress of one step to its part of all steps."""

    def show(stage: str, done: int, total: int, detail: str = "", /) -> None:
        progress(stage, number * total + done, steps * total)

    return show


def _early(steps: Sequence[Step], kept: Mapping[str, Indices]) -> dict[str, Indices]:
    """Return the selected groups that belong to no step and are pruned before the first one."""
    waiting = {group.name for step in steps for group in step.groups}
    return {name: indices for name, indices in kept.items() if name not in waiting}


def _without(work: Workload, net: Net, alive: Mask, kept: Mapping[str, Indices]) -> tuple[Net, Mask]:
    """Remove all but the channels `kept` of the groups named in it; return the network and its units."""
    after = alive.copy()
    for group in work.channels.prunable:
        if group.name in kept:
            gone = np.ones(group.size, dtype=np.bool_)
            gone[kept[group.name]] = False
            after[group.units[gone]] = False
    return (net, alive) if (after == alive).all() else (remove(net, work.channels, alive, after), after)


def _apply(work: Workload, state: State, step: Step, done: Fitted) -> State:
    """Remove the channels, narrow the held activations, write the weights."""
    net, alive = _without(work, state.net, state.alive, done.kept)
    if alive is not state.alive:
        for axis in work.channels.labels:
            _narrow(work, state, axis, alive)
    sites = {name: work.channels.sites[name] for name in done.weights}
    net = with_weights(net, {sites[name]: fitted for name, fitted in done.weights.items()})
    return replace(state, net=net, alive=alive)


def _narrow(work: Workload, state: State, axis: Axis, alive: Mask) -> None:
    index = work.channels.kept_after(axis, state.alive, alive)
    if index is not None:
        state.current.narrow(axis.tensor, axis.axis, index)


def _arrays(done: Fitted) -> dict[str, Array]:
    """Convert the result of a step to plain arrays by name, for the checkpoint."""
    arrays: dict[str, Array] = {"names": np.array([*done.kept, "", *done.weights])}
    for position, indices in enumerate(done.kept.values()):
        arrays[f"kept.{position}"] = indices
    for position, name in enumerate(done.weights):
        arrays[f"weight.{position}"], arrays[f"bias.{position}"] = done.weights[name]
        outcome = done.outcomes[name]
        arrays[f"numbers.{position}"] = np.array(
            [outcome.error, outcome.held_error, outcome.samples, outcome.columns], dtype=np.float64
        )
        arrays[f"status.{position}"] = np.array(outcome.status)
        if name in done.chains:
            arrays.update({f"{field}.{position}": array for field, array in chain_arrays(done.chains[name]).items()})
    return arrays


def _restore(arrays: Mapping[str, Array] | None, step: Step, forms: Mapping[str, Form]) -> Fitted | None:
    """Restore the result of a step from the arrays of `_arrays`; None if they are missing or of another step."""
    try:
        return None if arrays is None else _read(arrays, step, forms)
    except (KeyError, ValueError, TypeError):
        return None


def _read(arrays: Mapping[str, Array], step: Step, forms: Mapping[str, Form]) -> Fitted:
    names = [*(group.name for group in step.groups), "", *(target.site.name for target in step.targets)]
    if arrays["names"].tolist() != names:
        raise ValueError("a step of other layers")
    kept = {group.name: arrays[f"kept.{position}"] for position, group in enumerate(step.groups)}
    weights, outcomes, chains = {}, {}, {}
    for position, target in enumerate(step.targets):
        name = target.site.name
        weights[name] = arrays[f"weight.{position}"], arrays[f"bias.{position}"]
        error, held, samples, columns = arrays[f"numbers.{position}"].tolist()
        outcomes[name] = SiteOutcome(error, held, int(samples), int(columns), str(arrays[f"status.{position}"]))
        if name in forms:
            chains[name] = read_chain(arrays, position)
    return Fitted(kept, weights, outcomes, chains)
