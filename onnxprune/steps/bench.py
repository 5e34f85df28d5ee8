"""Latency of a network of planned sizes, before any weight is fitted: times do not depend on weights."""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.timing import Repeats, interleaved
from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit.decompose import Chain, with_chains
from onnxprune.graph.edit.drop import without_branches
from onnxprune.graph.edit.remove import alive_without, remove
from onnxprune.planning.assignment import Assignment

if TYPE_CHECKING:
    from onnxprune.engine.sessions import Session
    from onnxprune.engine.timing import Timing
    from onnxprune.graph.model.net import Net
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]

__all__ = ["Bench", "machine"]

_SECONDS = 1.5  # measurement of one pair of networks
_GLANCE = 0.2  # seconds that tell whether folding matters at all
_ALIKE = 0.05  # difference of two times that matters to no plan


def machine(run: Prepared) -> tuple[object, ...]:
    """Return everything that times depend on besides the network, as the key of a checkpoint."""
    return platform.node(), run.engine.version, run.engine.providers, run.options.engine, run.options.bench_batch


class Bench:
    """Latency measurement of the original against networks of planned sizes."""

    def __init__(self, run: Prepared) -> None:
        self._run, self._seed = run, run.options.seed
        self._feeds = run.inputs.repeated(run.options.bench_batch)
        self._original = run.engine.session(run.network.parts.front, label="the original")

    @property
    def before_ms(self) -> float:
        """Milliseconds of one run of the original as given on an idle machine, see `Latency.quiet_ms`."""
        return self._quiet_ms(self._original)

    @property
    def whole_ms(self) -> float:
        """Milliseconds of one run of the network to compress: the folded original, perhaps on a smaller picture."""
        return self._quiet_ms(self._run.engine.session(self._run.net.to_model(), label="the network to compress"))

    @property
    def folding(self) -> float:
        """Time of the original as given divided by its time with normalisations and constants folded.

        It is 1 where they take equally long, or may do so: engines fold most graphs when they load them. They cannot
        where every weight is an input of the graph too, as in files of 2019.
        """
        for seconds in (_GLANCE, _SECONDS):
            found = self.timing(Assignment(), seconds=seconds)
            if found.ratio_low <= 1 + _ALIKE and found.ratio_high >= 1 - _ALIKE:
                return 1.0
        return found.ratio

    def _quiet_ms(self, session: Session) -> float:
        return interleaved(session, session, self._feeds, repeats=Repeats(seconds=_SECONDS)).before.quiet_ms

    def timing(self, assignment: Assignment, *, again: bool = False, seconds: float = _SECONDS) -> Timing:
        """Time the original against a network of these sizes; with `again` for twice as long, in another order."""
        model = self._sized(assignment).to_model()
        session = self._run.engine.session(model, label="a network of the planned sizes")
        repeats, seed = Repeats(seconds=seconds * (1 + again)), self._seed + again
        return interleaved(self._original, session, self._feeds, repeats=repeats, seed=seed)

    def _sized(self, assignment: Assignment) -> Net:
        channels, counts = self._run.channels, assignment.counts
        branches = [self._run.cost.branches[name] for name in assignment.removed]
        gone = {
            group.name: range(counts[group.name], group.size)
            for group in channels.prunable
            if group.name in counts and group.name not in assignment.removed
        }
        net = remove(self._run.net, channels, channels.all_alive(), alive_without(channels, gone))
        net = without_branches(net, channels, branches) if branches else net
        chains = {channels.sites[name]: self._chain(name, form, assignment) for name, form in assignment.forms.items()}
        return with_chains(net, chains) if chains else net

    def _chain(self, name: str, form: Form, assignment: Assignment) -> Chain:
        """Draw factors of the planned sizes at random: zeros and denormal numbers may run faster or slower."""
        site, (inputs, outputs) = self._run.channels.sites[name], self._run.cost.channels(name, assignment)
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
