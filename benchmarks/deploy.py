"""The best accuracy at a measured time: networks that people deploy, one thread, batch 1.

Classifiers are brought to several speed-ups by the plain command, by ``--input-size auto`` (which lets the model take
smaller pictures, without a Resize inside), by a smaller picture alone (fed, without calibration), and by removing
channels only. Top-1 is on both test sets (525 photos, one standard error is
about 1.9 points); agreement with the original and KL divergence are on them, and on 500 photos of the folder that
neither fitted nor chose anything. The other networks and their measures stand in `deploy_tasks.py`. The way ``recover``
is the plain command with training, on all photos; ``uniform`` removes the smallest weights of every group alike, and
trains for as many minutes on the outputs alone; ``onnxsim`` is its own pruning, where it is installed.

Run: ``python benchmarks/deploy.py --data FOLDER``, with ``--only TEXT`` for some of the networks, ``--speedups 1.5 2``,
``--ways picture plain auto channels recover uniform onnxsim`` and ``--photos 1000``. The processor must be idle but for
one core.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from baselines import baseline
from common import arguments, machine, table
from deploy_tasks import TASKS, Task, data_of
from deployed import NETWORKS, Network
from measures import log_scores, session_of
from PIL import Image

import onnxprune
from onnxprune import DataOptions, Options, RecoverOptions
from onnxprune.errors import OnnxPruneError
from onnxprune.options.engine import EngineOptions
from onnxprune.options.solve import RefitOptions

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto

_UNUSED, _EVERY = 500, 11  # photos that are not given to the commands: one in so many
_SPEEDUPS = {
    "imagenet_mobilenet_v2": (1.25, 1.5, 2.0),
    "imagenet_efficientnet_lite0": (1.25, 1.5, 2.0),
    "imagenet_mobilenet_v1_050_160": (1.25, 1.4, 2.0),
    "imagenet_squeezenet1_1": (1.25, 1.5, 2.0),
}
_ROUNDS, _RUNS = 25, 5  # of a timing
_STEP = 8  # pixels between two pictures
_WAYS = ("picture", "plain", "auto", "channels", "recover", "uniform", "onnxsim")
_SPARSITIES = tuple(sixteenths / 16 for sixteenths in range(1, 11))  # other widths are slow in onnxruntime


def _compared(wanted: Array, found: Array) -> str:
    kl = (np.exp(wanted) * (wanted - found)).sum(1).mean()
    return f"{100 * (wanted.argmax(1) == found.argmax(1)).mean():.1f} / {kl:.3f}"


def _speedup(before: Any, first: Array, after: Any, second: Array) -> tuple[float, float]:
    """Median ratio of times, and milliseconds after; both networks in turns."""
    ratios, milliseconds = [], []
    pairs = [(session, {session.get_inputs()[0].name: x[:1]}) for session, x in ((before, first), (after, second))]
    for _ in range(_ROUNDS):
        spent = []
        for session, feeds in pairs:
            start = time.process_time()
            for _ in range(_RUNS):
                session.run(None, feeds)
            spent.append((time.process_time() - start) / _RUNS)
        ratios.append(spent[0] / spent[1])
        milliseconds.append(1e3 * spent[1])
    return float(np.median(ratios)), float(np.median(milliseconds))


def _resized(pixels: Array, side: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    """Bytes, (n, side, side, 3); by the sharper filter, which is the better one."""
    if pixels.shape[1] == side:
        return pixels
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), how)) for one in pixels])


def _at(model: Model, side: int) -> Model:
    """The network for pictures of another size, its last pooling made global."""
    found = Model()
    found.CopyFrom(model)
    del found.graph.value_info[:]
    shape = found.graph.input[0].type.tensor_type.shape.dim
    for axis in (1, 2) if shape[3].dim_value == 3 else (2, 3):
        shape[axis].dim_value = side
    for node in found.graph.node:
        if node.op_type == "AveragePool":
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
    return found


class Judge:
    """The original, its test images and the unused photos."""

    def __init__(self, network: Network, given: argparse.Namespace, unused: list[Path]) -> None:
        self.network, self.original = network, onnx.load(network.path(given.zoo))
        images, labels = [], []
        for name in ("imagenet_test.npz", "imagenet_test_b.npz"):
            with np.load(given.data / name) as archive:
                images.append(archive["images"])
                labels.append(archive["labels"])
        photos = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in unused])
        self.sets = tuple(
            _resized(pixels, network.side, Image.Resampling.BILINEAR) for pixels in (np.concatenate(images), photos)
        )
        self.labels = np.concatenate(labels) + network.offset
        self.session = session_of(self.original)
        self.wanted = tuple(log_scores(self.session, network.feed(pixels)) for pixels in self.sets)

    def feeds(self, side: int) -> Iterator[Array]:
        """Inputs of both sets at another size."""
        for pixels in self.sets:
            yield self.network.feed(_resized(pixels, side))

    def row(self, way: str, model: Model, side: int, minutes: float) -> list[object]:
        """Measure a network: a row of the table."""
        session = session_of(model)
        inputs = list(self.feeds(side))
        found = [log_scores(session, one) for one in inputs]
        full = self.network.feed(self.sets[0][:1])
        ratio, ms = _speedup(self.session, full, session, inputs[0][:1])
        top1 = f"{100 * (found[0].argmax(1) == self.labels).mean():.1f}"
        compared = [_compared(a, b) for a, b in zip(self.wanted, found, strict=True)]
        return [self.network.name, way, f"{ratio:.2f}x, {ms:.1f} ms", top1, *compared, f"{minutes:.0f}"]


def _smaller(judge: Judge, speedup: float) -> tuple[Model, int]:
    """The largest picture at which the network has the speed-up, in steps of 8 pixels."""
    side = judge.network.side
    full = judge.network.feed(judge.sets[0][:1])
    for small in range(side - _STEP, side // 3, -_STEP):
        model = _at(judge.original, small)
        feed = judge.network.feed(_resized(judge.sets[0][:1], small))
        if _speedup(judge.session, full, session_of(model), feed)[0] >= speedup:
            return model, small
    raise OnnxPruneError(f"no picture is {speedup:g}x faster")


@contextmanager
def photo_folders(photos: Path) -> Iterator[tuple[str, list[Path]]]:
    """A folder of links to the photos to give, and the list of those to keep."""
    listed = sorted(photos.iterdir())
    unused = listed[_EVERY // 2 :: _EVERY][:_UNUSED]
    with tempfile.TemporaryDirectory() as folder:
        for path in set(listed) - set(unused):
            (Path(folder) / path.name).symlink_to(path.resolve())
        yield folder, unused


def run_options(data: DataOptions, **others: Any) -> Options:
    """Options of a run on one thread."""
    return replace(Options(bench=False, engine=EngineOptions(threads=1)), data=data, **others)


def pruned(path: str, folder: str, options: Options, **budget: Any) -> Model:
    """Compress a network; print what the run remarks on the choices that cost most."""
    result = onnxprune.prune(path, data=folder, options=options, **budget)
    for note in result.report.notes:
        if note.subject in ("picture", "latency", "recovery"):
            print(f"    {note.subject}: {note.text}", flush=True)
    assert result.model is not None
    return result.model


def _option_sets(given: argparse.Namespace, options: Options) -> dict[str, Options]:
    """Options of the ways that are commands of ours.

    ``uniform``: the smallest weights of every group alike, no refit, and as many minutes of plain distillation.
    """
    course = RecoverOptions(seconds=60 * given.minutes or None)
    shares = replace(
        options,
        recipe="prune",
        allocation="uniform",
        select=baseline("magnitude"),
        refit=RefitOptions(refit="none"),
        recover=replace(course, features=0.0, blockwise=0.0),
    )
    return {
        "plain": options,
        "auto": replace(options, input_size="auto"),
        "channels": replace(options, input_size="keep"),
        "recover": replace(options, recover=course),
        "uniform": shares,
    }


def _by_onnxsim(original: Model, feed: Array, speedup: float) -> Model:
    """The network at the least sparsity at which onnxsim's own pruning makes it as fast."""
    try:
        onnxsim: Any = importlib.import_module("onnxsim")
    except ImportError as error:
        raise OnnxPruneError("onnxsim is not installed") from error
    session, found = session_of(original), []
    for sparsity in _SPARSITIES:
        model: Model = onnxsim.apply_structured_pruning(original, sparsity=sparsity)
        found.append(_speedup(session, feed, session_of(model), feed)[0])
        if found[-1] >= speedup:
            return model
    told = ", ".join(f"{speed:.2f}x at {sparsity:g}" for sparsity, speed in zip(_SPARSITIES, found, strict=True))
    raise OnnxPruneError(f"onnxsim: {told}")


