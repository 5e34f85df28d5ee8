"""What all tests share: the shipped models, and the zoo where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.families import FAMILIES, SIDE

import onnxprune
from onnxprune import Options

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT.parent / "shared" / "zoo"


@pytest.fixture(scope="session")
def vgg() -> Path:
    """A shipped chain of convs."""
    return ROOT / "models" / "digits_vgg.onnx"


@pytest.fixture(scope="session")
def resnet() -> Path:
    """A shipped residual network."""
    return ROOT / "models" / "digits_resnet.onnx"


@pytest.fixture(scope="session")
def narrow(resnet, tmp_path_factory) -> Path:
    """The residual network at half of its width, its inputs beside it: a run takes a third of the time."""
    path = tmp_path_factory.mktemp("narrow") / "digits_resnet.onnx"
    onnxprune.prune(resnet, keep_ratio=0.5, options=Options(bench=False, samples=300)).save(path)
    for part in ("calib", "test"):
        shutil.copy(resnet.with_suffix(f".{part}.npz"), path.parent)
    return path


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
    if not (ZOO / "models").is_dir():
        pytest.skip(f"NO ZOO: {ZOO} is absent, so nothing is tested on real models beyond the shipped ones")
    return ZOO
