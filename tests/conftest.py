"""What all tests share: the shipped models, and the zoo where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.families import FAMILIES, SIDE
from runs import zoo_folder

import onnxprune
from onnxprune import Options
from onnxprune.engine.latency import Task
from onnxprune.engine.timing import Latency, Timing
from onnxprune.options.solve import RefitOptions
from onnxprune.planning.assignment import Assignment
from onnxprune.steps import time_layers as latency
from onnxprune.steps.bench import Bench

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vgg() -> Path:
    """A shipped chain of convs."""
    return ROOT / "models" / "digits_vgg.onnx"


@pytest.fixture(scope="session")
def resnet() -> Path:
    """A shipped residual network."""
    return ROOT / "models" / "digits_resnet.onnx"


def halved(model: Path, folder: Path) -> Path:
    """A shipped network at half of its width, its inputs beside it: a run takes a third of the time."""
    path = folder / model.name
    options = Options(bench=False, samples=300, refit=RefitOptions(refit="linear"))
    onnxprune.prune(model, keep_ratio=0.5, options=options).save(path)
    for part in ("calib", "test"):
        shutil.copy(model.with_suffix(f".{part}.npz"), folder)
    return path


@pytest.fixture(scope="session")
def narrow(resnet, tmp_path_factory) -> Path:
    """The residual network at half of its width."""
    return halved(resnet, tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="session")
def slim(vgg, tmp_path_factory) -> Path:
    """The chain at half of its width."""
    return halved(vgg, tmp_path_factory.mktemp("slim"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A chain of a few narrow convs with 44 inputs beside it: a run takes a moment."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(FAMILIES["vgg_bn"](), path)
    inputs = np.random.default_rng(0).standard_normal((44, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(path.with_suffix(".calib.npz"), x=inputs)
    return path


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of zoo models; tests that need it are skipped where it is absent."""
    return zoo_folder()


def positions(task: Task) -> int:
    window = task.kernel.window
    return int(np.prod(task.kernel.extents if window is None else window.outputs(task.kernel.extents)))


@pytest.fixture
def machine(monkeypatch):
    """An engine on which a MAC takes one nanosecond, and each network `overhead` ms more; records what it timed.

    `spread`: of the interval of each measurement. `stretch`: wall time over CPU time. `folding`: how many times longer
    the original takes as given.
    """

    def make(overhead: float, spread: float = 0.01, stretch: float = 1.0, folding: float = 1.0) -> list[float]:
        timed: list[float] = []

        def took(bench, assignment) -> float:
            return bench._run.cost.macs(assignment) / 1e6 + overhead

        def before(bench) -> float:
            return folding * (bench._run.before.macs() / 1e6 + overhead)

        def timing(bench, assignment, *, again=False) -> Timing:
            timed.append(before(bench) / took(bench, assignment))
            one = Latency(1.0, 1.0, 9, 1.0)
            ends = timed[-1] * (1 - spread), timed[-1] * (1 + spread)
            return Timing(one, one, timed[-1], *ends, "CPU", 1, 1, 3, "cpu", stretch)

        def measured(engine, tasks, scratch, progress):
            return {task: int(np.prod(task.weight)) * positions(task) / 1e6 for task in tasks}

        monkeypatch.setattr(Bench, "timing", timing)
        monkeypatch.setattr(Bench, "before_ms", property(before))
        monkeypatch.setattr(Bench, "folding", folding)
        monkeypatch.setattr(Bench, "whole_ms", property(lambda bench: took(bench, Assignment())))
        monkeypatch.setattr(latency, "measured", measured)
        return timed

    return make
