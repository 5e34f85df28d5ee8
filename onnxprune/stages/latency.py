"""Milliseconds of layers and of whole networks, before a single weight is fitted: times do not depend on weights."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.decompose import Chain, with_chains
from onnxprune.graph.net import dims
from onnxprune.graph.normalize import with_shapes
from onnxprune.graph.surgery import alive_without, remove
from onnxprune.plan.latency import Clock, Grid, marks
from onnxprune.runtime.latency import Kernel, Task, measured
from onnxprune.runtime.timing import interleaved
from onnxprune.stages.batching import group_batches, sample_shapes
from onnxprune.stages.steps import is_depthwise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnxprune.graph.cost import CostModel
    from onnxprune.graph.forms import Form
    from onnxprune.graph.net import Net
    from onnxprune.graph.sites import Site
    from onnxprune.options import Options
    from onnxprune.report.started import Inputs
    from onnxprune.stages.cache import Cache
    from onnxprune.stages.workload import Workload

    Array = np.ndarray[Any, Any]
    Ms = Callable[[Kernel, int, int], float]

__all__ = ["Bench", "timed_cost"]

_FUSED = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})
_SECONDS = 1.5  # for one pair of networks


def timed_cost(work: Workload, cost: CostModel, inputs: Inputs, options: Options, cache: Cache) -> CostModel:
    """The cost model with a clock for every layer; the rest takes what the whole network takes beyond its layers.

    Raises:
        EngineError: the engine cannot run a layer.
    """
    concrete = with_shapes(work.net, sample_shapes(inputs.calibration, inputs.specs, options.bench_batch))
    layers = [_Layer(work, concrete, name, site) for name, site in work.channels.sites.items() if name in cost.layers]
    tasks = sorted({task for layer in layers for task in layer.tasks(options.bench_batch)}, key=repr)
    checkpoint = cache.checkpoint("latency", work.engine.providers, options.engine, _digest(tasks))
    known = checkpoint.load("ms")
    if known is None or known["ms"].shape != (len(tasks),):
        times = measured(work.engine, tasks, work.scratch, partial(work.progress, "time layers"))
        known = {"ms": np.array([times[task] for task in tasks])}
        checkpoint.save("ms", known)
    table = dict(zip(tasks, known["ms"].tolist(), strict=True))

    def ms(kernel: Kernel, inputs_: int, outputs: int) -> float:
        return float(table[Task(kernel, inputs_, outputs, options.bench_batch)])

    timed = cost.timed({layer.site.name: layer.clock(ms) for layer in layers}, 0.0)
    whole = Bench(work, cost, inputs, options).before_ms
    return timed.timed({layer.site.name: layer.clock(ms) for layer in layers}, max(whole - timed.latency({}), 0.0))


def _digest(tasks: Iterable[Task]) -> str:
    return hashlib.sha256(repr(list(tasks)).encode()).hexdigest()


class _Layer:
    """One site and the convs that may stand for it."""

    def __init__(self, work: Workload, concrete: Net, name: str, site: Site) -> None:
        self.site = site
        tensors = concrete.tensors()
        source = [size if isinstance(size, int) else 1 for size in dims(tensors[site.source]) or ()]
        weight = [int(size) for size in tensors[site.weight].shape]
        self.inputs = source[site.channel_axis]
        self.outputs = weight[site.output_axis.axis] * (site.groups if site.op == "ConvTranspose" else 1)
        self.depthwise = is_depthwise(work.net, site)
        self.groups = 0 if self.depthwise else site.groups
        self.activation = _activation(concrete, site)
        self.extents = tuple(source[2:]) if site.window is not None else (max(math.prod(source[1:-1]), 1),)

    def tasks(self, batch: int) -> list[Task]:
        """All that its clock asks for."""
        found: list[Task] = []

        def asked(kernel: Kernel, inputs: int, outputs: int) -> float:
            found.append(Task(kernel, inputs, outputs, batch))
            return 0.0

        self.clock(asked)
        return found

    def clock(self, ms: Ms) -> Clock:
        """Its times in all forms."""
        window = self.site.window
        whole = Kernel(window, self.groups, self.extents, self.activation)
        if self.depthwise:
            sizes = marks(self.outputs)
            times = self.outputs // self.inputs
            row = [ms(whole, max(size // times, 1), max(size // times, 1) * times) for size in sizes]
            return Clock(Grid((1,), sizes, np.array([row])))
        if self.site.groups > 1 or not self.site.decomposable:
            return Clock(self._grid(whole, self.inputs, self.outputs, ms), groups=self.site.groups)
        dense = self._grid(whole, self.inputs, self.outputs, ms)
        if window is None:
            return Clock(dense, (), self._grid(whole, self.outputs, self.outputs, ms))
        ones = window.along(())
        last = Kernel(ones, 1, window.outputs(self.extents), self.activation)
        wide = [axis for axis, size in enumerate(window.kernel) if size > 1]
        pairs = []
        for axis in range(len(window.kernel)) if len(wide) > 1 else ():
            along, elements = window.kernel[axis], math.prod(window.kernel)
            rank = min(self.inputs * along, self.outputs * elements // along, 2 * max(self.inputs, self.outputs))
            front, back = window.along((axis,)), window.along([a for a in range(len(window.kernel)) if a != axis])
            between = Kernel(back, 1, front.outputs(self.extents), self.activation)
            pairs.append(
                (
                    self._grid(Kernel(front, 1, self.extents), self.inputs, rank, ms),
                    self._grid(between, rank, self.outputs, ms),
                )
            )
        return Clock(dense, tuple(pairs), self._grid(last, self.outputs, self.outputs, ms))

    def _grid(self, kernel: Kernel, inputs: int, outputs: int, ms: Ms) -> Grid:
        groups = max(self.site.groups, 1)
        grid = Grid.measured(inputs // groups, outputs // groups, lambda i, o: ms(kernel, i * groups, o * groups))
        return Grid(tuple(i * groups for i in grid.inputs), tuple(o * groups for o in grid.outputs), grid.ms)


def _activation(net: Net, site: Site) -> str:
    """What alone reads a layer's answer and runs with it."""
    readers = net.tensors()[site.response].outputs
    fused = len(readers) == 1 and site.response not in net.output_names and readers[0].op in _FUSED
    return str(readers[0].op) if fused else ""


