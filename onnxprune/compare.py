"""Two models side by side: outputs, accuracy where there are labels, cost and latency."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data import DataOptions, open_calibration
from onnxprune.data.labels import read_labels
from onnxprune.errors import ModelError, UsageError
from onnxprune.graph.channels import channel_map
from onnxprune.graph.cost import cost_model
from onnxprune.graph.load import load, read_model
from onnxprune.graph.schedule import schedule
from onnxprune.report.record import Change
from onnxprune.runtime.divergence import DivergenceMeter, OutputDivergence, class_scores
from onnxprune.runtime.inputs import batches, input_specs
from onnxprune.runtime.providers import EngineOptions
from onnxprune.runtime.sessions import Engine
from onnxprune.runtime.timing import Timing, interleaved
from onnxprune.stages.batching import batch_size, sample_shapes, tensor_bytes
from onnxprune.stages.workload import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxprune.data import Calibration, CalibrationSource, InputSpec
    from onnxprune.graph.net import Net
    from onnxprune.runtime.sessions import Session

    Array = np.ndarray[Any, Any]
    Model = onnx.ModelProto | bytes | str | os.PathLike[str]

__all__ = ["CompareOptions", "Comparison", "run_comparison"]

_ROOM = 256 << 20  # bytes that one run of a network makes and returns


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How two models are compared.

    Attributes:
        samples: inputs at most, drawn with `seed`; None: all.
        label_offset: added to every label: 1 for models whose class 0 is "background" with labels that do not count it.
        max_drop: what the second model may lose, see `Comparison.drop`; None: anything.
        bench: measure latency.
        bench_batch: at this batch size.
        seed: of the choice of inputs, and of the timing.
        data: preprocessing.
        engine: onnxruntime's provider and threads.
    """

    samples: int | None = None
    label_offset: int = 0
    max_drop: float | None = None
    bench: bool = True
    bench_batch: int = 1
    seed: int = 0
    data: DataOptions = field(default_factory=DataOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples must be 1 or more, found {self.samples}")
        if self.bench_batch < 1:
            raise UsageError(f"--bench-batch must be 1 or more, found {self.bench_batch}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"--max-drop must be 0 or more, found {self.max_drop}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found.

    Attributes:
        original: label of the first model.
        candidate: of the second.
        samples: inputs compared.
        divergence: per output.
        accuracy: top-1 in per cent, before and after; None without labels.
        drop: what was lost: points of accuracy, or without labels points of top-1 agreement, or for other outputs the
            worst relative error in per cent.
        drop_kind: which of them.
        max_drop: what was allowed.
        macs: for one sample.
        params: floating-point numbers in all constants.
        file_bytes: sizes of the models.
        timing: latency; None if it was not measured.
        data: the inputs' description.
        warnings: what must not be overlooked.
    """

    original: str
    candidate: str
    samples: int
    divergence: tuple[OutputDivergence, ...]
    accuracy: tuple[float, float] | None
    drop: float
    drop_kind: str
    max_drop: float | None
    macs: Change
    params: Change
    file_bytes: Change
    timing: Timing | None
    data: dict[str, object]
    warnings: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether the drop is allowed."""
        return self.max_drop is None or self.drop <= self.max_drop

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"schema": 1, **asdict(self), "within": self.within}


def run_comparison(
    original: Model,
    candidate: Model,
    data: CalibrationSource | None,
    labels: str | os.PathLike[str] | Sequence[int] | Array | None,
    options: CompareOptions,
    progress: Progress = silent,
) -> Comparison:
    """Compare two models on the same inputs.

    Args:
        original: the first model.
        candidate: the second; its inputs and outputs must be named and shaped alike.
        data: inputs, see `open_calibration`; None: ``<original>.test.npz`` beside the first model if there is one, then
            ``<original>.calib.npz``, then synthetic ones.
        labels: a file or integers, see `read_labels`; None: those that the data has, if any.
        options: how.
        progress: told how far it is.

    Raises:
        OnnxPruneError: see `errors`.
    """
    models = [read_model(source) for source in (original, candidate)]
    nets = [load(model, label=label)[0] for model, label in models]
    specs = _common_inputs(nets, [label for _, label in models])
    path = Path(original) if isinstance(original, (str, os.PathLike)) else None
    calibration = open_calibration(
        data if data is not None else _test_file(path), specs, options.data, model_path=path, seed=options.seed
    )
    known = calibration.labels if labels is None else read_labels(labels, len(calibration))
    chosen = _chosen(len(calibration), options)
    engine = Engine.open(options.engine)
    before, after = (engine.session(model, label=label) for model, label in models)
    meter, hits = DivergenceMeter(), _Hits()
    shapes = sample_shapes(calibration, specs)
    size = batch_size(schedule(nets[0]), tensor_bytes(nets[0], shapes), _ROOM)
    for samples, real in batches(chosen, specs, size):
        progress("compare", hits.seen, len(chosen))
        feeds = calibration.load(samples)
        outputs = before.run(feeds), after.run(feeds)
        meter.add(*outputs, real)
        wanted = None if known is None else known[samples[:real]] + options.label_offset
        hits.add(outputs, wanted, real)
    progress("compare", len(chosen), len(chosen))
    divergence = meter.finish()
    drop, kind = _drop(divergence, hits.accuracy)
    costs = [cost_model(net, channel_map(net), shapes) for net in nets]
    warning = calibration.description.get("warning")
    return Comparison(
        original=models[0][1],
        candidate=models[1][1],
        samples=len(chosen),
        divergence=divergence,
        accuracy=hits.accuracy,
        drop=drop,
        drop_kind=kind,
        max_drop=options.max_drop,
        macs=Change(costs[0].macs({}), costs[1].macs({})),
        params=Change(costs[0].params({}), costs[1].params({})),
        file_bytes=Change(models[0][0].ByteSize(), models[1][0].ByteSize()),
        timing=_timing(before, after, calibration, specs, chosen, options) if options.bench else None,
        data=calibration.description,
        warnings=(str(warning),) if warning else (),
    )


def _common_inputs(nets: Sequence[Net], labels: Sequence[str]) -> tuple[InputSpec, ...]:
    """The inputs that both models take; where one of them fixes the batch, at that batch."""
    first, second = (input_specs(net) for net in nets)
    ours, theirs = ("; ".join(map(str, found)) for found in (first, second))
    if ours != theirs:
        raise ModelError(f"{labels[1]} takes {theirs}, but {labels[0]} takes {ours}")
    batches_fixed = {spec.shape[0] for spec in (*first, *second) if spec.shape[0]}
    if len(batches_fixed) > 1:
        raise ModelError(f"{labels[1]} and {labels[0]} fix different batch sizes: {sorted(batches_fixed)}")
    if nets[0].output_names != nets[1].output_names:
        raise ModelError(
            f"{labels[1]} gives {', '.join(nets[1].output_names)}, "
            f"but {labels[0]} gives {', '.join(nets[0].output_names)}"
        )
    return first if any(spec.shape[0] for spec in first) else second


def _test_file(path: Path | None) -> Path | None:
    beside = path.with_suffix(".test.npz") if path is not None else None
    return beside if beside is not None and beside.is_file() else None


def _chosen(count: int, options: CompareOptions) -> list[int]:
    if options.samples is None or options.samples >= count:
        return list(range(count))
    picked = np.random.default_rng(options.seed).permutation(count)[: options.samples]
    return [int(index) for index in np.sort(picked)]


class _Hits:
    """Right answers of two models."""

    def __init__(self) -> None:
        self.seen, self._right, self._labelled = 0, [0, 0], 0

    def add(self, outputs: tuple[dict[str, Array], dict[str, Array]], wanted: Array | None, rows: int) -> None:
        self.seen += rows
        if wanted is None:
            return
        for which, found in enumerate(outputs):
            scores = next((s for s in map(class_scores, found.values()) if s is not None), None)
            if scores is None:
                raise UsageError("the data has labels, but no output is a classifier's (N, C): leave --labels out")
            known = ~np.isnan(scores[:rows]).any(axis=1)
            self._right[which] += int((known & (scores[:rows].argmax(axis=1) == wanted)).sum())
        self._labelled += rows

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """Top-1 in per cent, before and after; None without labels."""
        if not self._labelled:
            return None
        before, after = (100 * right / self._labelled for right in self._right)
        return before, after


def _drop(divergence: Sequence[OutputDivergence], accuracy: tuple[float, float] | None) -> tuple[float, str]:
    """The worst loss of all outputs, each in its own kind; a classifier's in accuracy where there are labels."""
    losses = [
        (100 * output.relative_error, "relative error, per cent")
        if output.top1_agreement is None
        else (100 * (1 - output.top1_agreement), "top-1 agreement lost, points")
        for output in divergence
        if accuracy is None or output.top1_agreement is None
    ]
    if accuracy is not None:
        losses.append((accuracy[0] - accuracy[1], "top-1 accuracy lost, points"))
    return max(losses, default=(0.0, "relative error, per cent"))


def _timing(
    before: Session,
    after: Session,
    calibration: Calibration,
    specs: Sequence[InputSpec],
    chosen: Sequence[int],
    options: CompareOptions,
) -> Timing:
    samples = [int(index) for index in np.resize(np.array(chosen), options.bench_batch)]
    feeds = calibration.load(next(batches(samples, specs, options.bench_batch))[0])
    return interleaved(before, after, feeds, seed=options.seed)
