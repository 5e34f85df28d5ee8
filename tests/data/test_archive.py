"""NumPy files: what is read from them, and what is refused."""

import re
import zipfile

import numpy as np
import pytest

from onnxprune.data import InputSpec, archive, open_calibration
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc, notes, pixels

AS_IS = DataOptions(preset="none")
TWO = [nchw(), InputSpec("size", (None, 2), FLOAT)]


def test_an_npy_file_and_the_same_array_in_memory_give_the_same_values_and_digest(tmp_path):
    images = pixels(4, 8, 8, 3)
    np.save(tmp_path / "x.npy", images)
    from_file = open_calibration(tmp_path / "x.npy", [nchw()], NO_OPTIONS)
    in_memory = open_calibration(images, [nchw()], NO_OPTIONS)
    assert from_file.description["kind"] == "npy"
    np.testing.assert_array_equal(from_file.load([3, 1])["x"], in_memory.load([3, 1])["x"])
    assert from_file.digest() == in_memory.digest()


def test_an_npy_file_is_mapped_and_what_is_loaded_is_not(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    found = open_calibration(tmp_path / "x.npy", [nchw()], NO_OPTIONS)
    assert isinstance(found.tensors["x"], np.memmap)
    loaded = found.load([0, 1])["x"]
    assert type(loaded) is np.ndarray
    loaded += 1


@pytest.mark.parametrize("key", ["images", "x", "anything"])
def test_an_npz_gives_the_array_named_like_the_input_or_images_or_the_only_one(tmp_path, key):
    images = pixels(3, 8, 8, 3)
    np.savez_compressed(tmp_path / "x.npz", **{key: images})
    np.testing.assert_array_equal(open_calibration(tmp_path / "x.npz", [nhwc()], AS_IS).load([0, 1, 2])["x"], images)


def test_images_are_preferred_to_other_arrays_which_are_named_in_a_note(tmp_path):
    np.savez(tmp_path / "x.npz", images=pixels(3, 8, 8, 3), thumbnails=pixels(3, 2, 2, 3))
    assert "arrays not used: thumbnails" in notes(open_calibration(tmp_path / "x.npz", [nchw()], AS_IS))


def test_an_npz_without_a_fitting_array_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "x.npz", ilr=pixels(3, 8, 8, 3), gt=pixels(3, 8, 8, 3))
    with pytest.raises(DataError, match=re.escape("x.npz: arrays 'ilr', 'gt', expected 'x', 'images', or a single")):
        open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)
    with pytest.raises(DataError, match=re.escape("arrays 'ilr', 'gt', expected 'x', 'size'")):
        open_calibration(tmp_path / "x.npz", TWO, NO_OPTIONS)


def test_labels_are_handed_on_and_must_be_one_integer_a_sample(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=pixels(3, 8, 8, 3), labels=np.array([2, 0, 1], np.uint8))
    labels = open_calibration(path, [nchw()], NO_OPTIONS).labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]
    for wrong in (np.arange(4), np.zeros(3), np.zeros((3, 1), int)):
        np.savez(path, images=pixels(3, 8, 8, 3), labels=wrong)
        with pytest.raises(DataError, match=r"x\.npz: labels are .* expected one integer for each of 3 samples"):
            open_calibration(path, [nchw()], NO_OPTIONS)


@pytest.mark.parametrize(
    "stored",
    [
        {"mean": [1.0, 2.0]},
        {"scale": [1.0, 2.0]},
        {"std": 0.0},
        {"mean": np.nan},
        {"scale": -1},
        {"std": "a"},
    ],
)
def test_a_stored_recipe_that_cannot_be_used_names_the_file(tmp_path, stored):
    np.savez(tmp_path / "x.npz", images=pixels(3, 8, 8, 3), **stored)
    with pytest.raises(DataError, match=r"x\.npz: "):
        open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)


