"""What a run keeps for the next one."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import onnxprune
from onnxprune import Options
from onnxprune.errors import UsageError
from onnxprune.options.budget import BudgetOptions
from onnxprune.steps import checkpoint
from onnxprune.steps.checkpoint import Checkpoint, open_checkpoint, own_folder

ARRAYS = {"a": np.arange(3), "b": np.array("text")}


def test_what_is_saved_is_found_by_a_run_like_it_and_by_no_other(tmp_path):
    open_checkpoint(tmp_path, {"seed": 0}).save("step", ARRAYS)
    again = open_checkpoint(tmp_path, {"seed": 0})
    found = again.load("step")
    assert found is not None
    assert {key: value.tolist() for key, value in found.items()} == {"a": [0, 1, 2], "b": "text"}
    assert again.reused == 1
    assert open_checkpoint(tmp_path, {"seed": 1}).load("step") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04\x95pickle"])
def test_a_file_that_cannot_be_read_counts_as_missing(tmp_path, content):
    kept = open_checkpoint(tmp_path, {})
    kept.save("step", ARRAYS)
    (kept.folder / "step.npz").write_bytes(content)
    assert kept.load("step") is None
    assert kept.reused == 0


def test_a_pickle_inside_an_archive_is_not_loaded(tmp_path):
    kept = open_checkpoint(tmp_path, {})
    np.savez(kept.folder / "step.npz", a=np.array([{"not": "plain"}], dtype=object))
    assert kept.load("step") is None


def test_without_a_folder_nothing_is_kept():
    nowhere = Checkpoint(None)
    nowhere.save("step", ARRAYS)
    assert nowhere.load("step") is None


def test_the_oldest_runs_go_first_and_strangers_stay(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    runs = []
    for age in (3, 2, 1):
        kept = open_checkpoint(tmp_path, {"age": age})
        kept.save("step", {"a": np.zeros(1000)})
        os.utime(kept.folder, (time.time() - age * 1000,) * 2)
        runs.append(kept.folder)
    monkeypatch.setattr(checkpoint, "_MOST_BYTES", 20_000)
    open_checkpoint(tmp_path, {"age": 0})
    assert [folder.is_dir() for folder in runs] == [False, True, True]
    assert (tmp_path / "photos").is_dir()


def test_what_killed_runs_left_goes_once_it_is_old(tmp_path):
    own = own_folder(tmp_path)
    old, young, stranger = own / "onnxprune-old", own / "onnxprune-young", tmp_path / "onnxprune-results"
    for folder in (old, young, stranger):
        folder.mkdir(parents=True)
    for folder in (old, stranger):
        os.utime(folder, (time.time() - 7 * 24 * 3600,) * 2)
    open_checkpoint(tmp_path, {})
    assert not old.exists()
    assert young.exists()
    assert stranger.exists()


def test_a_folder_that_cannot_be_made_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--no-cache"):
        open_checkpoint(tmp_path / "file", {})


def test_a_step_of_other_layers_is_not_taken_for_ones_own(vgg, tmp_path):
    """With less memory a layer may be left out: what an earlier run kept then belongs to other steps."""
    half = BudgetOptions(macs="2x").budget()
    options = Options(bench=False, samples=60, cache_dir=tmp_path, recipe="prune", budget=half)
    first = onnxprune.prune(vgg, options=options)
    for archive in own_folder(tmp_path).rglob("step-*.npz"):
        with np.load(archive) as kept:
            arrays = {name: kept[name] for name in kept.files}
        arrays["names"] = np.array(["somebody", "", "else"])
        np.savez(archive, **arrays)
    again = onnxprune.prune(vgg, options=options)
    assert again.model.SerializeToString() == first.model.SerializeToString()
