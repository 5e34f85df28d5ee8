"""What is put is what is got, wherever it lies, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.engine.store import TensorStore
from onnxprune.errors import OutputError

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4),
)
KB = np.zeros(1024, np.uint8)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def same(left: Any, right: Any) -> bool:
    return bool(left.dtype == right.dtype and left.shape == right.shape and np.array_equal(left, right, equal_nan=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(arrays, min_size=1, max_size=5), st.sampled_from([0, 40, 1 << 20]))
def test_what_is_put_is_what_is_got(tensors: list[Any], limit: int) -> None:
    with TensorStore(limit) as store:
        for key, array in enumerate(tensors):
            store.put(("net", 0, key), array)
        for _ in range(2):
            assert all(same(store.get(("net", 0, key)), array) for key, array in enumerate(tensors))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 50)), max_size=40), st.integers(0, 400))
def test_puts_and_drops_in_any_order_behave_like_a_dictionary(steps: list[tuple[bool, int, int]], limit: int) -> None:
    wanted: dict[int, Any] = {}
    with TensorStore(limit) as store:
        for put, key, size in steps:
            if put:
                wanted[key] = np.arange(size, dtype=np.int64)
                store.put(key, wanted[key])
            else:
                wanted.pop(key, None)
                store.drop(key)
        assert all(same(store.get(key), array) for key, array in wanted.items())
        for key in set(range(5)) - set(wanted):
            with pytest.raises(KeyError):
                store.get(key)


def test_a_view_that_is_not_contiguous_comes_back_from_a_file() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    with TensorStore(0) as store:
        store.put("a", array)
        assert same(store.get("a"), array)


def test_within_the_limit_no_file_is_written(tmp_path: Path) -> None:
    with TensorStore(2048, tmp_path) as store:
        store.put("a", KB)
        store.put("b", KB)
        assert store.spilled == 0
    assert not list(tmp_path.iterdir())


def test_beyond_the_limit_arrays_go_to_files(tmp_path: Path) -> None:
    with TensorStore(2048, tmp_path) as store:
        for key in "abcd":
            store.put(key, KB)
        assert store.spilled == 2
        assert len(files(tmp_path)) == 2


def test_dropping_frees_the_budget(tmp_path: Path) -> None:
    with TensorStore(1024, tmp_path) as store:
        for _ in range(10):
            store.put("a", KB)
            store.drop("a")
        store.put("a", KB)
        assert store.spilled == 0


def test_putting_again_replaces_and_frees_the_budget(tmp_path: Path) -> None:
    with TensorStore(1024, tmp_path) as store:
        for value in range(10):
            store.put("a", KB + value)
        assert store.spilled == 0
        assert store.get("a")[0] == 9


def test_dropping_what_was_spilled_deletes_its_file_and_frees_no_memory(tmp_path: Path) -> None:
    with TensorStore(1024, tmp_path) as store:
        store.put("a", KB)
        store.put("b", KB)
        store.drop("b")
        assert not files(tmp_path)
        store.put("c", KB)
        assert store.spilled == 2


def test_dropping_an_unknown_key_is_ignored() -> None:
    with TensorStore(10) as store:
        store.drop("nothing")


def test_all_files_are_gone_at_the_end(tmp_path: Path) -> None:
    with TensorStore(0, tmp_path) as store:
        store.put("a", KB)
        assert files(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_all_files_are_gone_when_an_exception_ends_the_block(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with TensorStore(0, tmp_path) as store:
            store.put("a", KB)
            assert files(tmp_path)
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    with TensorStore(0, tmp_path / "new" / "folder") as store:
        store.put("a", KB)
        assert same(store.get("a"), KB)


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with TensorStore(0, tmp_path / "file") as store, pytest.raises(OutputError, match="file: no folder"):
        store.put("a", KB)


def test_a_full_disk_is_an_output_error_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with TensorStore(0, tmp_path) as store:
        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OutputError, match=r"No space left.*--memory"):
            store.put("a", KB)
