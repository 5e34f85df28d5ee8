"""Study of single layers: error of the layer and divergence of the network's outputs, by method and speed-up.

The published single-layer study (He et al. 2017, figure 4; Zhang et al. 2016): one layer is made cheaper by a factor,
by every method, and all other layers are kept unchanged; the error of the layer's output and the divergence of the
network's outputs on held-out inputs are measured. Pruning removes input channels of the layer; the MACs that their
producers save are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from onnxprune.commands.record import plain
from onnxprune.engine.batching import group_batches
from onnxprune.engine.divergence import OutputDivergence
from onnxprune.engine.frontier import Frontier
from onnxprune.engine.store import TensorStore
from onnxprune.errors import UsageError
from onnxprune.graph.channels.forms import DENSE, Form, LayerShape
from onnxprune.graph.model.patterns import meant, meant_by
from onnxprune.options.solve import RefitOptions, SelectOptions, Selector
from onnxprune.planning.assignment import Assignment
from onnxprune.progress import Progress, silent
from onnxprune.solve import kept_columns, refit, select
from onnxprune.steps.eligible import eligible_sites
from onnxprune.steps.factorise import factorise
from onnxprune.steps.fit_order import fit_order
from onnxprune.steps.prepare import prepare
from onnxprune.steps.sample import Sampled, State, regressions_of, sample_step
from onnxprune.steps.sensitivity import Damage, spread

if TYPE_CHECKING:
    import os

    import onnx

    from onnxprune.data import CalibrationSource
    from onnxprune.graph.channels.sites import Site
    from onnxprune.options.run import Options
    from onnxprune.solve import Regression, Solution
    from onnxprune.steps.fit_order import Target
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]

__all__ = ["Point", "Study", "run_study"]

SCHEMA = 1
_MOST_HELD = 256  # inputs that a layer's damage is measured on
_LINEAR, _NONE, _AWARE = (RefitOptions(refit=kind) for kind in ("linear", "none", "auto"))
_PLAIN_BASIS = RefitOptions(refit="linear", basis="plain")


@dataclass(frozen=True)
class Point:
    """Measurement of one layer, method and size.

    Attributes:
        site: name of the layer.
        method: method, a key of `METHODS`: ``prune obs``, ``spatial``, ``channel``, ``spatial + channel`` ...
        asked: target speed-up; the largest one if several give this size.
        size: size of the compressed layer, in words.
        speedup: MACs of the layer before divided by after.
        error: relative squared error of the layer's output, before the activation.
        behind: relative squared error after the activation, on the raw samples; None if the activation is not piecewise
            linear.
        divergence: difference of the network's outputs on held-out inputs.
    """

    site: str
    method: str
    asked: float
    size: str
    speedup: float
    error: float
    behind: float | None
    divergence: tuple[OutputDivergence, ...]


@dataclass(frozen=True)
class Study:
    """Points of all layers and methods; ``data`` describes the inputs."""

    model: str
    points: tuple[Point, ...]
    data: dict[str, object]

    def to_dict(self) -> dict[str, Any]:
        """Return the study as JSON-able values; NaN and infinity become None."""
        return plain({"schema": SCHEMA, **asdict(self)})


@dataclass(frozen=True)
class _Layer:
    """Layer under study; `inputs` is per group of a grouped conv, `outputs` the total."""

    target: Target
    shape: LayerShape
    inputs: int
    outputs: int
    problems: Sequence[Regression]
    sampled: Sampled

    @property
    def site(self) -> Site:
        return self.target.site

    def macs(self, form: Form = DENSE, inputs: int | None = None) -> float:
        return float(self.shape.cost(form, self.inputs if inputs is None else inputs, self.outputs, "macs"))


Made = tuple[str, float, list["Solution"]]
"""Compressed layer: its size in words, its MACs, and a solution for each group of a grouped conv."""


def run_study(
    source: onnx.ModelProto | bytes | str | os.PathLike[str],
    data: CalibrationSource | None,
    sites: Sequence[str],
    options: Options,
    speedups: Sequence[float] = (1.5, 2.0, 3.0, 4.0, 5.0),
    progress: Progress = silent,
) -> Study:
    """Study layers one at a time.

    Args:
        source: the model: path, bytes or ModelProto.
        data: calibration inputs, see `open_calibration`.
        sites: node names or globs of the layers.
        options: options of sampling, data and engine; budget and recipe are not used.
        speedups: target ratios of the layer's MACs, each above 1; the largest size that reaches one is studied.
        progress: callback (stage, done, total).

    Raises:
        UsageError: a speed-up or a pattern cannot be used, or no layer can be made as much cheaper.
        OnnxPruneError: the model or the inputs cannot be used.
    """
    if not speedups or not all(math.isfinite(speedup) and speedup > 1 for speedup in speedups):
        raise UsageError(f"--speedups must all be above 1, found {', '.join(map(str, speedups)) or 'none'}")
    points: list[Point] = []
    with prepare(source, data, options, progress) as run:
        names, cost, inputs = _chosen(run, sites), run.cost, run.inputs
        held = group_batches(inputs.held, inputs.specs, len(run.batches[0].samples))
        total = len(names) * len(METHODS) * len(speedups)
        with Damage(run, spread(held, _MOST_HELD)) as damage:
            for target, sampled in _sampled(run, names):
                shape = cost.layers[target.site.name].shape
                if shape is None:
                    raise AssertionError(f"{target.site.name} has no shape")
                problems = regressions_of(run.net, target.site, sampled.moments)
                layer = _Layer(target, shape, *cost.channels(target.site.name), problems, sampled)
                for method, make in METHODS.items():
                    for asked, made in _distinct((one, make(layer, one, options)) for one in sorted(speedups)):
                        progress("study", len(points), total)
                        points.append(_point(layer, method, asked, made, damage))
        progress("study", total, total)
    if not points:
        raise UsageError(f"--speedups: no layer of {', '.join(sites)} can be made {min(speedups):g} times cheaper")
    return Study(run.network.parts.label, tuple(points), {**inputs.calibration.description, **inputs.parts.counts})


def _chosen(run: Prepared, patterns: Sequence[str]) -> list[str]:
    eligible = eligible_sites(run.net, run.channels, run.network.forbidden, (), ())
    names = [site.name for site in eligible]
    for pattern in patterns:
        if not meant_by(pattern, names):
            some = ", ".join(repr(name) for name in names[:3])
            raise UsageError(f"--site {pattern!r} matches no layer that can be studied; layers here are {some} ...")
    chosen = meant(patterns, names)
    return [name for name in names if name in chosen]


def _sampled(run: Prepared, names: Sequence[str]) -> Iterator[tuple[Target, Sampled]]:
    """Yield the moments and samples of each layer on the original network."""
    kept = replace(run, options=replace(run.options, refit=replace(run.options.refit, downstream=False)))
    steps = fit_order(kept, Assignment(forms=dict.fromkeys(names, DENSE)))
    with TensorStore(run.room.held, run.scratch) as store:
        frontiers = [
            Frontier(name, run.engine, run.order, run.inputs.calibration, run.batches, store)
            for name in ("original", "current")
        ]
        state = State(run.net, run.channels.all_alive(), *frontiers)
        for number, step in enumerate(steps):
            later = {target.tensor for other in steps[number + 1 :] for target in other.targets}
            sampled = sample_step(run, state, step, later, _AWARE)
            for target in step.targets:
                yield target, sampled[target.site.name]


def _distinct(made: Iterable[tuple[float, Made | None]]) -> list[tuple[float, Made]]:
    """Drop the speed-ups that cannot be made, and all but the last of those that give one size."""
    return list({one[0]: (asked, one) for asked, one in made if one is not None}.values())


def _point(layer: _Layer, method: str, asked: float, made: Made, damage: Damage) -> Point:
    size, macs, solutions = made
    parts = list(zip(layer.problems, solutions, strict=True))
    power = sum(float(problem.moments.total.power.sum()) for problem, _ in parts) or 1.0
    error = sum(problem.moments.total.error(s.weight, s.bias) for problem, s in parts) / power
    weights = np.stack([s.weight for s in solutions]), np.concatenate([s.bias for s in solutions])
    behind = _behind(layer, solutions)
    speedup, divergence = layer.macs() / macs, damage.divergence({layer.site: weights})
    return Point(layer.site.name, method, asked, size, speedup, error, behind, divergence)


def _behind(layer: _Layer, solutions: Sequence[Solution]) -> float | None:
    """Compute the relative squared error after the activation, over the samples of all groups of a grouped conv."""
    if layer.sampled.samples is None:
        return None
    apart = power = 0.0
    for rows, solution in zip(layer.sampled.samples, solutions, strict=True):
        target = rows.activation(rows.y)
        answer = rows.x @ solution.weight.T.astype(np.float32) + solution.bias.astype(np.float32)
        answer = rows.activation(answer if rows.offset is None else answer + rows.offset)
        apart += float(np.square(answer - target).sum(dtype=np.float64))
        power += float(target.var(axis=0, dtype=np.float64).sum()) * len(target)
    return apart / (power or 1.0)


def _pruned(selector: Selector) -> Callable[[_Layer, float, Options], Made | None]:
    """Make the method that removes input channels by a selector and refits the remaining weights."""

    def make(layer: _Layer, speedup: float, options: Options) -> Made | None:
        keep = int(layer.inputs / speedup)
        if keep < 1 or len(layer.problems) > 1:
            return None
        problem = layer.problems[0]
        chosen = SelectOptions(selector=selector)
        columns = kept_columns(problem, select([problem], layer.inputs, keep, chosen).kept)
        solution = refit(problem, columns, _LINEAR)
        weight = np.zeros_like(problem.weight)
        weight[:, columns] = solution.weight
        return f"{keep} of {layer.inputs} inputs", layer.macs(inputs=keep), [replace(solution, weight=weight)]

    return make


def _formed(
    options_of_fit: RefitOptions, *, spatial: bool, channel: bool
) -> Callable[[_Layer, float, Options], Made | None]:
    """Make the method that takes the largest form reaching a speed-up; with both parts, rank and width are equal."""

    def make(layer: _Layer, speedup: float, options: Options) -> Made | None:
        limit = layer.macs() / speedup
        axes = layer.shape.axes()
        if spatial and not axes:
            return None
        own = layer.outputs // layer.shape.groups
        forms = [
            Form(size if spatial else None, axis, size if channel else None)
            for axis in (axes if spatial else (0,))
            for size in range(1, (own if channel else 4 * max(own, layer.inputs)) + 1)
        ]
        fitting = [form for form in forms if layer.macs(form) <= limit]
        if not fitting:
            return None
        samples = layer.sampled.samples
        if options_of_fit.refit == "auto" and samples is None:
            return None
        most = max((form.spatial or form.channel or 0) for form in fitting)
        best: Made | None = None
        for form in (form for form in fitting if (form.spatial or form.channel) == most):
            columns = np.arange(layer.problems[0].weight.shape[1], dtype=np.int64)
            solutions, chain = factorise(layer.site, layer.problems, columns, form, options_of_fit, samples)
            if best is None or sum(s.error for s in solutions) < sum(s.error for s in best[2]):
                best = (_words(chain.form), layer.macs(chain.form), solutions)
        return best

    return make


def _words(form: Form) -> str:
    parts = []
    if form.spatial is not None:
        parts.append(f"{'V' if form.first == 0 else 'H'} {form.spatial}")
    if form.channel is not None:
        parts.append(f"P {form.channel}")
    return ", ".join(parts)


METHODS: Mapping[str, Callable[[_Layer, float, Options], Made | None]] = {
    **{f"prune {selector}": _pruned(selector) for selector in get_args(Selector)},
    "spatial, plain SVD, not fitted": _formed(_NONE, spatial=True, channel=False),
    "spatial, plain SVD": _formed(_PLAIN_BASIS, spatial=True, channel=False),
    "spatial": _formed(_LINEAR, spatial=True, channel=False),
    "spatial, behind the activation": _formed(_AWARE, spatial=True, channel=False),
    "channel, plain SVD, not fitted": _formed(_NONE, spatial=False, channel=True),
    "channel": _formed(_LINEAR, spatial=False, channel=True),
    "channel, behind the activation": _formed(_AWARE, spatial=False, channel=True),
    "spatial + channel": _formed(_LINEAR, spatial=True, channel=True),
    "spatial + channel, behind the activation": _formed(_AWARE, spatial=True, channel=True),
}
"""Methods by name: functions of a layer, a speed-up and options that return the compressed layer, or None."""
