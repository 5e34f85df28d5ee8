"""What a run keeps for the next one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune import Options, cache
from onnxprune.cache import Cache, scratch_parent
from onnxprune.errors import UsageError
from onnxprune.note import RunWarning
from onnxprune.options.budget import BudgetOptions

ARRAYS = {"a": np.arange(3), "none": np.zeros((0, 2)), "one": np.float64(2.5), "turned": np.arange(6.0).reshape(2, 3).T}
FACTS = {"names": ["x", "y"], "nan": float("nan")}


def checkpoint(folder, seed=0):
    return Cache(folder, lambda: {"seed": seed}).checkpoint("stage", 1)


def test_what_is_saved_is_found_by_a_run_like_it_and_by_no_other(tmp_path):
    checkpoint(tmp_path).save("step", ARRAYS, FACTS)
    again = checkpoint(tmp_path)
    found = again.load("step")
    assert found is not None
    assert all(np.array_equal(found.arrays[key], value) for key, value in ARRAYS.items())
    assert found.arrays.keys() == ARRAYS.keys()
    assert found.facts["names"] == ["x", "y"]
    assert again.reused == 1
    assert checkpoint(tmp_path, seed=1).load("step") is None
    assert Cache(tmp_path, lambda: {"seed": 0}).checkpoint("stage", 2).load("step") is None
    assert again.load("another") is None


def test_whoever_edits_the_source_gets_no_results_of_the_old_one(tmp_path, monkeypatch):
    checkpoint(tmp_path).save("step", ARRAYS)
    monkeypatch.setattr(cache, "code_digest", lambda: "of other source")
    assert checkpoint(tmp_path).load("step") is None


def test_the_digest_of_the_source_changes_with_any_file_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "solve").mkdir()
    (tmp_path / "solve" / "refits.py").write_text("x = 1\n")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    before = cache.code_digest.__wrapped__()
    (tmp_path / "solve" / "refits.py").write_text("x = 2\n")
    assert cache.code_digest.__wrapped__() != before


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"\x08\0\0\0\0\0\0\0{}", pickle.dumps({"a": 1})])
def test_a_value_that_cannot_be_read_counts_as_missing(tmp_path, content):
    kept = checkpoint(tmp_path)
    kept.save("step", ARRAYS)
    kept._store.set(f"{kept._key}/step", content)
    assert kept.load("step") is None
    assert kept.reused == 0


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_the_store_is_not_loaded(tmp_path):
    kept, trap = checkpoint(tmp_path), tmp_path / "trapped"
    kept.save("step", ARRAYS)
    with sqlite3.connect(scratch_parent(tmp_path) / "store" / "cache.db") as store:
        store.execute("UPDATE Cache SET mode = 4, filename = NULL, value = ?", (pickle.dumps(Bomb(trap)),))
    assert checkpoint(tmp_path).load("step") is None
    assert not trap.exists()


def test_a_store_that_is_no_store_is_made_anew(tmp_path):
    place = scratch_parent(tmp_path) / "store"
    place.mkdir()
    (place / "cache.db").write_bytes(b"no database" * 1000)
    kept = checkpoint(tmp_path)
    kept.save("step", ARRAYS)
    assert checkpoint(tmp_path).load("step") is not None


def test_without_a_folder_nothing_is_kept():
    nowhere = Cache(None, dict).checkpoint("stage")
    nowhere.save("step", ARRAYS)
    assert nowhere.load("step") is None


def test_the_oldest_values_are_deleted_when_a_run_begins_and_strangers_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_MOST_BYTES", 3_000_000)
    (tmp_path / "photos").mkdir()
    kept = checkpoint(tmp_path)
    for number in range(40):
        kept.save(f"step-{number}", {"a": np.zeros(12_500)})
    assert all(kept.load(f"step-{number}") for number in range(40))  # a run keeps its own, however large
    again = checkpoint(tmp_path)
    left = [again.load(f"step-{number}") is not None for number in range(40)]
    assert left[-1]
    assert not left[0]
    assert (tmp_path / "photos").is_dir()


def test_on_a_full_disk_what_was_kept_is_still_found_and_nothing_half_written_stays(tmp_path, monkeypatch):
    checkpoint(tmp_path).save("step", {"a": np.zeros(100_000)})
    real = cache.diskcache.Disk._write

    def full(self, path, *arguments, **options):
        real(self, path, *arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.diskcache.Disk, "_write", full)
    kept = checkpoint(tmp_path)
    kept.save("other", {"a": np.zeros(100_000)})
    assert kept.load("other") is None
    assert kept.load("step") is not None
    assert len(list(tmp_path.rglob("*.val"))) == 1


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "full")])
def test_a_store_that_cannot_be_used_now_is_left_alone(tmp_path, monkeypatch, error):
    checkpoint(tmp_path).save("step", ARRAYS)

    def refuse(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(cache.diskcache, "Cache", refuse)
        with pytest.warns(RunWarning, match="caching is off"):
            nowhere = checkpoint(tmp_path)
        assert nowhere.load("step") is None
    assert checkpoint(tmp_path).load("step") is not None


def test_a_file_that_no_value_names_goes_once_it_is_old(tmp_path):
    checkpoint(tmp_path).save("step", {"a": np.zeros(100_000)})
    place = next(tmp_path.rglob("*.val")).parent
    for name, age in (("old.val", 7200), ("young.val", 60)):
        (place / name).write_bytes(b"half")
        os.utime(place / name, (time.time() - age,) * 2)
    assert checkpoint(tmp_path).load("step") is not None
    assert {path.name for path in place.glob("*ng.val")} == {"young.val"}
    assert not (place / "old.val").exists()


def write_and_read(folder: Path, number: int) -> bool:
    kept = checkpoint(folder)
    for place in range(20):
        kept.save(f"step-{place}", {"a": np.full(20_000, place)}, number)
        # A value that another run replaces between the two steps of reading it is missing for a moment, never wrong.
        found = next(filter(None, (kept.load(f"step-{place}") for _ in range(100))), None)
        if found is None or not (found.arrays["a"] == place).all():
            return False
    return True


def test_runs_may_share_a_folder(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert all(pool.starmap(write_and_read, [(tmp_path, number) for number in range(3)]))


def test_results_of_early_versions_go_and_strangers_stay(tmp_path):
    own = scratch_parent(tmp_path)
    stranger, earlier = tmp_path / "onnxprune-results", own / ("0123456789abcdef" * 2)
    for folder in (stranger, earlier):
        folder.mkdir(parents=True)
    checkpoint(tmp_path)
    assert not earlier.exists()
    assert stranger.exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_value_with_any_bit_changed_counts_as_missing(tmp_path, draw):
    kept = checkpoint(tmp_path)
    kept.save("step", ARRAYS)
    place = f"{kept._key}/step"
    stored = bytearray(kept._store.get(place))
    at = draw.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= 1 << draw.draw(st.integers(0, 7))
    kept._store.set(place, bytes(stored))
    assert kept.load("step") is None
    kept._store.set(place, bytes(stored[:at]))
    assert kept.load("step") is None


def test_a_value_that_was_stored_for_another_step_counts_as_missing(tmp_path):
    kept = checkpoint(tmp_path)
    kept.save("step", ARRAYS)
    kept._store.set(f"{kept._key}/other", kept._store.get(f"{kept._key}/step"))
    assert kept.load("step") is not None
    assert kept.load("other") is None


def test_without_a_home_folder_the_way_out_is_named(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", homeless)
    with pytest.raises(UsageError, match="XDG_CACHE_HOME"):
        cache.default_cache_dir()


def test_a_folder_that_cannot_be_made_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--no-cache"):
        checkpoint(tmp_path / "file")


@pytest.mark.slow
def test_a_step_of_other_layers_is_not_taken_for_ones_own(vgg, tmp_path, monkeypatch):
    """With less memory a layer may be left out: what an earlier run kept then belongs to other steps."""
    half = BudgetOptions(macs="2x").budget()
    options = Options(bench=False, samples=60, cache_dir=tmp_path, recipe="prune", budget=half)
    first = onnxprune.prune(vgg, options=options)
    load, seen = cache.Checkpoint.load, []

    def strange(self, name):
        found = load(self, name)
        if found is not None and name.startswith("step-"):
            seen.append(name)
            found.facts["sites"] = ["somebody", "else"]
        return found

    monkeypatch.setattr(cache.Checkpoint, "load", strange)
    again = onnxprune.prune(vgg, options=options)
    assert seen
    assert again.model.SerializeToString() == first.model.SerializeToString()
