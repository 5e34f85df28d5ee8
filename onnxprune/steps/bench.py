"""Latency of a network of planned sizes, before any weight is fitted: times do not depend on weights."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import group_batches
from onnxprune.engine.timing import interleaved
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit.decompose import Chain, with_chains
from onnxprune.graph.edit.drop import without_branches
from onnxprune.graph.edit.remove import alive_without, remove

if TYPE_CHECKING:
    from onnxprune.engine.sessions import Engine
    from onnxprune.engine.timing import Timing
    from onnxprune.graph.model.net import Net
    from onnxprune.options.run import Options
    from onnxprune.planning.cost import CostModel
    from onnxprune.steps.workload import Inputs, Workload

    Array = np.ndarray[Any, Any]

__all__ = ["Bench", "machine"]

_SECONDS = 1.5  # measurement of one pair of networks


def machine(engine: Engine, options: Options) -> tuple[object, ...]:
    """Return everything that times depend on besides the network, as the key of a checkpoint."""
    return platform.node(), engine.version, engine.providers, options.engine, options.bench_batch


class Bench:
    """Latency measurement of the original against networks of planned sizes."""

    def __init__(self, work: Workload, cost: CostModel, inputs: Inputs, options: Options) -> None:
        self._work, self._cost, self._seed = work, cost, options.seed
        chosen = np.resize(inputs.held, options.bench_batch)
        batch = group_batches(chosen, inputs.specs, options.bench_batch)[0]
        self._feeds = inputs.calibration.load(batch.samples)
        self._original = work.engine.session(work.net.to_model(), label="the original")

    @property
    def before_ms(self) -> float:
        """Milliseconds of one run of the original on an idle machine, see `Latency.quiet_ms`."""
        return interleaved(self._original, self._original, self._feeds, seconds=_SECONDS).before.quiet_ms

    def timing(self, keep: Mapping[str, int], forms: Mapping[str, Form], *, again: bool = False) -> Timing:
        """Time the original against a network of these sizes; with `again` for twice as long, in another order."""
        session = self._work.engine.session(self._sized(keep, forms).to_model(), label="a network of the planned sizes")
        seconds, seed = _SECONDS * (1 + again), self._seed + again
        return interleaved(self._original, session, self._feeds, seconds=seconds, seed=seed)

    def _sized(self, keep: Mapping[str, int], forms: Mapping[str, Form]) -> Net:
        channels = self._work.channels
        branches = [branch for name, branch in self._cost.branches.items() if keep.get(name) == 0]
        gone = {
            group.name: range(keep.get(group.name, group.size) or group.size, group.size) for group in channels.prunable
        }
        net = remove(self._work.net, channels, channels.all_alive(), alive_without(channels, gone))
        net = without_branches(net, channels, branches) if branches else net
        chains = {channels.sites[name]: self._chain(name, form, keep) for name, form in forms.items()}
        return with_chains(net, chains) if chains else net

    def _chain(self, name: str, form: Form, keep: Mapping[str, int]) -> Chain:
        """Draw factors of the planned sizes at random: zeros and denormal numbers may run faster or slower."""
        site, (inputs, outputs) = self._work.channels.sites[name], self._cost.channels(name, keep)
        kernel = site.window.kernel if site.window is not None else ()
        elements, along = math.prod(kernel), kernel[form.first] if kernel else 1
        own = outputs // site.groups
        narrow = form.channel or own
        generator = np.random.default_rng(self._seed)

        def drawn(rows: int, columns: int) -> Array:
            return np.asarray(generator.standard_normal((site.groups, rows, columns)) / np.sqrt(columns))

        first = drawn(form.spatial, inputs * along) if form.spatial else None
        second = drawn(narrow, form.spatial * (elements // along) if form.spatial else inputs * elements)
        return Chain(form, first, second, drawn(own, form.channel) if form.channel else None)