class Bench:
    """The original against what a plan would make of it."""

    def __init__(self, work: Workload, cost: CostModel, inputs: Inputs, options: Options) -> None:
        self._work, self._cost, self._seed = work, cost, options.seed
        chosen = np.resize(inputs.held, options.bench_batch)
        batch = group_batches(chosen, inputs.specs, options.bench_batch)[0]
        self._feeds = inputs.calibration.load(batch.samples)
        self._original = work.engine.session(work.net.to_model(), label="the original")

    @property
    def before_ms(self) -> float:
        """Of one run of the original."""
        return interleaved(self._original, self._original, self._feeds, seconds=_SECONDS).before.median_ms

    def faster(self, keep: Mapping[str, int], forms: Mapping[str, Form]) -> float:
        """Latency of the original over that of a network of these sizes."""
        session = self._work.engine.session(self._sized(keep, forms).to_model(), label="a network of the planned sizes")
        return interleaved(self._original, session, self._feeds, seconds=_SECONDS, seed=self._seed).ratio

    def _sized(self, keep: Mapping[str, int], forms: Mapping[str, Form]) -> Net:
        channels = self._work.channels
        gone = {group.name: range(keep.get(group.name, group.size), group.size) for group in channels.prunable}
        net = remove(self._work.net, channels, channels.all_alive(), alive_without(channels, gone))
        chains = {channels.sites[name]: self._chain(name, form, keep) for name, form in forms.items()}
        return with_chains(net, chains) if chains else net

    def _chain(self, name: str, form: Form, keep: Mapping[str, int]) -> Chain:
        """Factors of the right sizes, drawn at random: zeros and denormal numbers may be faster or slower."""
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
