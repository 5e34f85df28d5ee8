"""Damaged files of data, labels and plans: read right, or refused in one line that names the file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxprune.data.labels import read_labels
from onnxprune.data.opening import open_calibration
from onnxprune.data.spec import InputSpec
from onnxprune.errors import DataError, OnnxPruneError, PlanError
from onnxprune.options.data import DataOptions
from onnxprune.planning import Plan

SPEC = InputSpec("x", (None, 3, 8, 8), np.dtype(np.float32))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
FEW = 60  # of each kind in the suite
MANY = 600


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Content of which bytes were flipped, cut out, zeroed or put in twice."""
    found = bytearray(content)
    start, stop = np.sort(rng.integers(0, len(found) + 1, 2))
    kind = rng.integers(5)
    if kind == 0:
        for at in rng.integers(0, len(found), rng.integers(1, 8)):
            found[at] = rng.integers(256)
    elif kind == 1:
        del found[start:]
    elif kind == 2:
        del found[start:stop]
    elif kind == 3:
        found[start:stop] = bytes(stop - start)
    else:
        found[start:start] = found[start:stop]
    return bytes(found)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, PIXELS)
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=PIXELS, labels=np.arange(6), mean=np.ones(3), std=np.ones(3), scale=np.float64(1))
    return stream.getvalue()


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(stream, kind)
    return stream.getvalue()


KINDS = {"npy": npy(), "npz": npz(), **{kind.lower(): picture(kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")}}


def refusal(attempt: Callable[[], object], kind: type[OnnxPruneError] = DataError) -> str:
    """The message of the error of a user that an attempt ends in; empty without one."""
    try:
        attempt()
    except kind as error:
        return str(error)
    return ""


def use(path: Path) -> None:
    """Read all that the file holds; errors of users are the only ones that may come out."""
    found = open_calibration(path, [SPEC], DataOptions(mean=(0.5,), std=(0.5,)))
    values = found.load(range(len(found)))["x"]
    assert values.shape == (len(found), *SPEC.shape[1:])
    assert values.dtype == np.float32


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
def test_data(tmp_path, kind, count):
    rng = np.random.default_rng(7)
    told = []
    for _ in range(count):
        path = tmp_path / f"x.{kind}"
        path.write_bytes(damaged(KINDS[kind], rng))
        told.append(refusal(partial(use, path if kind.startswith("np") else tmp_path)))
    assert any(told)
    assert all(str(tmp_path) in line and "\n" not in line for line in told if line)


@pytest.mark.parametrize("kind", ["npy", "npz", "txt"])
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
def test_labels(tmp_path, kind, count):
    rng = np.random.default_rng(8)
    path = tmp_path / f"labels.{kind}"
    if kind == "txt":
        path.write_text("\n".join(map(str, range(6))))
    elif kind == "npy":
        np.save(path, np.arange(6))
    else:
        np.savez(path, labels=np.arange(6))
    content, found = path.read_bytes(), []
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        line = refusal(lambda: found.append(read_labels(path, 6)))
        assert str(path) in line or not line
    assert all(labels.shape == (6,) and labels.dtype == np.int64 for labels in found)


@pytest.mark.parametrize("content", ["1\n" * 7, "1e400\n" * 6, "9" * 90 + "\n1" * 5, "", "\x00\x01", "1 2 3 4 5 six"])
def test_texts_that_are_no_labels(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_labels(path, 6)
    with pytest.raises(DataError, match=r"none\.txt"):
        read_labels(tmp_path / "none.txt", 6)
    path.write_text("1" + " " * 10_000)
    with pytest.raises(DataError, match="too many"):
        read_labels(path, 6)


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    """Checked would be the first, read the last: a few megabytes become gigabytes."""
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for values in (PIXELS, PIXELS[:2]):
            stream = io.BytesIO()
            np.save(stream, values)
            with nullcontext() if values is PIXELS else pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("x.npy", stream.getvalue())
    with pytest.raises(DataError, match="2 times"):
        use(path)


def test_a_header_that_promises_more_than_there_is(tmp_path):
    content = npy().replace(b"(6, 8, 8, 3)", b"(6000000000, 8, 8, 3)")
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npy"):
        use(tmp_path / "x.npy")


def changed(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value of which one part is of another type, size, or gone."""
    odd = [None, True, -1, 0, 10**30, 1e308, "", "x" * 300, [], {}, [[]], "\x1b[2J", float("nan")]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(len(value))]
        if rng.random() < 0.15:
            return {name: content for name, content in value.items() if name != key}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return odd[rng.integers(len(odd))]


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
def test_plans(tmp_path, tiny, count):
    from onnxprune import prune
    from onnxprune.options.run import Options

    options = Options(bench=False, points=20)
    whole = prune(tiny, macs="2x", dry_run=True, options=options).plan.to_dict()
    rng, path = np.random.default_rng(9), tmp_path / "plan.json"
    for number in range(count):
        text = json.dumps(changed(whole, rng))
        path.write_bytes(damaged(text.encode(), rng) if number % 3 == 0 else text.encode())
        plans: list[Plan] = []
        line = refusal(lambda plans=plans: plans.append(Plan.load(path)), PlanError)
        assert "\n" not in line
        assert bool(line) != bool(plans)
        if plans and number < FEW:
            line = refusal(partial(prune, tiny, plan=plans[0], options=options), OnnxPruneError)
            assert "\n" not in line
