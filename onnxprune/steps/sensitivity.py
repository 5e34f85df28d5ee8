"""Trials: the sensitivity of the network's outputs to errors of each layer, measured on the original.

Relative errors of layers are not comparable: the outputs may depend on a few directions of one layer, and hardly on
another. So one compression of each group, and one form of each kind of each site, is fitted to one half of the
samples and put into the original network, alone. The sensitivity is the damage at the outputs, on inputs of the other
half, divided by the layer's held-out error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnxprune.engine.divergence import DivergenceMeter, mean_distance
from onnxprune.engine.frontier import Batch, Frontier
from onnxprune.engine.store import TensorStore
from onnxprune.graph.channels.forms import Kind
from onnxprune.graph.edit.weights import with_weights
from onnxprune.options.solve import RefitOptions
from onnxprune.solve import kept_columns, refit
from onnxprune.steps.factorise import factorise

if TYPE_CHECKING:
    from onnxprune.engine.divergence import OutputDivergence
    from onnxprune.graph.channels.groups import ChannelGroup
    from onnxprune.graph.channels.sites import Site
    from onnxprune.planning.candidates import Candidates
    from onnxprune.solve import Regression, Solution
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]

__all__ = ["Damage", "Trials", "fit_of", "ratio", "spread", "stacked"]

_MEMORY_SHARE = 8
_PASSES = 2.0  # passes over the calibration inputs, for all trials together
_LEAST, _MOST = 32, 256  # inputs of one trial
_RIDGES, _RIDGE_SHARE = (1e-4, 1.0), 0.1


class Damage:
    """Measurement of the outputs with replaced weights, against one run of the original.

    The nodes in front of the replaced weights run once for all measurements, if these come in order of execution; a
    context manager, which deletes the tensors held in between.
    """

    def __init__(self, run: Prepared, batches: Sequence[Batch]) -> None:
        """Run the original on `batches`: at least the first, and as many as fit in an eighth of the memory."""
        self._run = run
        session = run.engine.for_pieces().session(run.net.to_model(), label="the original")
        self._wanted: list[tuple[Batch, dict[str, Array]]] = []
        left = run.options.memory_bytes // _MEMORY_SHARE
        for batch in batches:
            feeds = run.inputs.calibration.load(batch.samples)
            wanted = session.run(feeds)
            self._wanted.append((batch, wanted))
            left -= sum(array.nbytes for array in (*feeds.values(), *wanted.values()))
            if left < 0:
                break
        self._outputs = tuple(name for name in run.net.output_names if name in run.order.made)  # others are constants
        self._room = max(left, 0)
        self._store = TensorStore(self._room, run.scratch)
        self._frontier = self._at_inputs()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.__exit__(None, None, None)

    def _at_inputs(self) -> Frontier:
        run, batches = self._run, [batch for batch, _ in self._wanted]
        return Frontier("trial", run.engine, run.order, run.inputs.calibration, batches, self._store)

    def divergence(self, weights: Mapping[Site, tuple[Array, Array]]) -> tuple[OutputDivergence, ...]:
        """Return the difference of every output with these weights and biases in place of the sites' own."""
        run = self._run
        cut = min(run.order.index(use.name) for site in weights for use in site.uses)
        if cut < self._frontier.cut:
            self.__exit__()
            self._store = TensorStore(self._room, run.scratch)
            self._frontier = self._at_inputs()
        with self._frontier.moving(run.net, cut, later=self._outputs) as advance:
            for number in range(len(self._wanted)):
                advance(number)
        rest = self._frontier.rest(with_weights(run.net, weights), self._outputs)
        meter = DivergenceMeter(run.inputs.outputs)
        for number, (batch, wanted) in enumerate(self._wanted):
            meter.add(wanted, {**wanted, **rest(number)}, batch.real, len(batch.samples))
        return meter.finish()

    def of(self, weights: Mapping[Site, tuple[Array, Array]]) -> float:
        """Return the mean distance of the outputs from the original's: 0 if equal, about 1 for constant outputs."""
        return mean_distance(self.divergence(weights))


