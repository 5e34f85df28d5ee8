"""Clocks of layers: the convs that each layer is or may become, timed at a few numbers of channels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.engine.batching import sample_shapes
from onnxprune.engine.latency import Kernel, Task, measured, node_times
from onnxprune.graph.channels.sites import is_depthwise
from onnxprune.graph.model.net import dims
from onnxprune.graph.model.normalize import with_shapes
from onnxprune.planning.clock import Clock, Grid, marks
from onnxprune.steps.bench import Bench, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.model.net import Net
    from onnxprune.planning.cost import CostModel
    from onnxprune.steps.prepare import Prepared

    Array = np.ndarray[Any, Any]
    Ms = Callable[[Kernel, int, int], float]

__all__ = ["behind_layers", "scaled_cost", "timed_cost"]

_FAR = 32  # nodes between a layer and one behind it
_FUSED = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})


def timed_cost(run: Prepared) -> CostModel:
    """Add a clock for every layer, with the nodes behind it, to the cost model; the rest is the network's other time.

    Args:
        run: the prepared run.

    Raises:
        EngineError: the engine cannot run a layer.
    """
    cost, batch = run.cost, run.options.bench_batch
    concrete = with_shapes(run.net, sample_shapes(run.inputs.calibration, run.inputs.specs, batch))
    layers = [_Layer(run, concrete, use) for name, use in run.channels.uses.items() if name in cost.layers]
    tasks = sorted({task for layer in layers for task in layer.tasks(batch)}, key=repr)
    checkpoint = run.cache.checkpoint("latency", *machine(run), _digest(tasks))
    saved = checkpoint.load("ms")
    times = None if saved is None else saved.arrays.get("ms")
    behind = None if saved is None else saved.facts.get("behind")
    if times is None or times.shape != (len(tasks),) or not isinstance(behind, dict):
        found = measured(run.engine, tasks, run.scratch, partial(run.progress, "time layers"))
        times = np.array([found[task] for task in tasks])
        behind = behind_layers(
            concrete,
            {layer.site.name: layer.outputs for layer in layers},
            node_times(run.engine, run.net.to_model(), run.inputs.repeated(batch), run.scratch),
        )
        checkpoint.save("ms", {"ms": times}, {"behind": behind})
    table = dict(zip(tasks, times.tolist(), strict=True))

    def ms(kernel: Kernel, inputs_: int, outputs: int) -> float:
        return float(table[Task(kernel, inputs_, outputs, batch)])

    clocks = {
        layer.site.name: replace(layer.clock(ms), behind=float(behind.get(layer.site.name, 0.0)) / layer.outputs)
        for layer in layers
    }
    whole = Bench(run).whole_ms
    return cost.timed(clocks, max(whole - cost.timed(clocks, 0.0).latency(), 0.0))


def scaled_cost(run: Prepared) -> CostModel:
    """Add to the cost model of a smaller picture the clocks of the original, in proportion to the positions.

    Quicker than `timed_cost` and good enough to try a picture: whole networks are timed anyway.

    Args:
        run: the prepared run on a smaller picture, the cost model of its original with clocks.
    """
    clocks = run.before.clocks_for(run.cost)
    return run.cost.timed(clocks, max(Bench(run).whole_ms - run.cost.timed(clocks, 0.0).latency(), 0.0))


def behind_layers(net: Net, outputs: Mapping[str, int], times: Mapping[str, float]) -> dict[str, float]:
    """Add up the times of nodes that are no layers by the layer whose output channels they run over.

    Args:
        net: the network, with shapes.
        outputs: output channels of each layer, by name.
        times: milliseconds by the engine's names of nodes; a fused node's begins with the name of one of its nodes.

    Returns:
        Milliseconds by the name of a layer; nodes behind no layer, or with another number of channels, are left out.
    """
    found: dict[str, float] = {}
    known = {node.name: node for node in net.nodes}
    for name, ms in times.items():
        node = known.get(name) or max(
            (node for own, node in known.items() if own and name.startswith(own)),
            key=lambda node: len(node.name),
            default=None,
        )
        layer = None if node is None or node.name in outputs else _layer_before(node, outputs)
        shape = None if layer is None or node is None else dims(node.outputs[0])
        if layer is not None and shape is not None and outputs[layer] in (*shape[1:2], *shape[-1:]):
            found[layer] = found.get(layer, 0.0) + ms
    return found


def _layer_before(node: Any, layers: Mapping[str, int]) -> str | None:
    """Return the layer that a node's largest input depends on, through the largest inputs of others; None for none."""
    for _ in range(_FAR):
        sizes = [(math.prod(s for s in dims(t) or () if isinstance(s, int)), t) for t in node.inputs if t.inputs]
        if not sizes:
            return None
        node = max(sizes, key=lambda pair: pair[0])[1].inputs[0]
        if node.name in layers:
            return str(node.name)
    return None


def _digest(tasks: Iterable[Task]) -> str:
    return hashlib.sha256(repr(list(tasks)).encode()).hexdigest()


class _Layer:
    """Site, and the convs that may replace it."""

    def __init__(self, run: Prepared, concrete: Net, site: Site) -> None:
        self.site = site
        tensors = concrete.tensors()
        source = [size if isinstance(size, int) else 1 for size in dims(tensors[site.source]) or ()]
        weight = [int(size) for size in tensors[site.weight].shape]
        self.inputs = source[site.channel_axis]
        self.outputs = weight[site.output_axis.axis] * (site.groups if site.op == "ConvTranspose" else 1)
        self.depthwise = is_depthwise(run.net, site)
        self.groups = 0 if self.depthwise else site.groups
        self.activation = _activation(concrete, site)
        self.extents = tuple(source[2:]) if site.window is not None else (max(math.prod(source[1:-1]), 1),)

    def tasks(self, batch: int) -> list[Task]:
        """Return the tasks whose times the clock needs."""
        found: list[Task] = []

        def asked(kernel: Kernel, inputs: int, outputs: int) -> float:
            found.append(Task(kernel, inputs, outputs, batch))
            return 0.0

        self.clock(asked)
        return found

    def clock(self, ms: Ms) -> Clock:
        """Make the clock of the site from the times of its convs in milliseconds."""
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
    """Return the operator that is the only reader of a layer's output and is fused with it; empty if there is none."""
    readers = net.tensors()[site.response].outputs
    fused = len(readers) == 1 and site.response not in net.output_names and readers[0].op in _FUSED
    return str(readers[0].op) if fused else ""
