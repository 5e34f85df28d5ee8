"""What errors of each layer's outputs weigh: by the diagonal Fisher information of the original network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.runtime.frontier import Batch
from onnxprune.runtime.inputs import input_specs
from onnxprune.solve import Metric
from onnxprune.stages.damage import spread

if TYPE_CHECKING:
    from onnxprune.graph.sites import Site
    from onnxprune.solve import Regression, Solution
    from onnxprune.stages.checkpoint import Checkpoint
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["metrics_of", "output_weights", "unweighed", "weighed"]

_TEMPERATURE = 4.0
_INPUTS, _DRAWS = 400, 2
_BATCH = 16
_MEMORY_SHARE = 4
_NONE = np.zeros(0)  # no output of the network depends on the site


def output_weights(work: Workload, checkpoint: Checkpoint) -> dict[str, Array]:
    """Weights of every site's outputs, by site; needs torch.

    Args:
        work: the original and the inputs.
        checkpoint: where they are kept, and found.

    Raises:
        ModelError: torch cannot run the network.
    """
    found = _kept(work, checkpoint)
    if found is None:
        found = _fisher(work)
        checkpoint.save(
            "metric", {f"weights.{i}": found.get(name, _NONE) for i, name in enumerate(work.channels.sites)}
        )
    return found


def _kept(work: Workload, checkpoint: Checkpoint) -> dict[str, Array] | None:
    """What an earlier run kept; None if there is nothing usable for these sites."""
    arrays, tensors = checkpoint.load("metric"), work.net.tensors()
    if arrays is None or set(arrays) != {f"weights.{i}" for i in range(len(work.channels.sites))}:
        return None
    found = {}
    for i, (name, site) in enumerate(work.channels.sites.items()):
        weights = arrays[f"weights.{i}"]
        if len(weights):
            if weights.shape != (tensors[site.weight].shape[site.output_axis.axis],):
                return None
            found[name] = weights
    return found


def _fisher(work: Workload) -> dict[str, Array]:
    from onnxprune.recovery.curvature import channel_weights  # with torch, which not everybody has
    from onnxprune.recovery.device import device_beside, torch_threads
    from onnxprune.recovery.program import affordable

    sites = work.channels.sites
    chosen = spread(work.batches, _INPUTS)
    if all(spec.shape[0] is None for spec in input_specs(work.net)):
        samples = [sample for batch in chosen for sample in batch.samples[: batch.real]]
        size = min(affordable(work.net, work.calibration.load(samples[:1]), work.memory // _MEMORY_SHARE), _BATCH)
        chosen = tuple(
            Batch(tuple(samples[start : start + size]), len(samples[start : start + size]))
            for start in range(0, len(samples), size)
        )

    def feeds() -> Iterator[Mapping[str, Array]]:
        for number, batch in enumerate(chosen):
            work.progress("weigh outputs", number, len(chosen))
            yield work.calibration.load(batch.samples)
        work.progress("weigh outputs", len(chosen), len(chosen))

    with torch_threads(work.engine.options.threads):
        found = channel_weights(
            work.net,
            {site.response: site.channel_axis for site in sites.values()},
            feeds(),
            temperature=_TEMPERATURE,
            draws=_DRAWS,
            seed=work.positions.seed,
            device=device_beside(work.engine),
            outputs=work.outputs,
        )
    return {name: found[site.response] for name, site in sites.items() if site.response in found}


def metrics_of(work: Workload, site: Site, groups: int, alive: Mask | None = None) -> list[Metric] | None:
    """The metric of each group of a grouped conv, on the outputs that are left; None where all count alike."""
    weights = work.weights.get(site.name)
    if weights is None:
        return None
    if alive is not None:
        weights = weights[work.channels.alive_slots(site.output_axis, alive)]
    whole = Metric.from_weights(weights)  # not group by group: groups do not matter alike either
    return None if whole is None else [Metric(scale) for scale in whole.scale.reshape(groups, -1)]


def weighed(problems: Sequence[Regression], metrics: Sequence[Metric] | None) -> list[Regression]:
    """The regressions of a site in its metric."""
    return [m.problem(p) for m, p in zip(metrics, problems, strict=True)] if metrics else list(problems)


def unweighed(solutions: Sequence[Solution], metrics: Sequence[Metric] | None) -> list[Solution]:
    """What was found in a site's metric, for the site as it is."""
    return [m.solution(s) for m, s in zip(metrics, solutions, strict=True)] if metrics else list(solutions)
