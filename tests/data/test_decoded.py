"""Images are decoded once, whatever is asked for how often."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import decoded, open_calibration
from onnxprune.data.decoded import Decoded, decoded_once
from onnxprune.options.data import DataOptions

from .helpers import nchw, save_image


@pytest.fixture
def photos(tmp_path):
    for index in range(6):
        save_image(tmp_path / "photos" / f"{index}.png", seed=index)
    return open_calibration(tmp_path / "photos", [nchw()], DataOptions(preset="none"))


@pytest.fixture
def counted(monkeypatch, photos):
    """Indices of the images that were decoded, in order."""
    read, seen = type(photos.images).read, []

    def counting(self, index):
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(type(photos.images), "read", counting)
    return seen


def test_every_image_is_decoded_once_and_gives_the_same_values(tmp_path, photos, counted):
    wanted = photos.load(range(6))["x"]
    counted.clear()
    kept = decoded_once(photos, tmp_path)
    for asked in ([0, 1, 2], [2, 0], [1, 3, 1], list(range(6)), [5, 5]):
        found = kept.load(asked)["x"]
        np.testing.assert_array_equal(found, wanted[asked])
        found[:] = -1  # the caller may change it
    assert sorted(counted) == list(range(6))
    assert len(kept) == 6
    assert kept.digest() == photos.digest()
    assert (kept.inputs, kept.labels, kept.synthetic) == (photos.inputs, photos.labels, photos.synthetic)
    assert kept.description == photos.description


def test_beyond_the_limit_images_are_decoded_again(tmp_path, photos, counted, monkeypatch):
    one = photos.load([0])["x"].nbytes
    monkeypatch.setattr(decoded, "_MOST_BYTES", 2 * one)
    kept = Decoded(photos, tmp_path)
    counted.clear()
    for _ in range(3):
        kept.load(range(6))
    assert len(list(tmp_path.glob("input-*.npy"))) == 2
    assert len(counted) == 6 + 2 * 4


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path, photos, monkeypatch):
    def full(path, *_, **__):
        Path(path).write_bytes(b"cut")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.np, "save", full)
    kept = Decoded(photos, tmp_path)
    np.testing.assert_array_equal(kept.load([0, 1])["x"], photos.load([0, 1])["x"])
    np.testing.assert_array_equal(kept.load([1, 0])["x"], photos.load([1, 0])["x"])
    assert not list(tmp_path.glob("input-*.npy"))


def test_tensors_are_left_as_they_are(tmp_path):
    tensors = open_calibration({"x": np.zeros((4, 3, 8, 8), np.float32)}, [nchw()], DataOptions())
    assert decoded_once(tensors, tmp_path) is tensors


@given(indices=st.lists(st.integers(-2, 8), max_size=4))
def test_what_cannot_be_asked_of_the_images_cannot_be_asked_of_their_copy(tmp_path_factory, indices):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(6):
        save_image(folder / f"{index}.png", seed=index)
    photos = open_calibration(folder, [nchw()], DataOptions(preset="none"))
    kept = Decoded(photos, folder)
    kept.load([0, 1])
    if not indices or min(indices) < 0 or max(indices) > 5:
        with pytest.raises((IndexError, ValueError)):
            kept.load(indices)
    else:
        np.testing.assert_array_equal(kept.load(indices)["x"], photos.load(indices)["x"])


def test_on_a_small_disk_most_of_the_room_is_left(tmp_path, photos, monkeypatch):
    one = photos.load([0])["x"].nbytes
    free = shutil._ntuple_diskusage(100 * one, 76 * one, 24 * one)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: free)
    kept = Decoded(photos, tmp_path)
    kept.load(range(6))
    assert len(list(tmp_path.glob("input-*.npy"))) == 3


def test_images_in_memory_are_left_as_they_are(tmp_path):
    images = open_calibration(np.zeros((4, 8, 8, 3), np.uint8), [nchw()], DataOptions(preset="none"))
    assert decoded_once(images, tmp_path) is images