def _made(way: str, judge: Judge, speedup: float, folder: str, given: argparse.Namespace) -> tuple[Model, int]:
    """A classifier at a speed-up, and the side of the pictures that it takes."""
    network = judge.network
    if way == "picture":
        return _smaller(judge, speedup)
    if way == "onnxsim":
        return _by_onnxsim(judge.original, network.feed(judge.sets[0][:1]), speedup), network.side
    trained = way in ("recover", "uniform")
    options = _option_sets(given, run_options(network.data, samples=None if trained else given.photos))[way]
    model = pruned(network.path(given.zoo), folder, options, speedup=speedup)
    return model, max(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim)


def _classifiers(given: argparse.Namespace) -> Iterator[list[object]]:
    """Yield the rows of the ImageNet networks."""
    with photo_folders(given.data / "photos") as (folder, unused):
        for name, usual in _SPEEDUPS.items():
            if not _is_asked_for(name, given):
                continue
            judge = Judge(NETWORKS[name], given, unused)
            yield judge.row("original", judge.original, judge.network.side, 0)
            for speedup in given.speedups or usual:
                for way in given.ways:
                    start = time.perf_counter()
                    try:
                        model, side = _made(way, judge, speedup, folder, given)
                    except OnnxPruneError as error:
                        print(f"{name} {way} {speedup:g}x: {error}", file=sys.stderr, flush=True)
                        continue
                    yield judge.row(f"{way}, {speedup:g}x", model, side, (time.perf_counter() - start) / 60)