def test_several_inputs_come_by_name_as_they_are(tmp_path):
    image, size = np.random.default_rng(0).random((3, 3, 8, 8)), np.ones((3, 2), np.float32)
    np.savez(tmp_path / "x.npz", x=image, size=size, labels=np.arange(3))
    found = open_calibration(tmp_path / "x.npz", TWO, NO_OPTIONS)
    assert found.inputs == ("x", "size")
    loaded = found.load([2, 0])
    assert [array.dtype for array in loaded.values()] == [np.float32, np.float32]
    np.testing.assert_array_equal(loaded["x"], image[[2, 0]].astype(np.float32))
    assert found.labels.tolist() == [0, 1, 2]
    assert found.description["preprocessing"] is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((3, 3, 8, 8)), "size": np.zeros((2, 2))}, "[2, 3] samples"),
        ({"x": np.zeros((3, 3, 8, 8)), "size": np.zeros((3, 5))}, "[size]: shape (3, 5), expected (N, 2)"),
        (
            {"x": pixels(3, 3, 8, 8), "size": np.zeros((3, 2))},
            "[x]: uint8 for input 'x', which takes float32",
        ),
        ({"x": np.full((3, 3, 8, 8), np.nan), "size": np.zeros((3, 2))}, "[x]: sample 0 holds NaN"),
    ],
)
def test_several_inputs_that_do_not_fit_are_named(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=re.escape(words)):
        open_calibration(tmp_path / "x.npz", TWO, NO_OPTIONS)


def test_several_inputs_take_no_preprocessing_and_no_single_array(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 3, 8, 8)), size=np.zeros((3, 2)))
    with pytest.raises(UsageError, match=r"x\.npz: values are taken as model-ready, expected no --preset"):
        open_calibration(tmp_path / "x.npz", TWO, AS_IS)
    np.save(tmp_path / "x.npy", np.zeros((3, 3, 8, 8)))
    with pytest.raises(DataError, match=r"x\.npy: one array, but the model has inputs 'x', 'size'"):
        open_calibration(tmp_path / "x.npy", TWO, NO_OPTIONS)


def test_pickles_are_never_loaded(tmp_path):
    trap = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=trap, allow_pickle=True)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=f"{re.escape(name)}: cannot be read as a NumPy file"):
            open_calibration(tmp_path / name, [nchw()], NO_OPTIONS)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=f"{re.escape(name)}: (cannot be read as a NumPy file: .|neither an .npy nor an .npz)"
    ) as caught:
        open_calibration(tmp_path / name, [nchw()], NO_OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_cut_in_half_is_named(tmp_path, name):
    images = pixels(20, 8, 8, 3)
    if name == "x.npy":
        np.save(tmp_path / name, images)
    else:
        np.savez(tmp_path / name, images=images)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{re.escape(name)}: cannot be read"):
        open_calibration(tmp_path / name, [nchw()], NO_OPTIONS)


def test_a_member_that_claims_more_than_it_holds_is_refused(tmp_path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3)}"
    header = header.ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(DataError, match=r"x\.npz: cannot be read"):
        open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)


def test_a_member_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((200, 8, 8, 3), np.uint8))
    assert len(open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)) == 200
    monkeypatch.setattr(archive, "BOMB_BYTES", 10_000)
    monkeypatch.setattr(archive, "BOMB_RATIO", 50)
    with pytest.raises(DataError, match=r"counts as a decompression bomb: save it as \.npy"):
        open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)


def test_a_member_that_is_no_array_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("images", "hello")
    with pytest.raises(DataError, match=r"x\.npz: 'images' is not a NumPy array"):
        open_calibration(tmp_path / "x.npz", [nchw()], NO_OPTIONS)


def test_without_data_the_file_beside_the_model_is_used(tmp_path):
    images = pixels(3, 8, 8, 3)
    np.savez(tmp_path / "net.calib.npz", images=images, scale=1.0)
    found = open_calibration(None, [nhwc()], NO_OPTIONS, model_path=tmp_path / "net.onnx")
    np.testing.assert_array_equal(found.load([0, 1, 2])["x"], images)
    assert not found.synthetic
    assert "found beside the model" in notes(found)
    assert found.description["source"] == str(tmp_path / "net.calib.npz")


def test_a_damaged_file_beside_the_model_is_an_error_and_not_made_up_for(tmp_path):
    (tmp_path / "net.calib.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"net\.calib\.npz: cannot be read"):
        open_calibration(None, [nhwc()], NO_OPTIONS, model_path=tmp_path / "net.onnx")