def spread(batches: Sequence[Batch], count: int, *, fixed: bool = True) -> tuple[Batch, ...]:
    """Choose samples evenly spread over some batches, and return them in batches.

    Args:
        batches: all samples, in batches of one size.
        count: number of samples to choose; rounded down to full batches if `fixed`.
        fixed: return full batches only.
    """
    samples = [sample for batch in batches for sample in batch.samples[: batch.real]]
    size = len(batches[0].samples)
    wanted = min(max(count // size, 1), len(samples) // size) * size if fixed else min(max(count, 1), len(samples))
    if not wanted:
        return (batches[0],)
    chosen = [samples[index] for index in np.linspace(0, len(samples) - 1, wanted).astype(int)]
    parts = [tuple(chosen[start : start + size]) for start in range(0, wanted, size)]
    return tuple(Batch(part, len(part)) for part in parts)


class Trials:
    """Measurement of sensitivities: damage at the outputs divided by the relative error of a layer.

    A context manager; quickest if the trials come in order of execution.
    """

    def __init__(self, run: Prepared, trials: int) -> None:
        """Choose the inputs of each trial, 32..256: the fewer, the more `trials` there are."""
        self._run = run
        total = sum(batch.real for batch in run.batches)
        count = int(np.clip(_PASSES * total / max(trials, 1), _LEAST, _MOST))
        judged = run.batches_of(1) or run.batches
        self._damage = Damage(run, spread(judged, count, fixed=run.fixed))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._damage.__exit__()

    def group(
        self, group: ChannelGroup, order: Array, curve: Array, problems: Mapping[str, Sequence[Regression]]
    ) -> float:
        """Remove half of a group's channels, and return the sensitivity.

        Args:
            group: the group.
            order: (size,) channels, first removed first, as found on the first half of the samples.
            curve: (size + 1,) held-out errors by number of removed channels.
            problems: regressions of each consumer; units are the group's channels.

        Returns:
            Damage divided by error; NaN without an error.
        """
        gone = group.size // 2
        kept = np.sort(order[gone:])
        weights = {}
        for name, regressions in problems.items():
            found = []
            for problem in (regression.half(0) for regression in regressions):
                columns = kept_columns(problem, kept)
                solution = refit(problem, columns, fit_of(problem, len(columns)))
                whole = np.zeros_like(problem.weight)
                whole[:, columns] = solution.weight
                found.append(replace(solution, weight=whole))
            site = self._run.channels.sites[name]
            weights[site] = stacked(found)
        return ratio(self._damage.of(weights), float(curve[gone]))

    def site(self, name: str, candidates: Candidates, problems: Sequence[Regression]) -> dict[Kind, float]:
        """Try the middle one of a site's forms of each kind, and return the sensitivities.

        Args:
            name: the site.
            candidates: forms of the site and their errors.
            problems: regressions of the site; units are input channels.

        Returns:
            Damage divided by error, per kind; NaN without an error.
        """
        site = self._run.channels.sites[name]
        columns = np.arange(problems[0].weight.shape[1], dtype=np.int64)
        problems = [problem.half(0) for problem in problems]
        fit = fit_of(problems[0], len(columns))
        found = {}
        for kind, places in candidates.kinds().items():
            place = int(places[len(places) // 2])
            solutions, _ = factorise(site, problems, columns, candidates.form(place), fit, None)
            found[kind] = ratio(self._damage.of({site: stacked(solutions)}), float(candidates.error[place]))
        return found


def fit_of(problem: Regression, columns: int) -> RefitOptions:
    """Return the options of the fit of a trial: a linear refit whose ridge grows with unknowns per row of one half."""
    share = columns / max(problem.moments.even.count, 1)
    return RefitOptions(refit="linear", strengths=(float(np.clip(_RIDGE_SHARE * share, *_RIDGES)),))


def stacked(parts: Sequence[Solution]) -> tuple[Array, Array]:
    """Stack the weights and biases of a site's groups."""
    return np.stack([part.weight for part in parts]), np.concatenate([part.bias for part in parts])


def ratio(damage: float, error: float) -> float:
    """Return damage divided by error; NaN if the error is not positive or the damage not finite."""
    return damage / error if error > 0 and np.isfinite(damage) else float("nan")