def _others(given: argparse.Namespace) -> Iterator[list[object]]:
    """Yield the rows of the other networks: by the plain command, and by the same with training."""
    for task in TASKS:
        if not _is_asked_for(task.name, given):
            continue
        path = str(given.zoo / "models" / f"{task.name}.onnx")
        original = onnx.load(path)
        yield _task_row(task, given, "original", original, original, 0)
        options = _option_sets(given, run_options(task.data, samples=task.samples))
        with data_of(task, given) as data:
            chosen = [{"speedup": each} for each in given.speedups] + [{"macs": 1 / each} for each in given.fewer]
            for budget in chosen or task.budgets:
                asked = ", ".join(f"--{name} {value:.3g}" for name, value in budget.items())
                for way in (way for way in given.ways if way in options or (way == "onnxsim" and "speedup" in budget)):
                    start = time.perf_counter()
                    try:
                        if way == "onnxsim":
                            model = _by_onnxsim(original, task.feed(), budget["speedup"])
                        else:
                            model = pruned(path, data, options[way], **budget)
                    except OnnxPruneError as error:
                        print(f"{task.name} {way} {asked}: {error}", file=sys.stderr, flush=True)
                        continue
                    minutes = (time.perf_counter() - start) / 60
                    yield _task_row(task, given, f"{way}, {asked}", original, model, minutes)


def _task_row(
    task: Task, given: argparse.Namespace, way: str, original: Model, model: Model, minutes: float
) -> list[object]:
    feed = task.feed()
    ratio, ms = _speedup(session_of(original), feed, session_of(model), feed)
    measured, beside = task.measure(given, original, model)
    return [task.name, way, f"{ratio:.2f}x, {ms:.1f} ms", measured, beside, "", f"{minutes:.0f}"]


def _is_asked_for(name: str, given: argparse.Namespace) -> bool:
    return not given.only or any(text in name for text in given.only)


def main() -> None:
    """Print a table, a row as soon as it is there."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="parts of networks' names")
    parser.add_argument("--speedups", nargs="*", type=float, default=[], help="in place of the usual budgets")
    parser.add_argument(
        "--fewer", nargs="*", type=float, default=[], help="budgets of so many times fewer MACs, in place of the usual"
    )
    parser.add_argument("--ways", nargs="*", default=["picture", "plain", "channels"], choices=_WAYS)
    parser.add_argument("--photos", type=int, default=1000, help="for the rows of classifiers without training")
    parser.add_argument("--minutes", type=float, default=45, help="of training, on all inputs")
    given = parser.parse_args()
    print(machine(), flush=True)
    header = ["network", "how", "measured time", "measure", "test: agreement / KL", "unused photos", "minutes"]
    rows: list[list[object]] = []
    for row in chain(_classifiers(given), _others(given)):
        rows.append(row)
        print(table(header, rows[-1:]).splitlines()[-1], flush=True)
    print(table(header, rows))


if __name__ == "__main__":
    main()
