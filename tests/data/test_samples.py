"""Folders of arrays, files that cannot be read, 16-bit images, and the letterbox."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxprune import cli
from onnxprune.console.sources import source_of
from onnxprune.data import InputSpec, open_calibration
from onnxprune.errors import DataError, UsageError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, notes, save_image

RNG = np.random.default_rng(0)
SKIPPING = DataOptions(skip_unreadable=True)
TWO = (InputSpec("a", (None, 3), FLOAT), InputSpec("b", (None, 2), FLOAT))


def samples(folder, count: int = 5) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    values = RNG.standard_normal((count, 3, 8, 8)).astype(np.float32)
    for index, sample in enumerate(values):
        np.save(folder / f"{index}.npy", sample if index % 2 else sample[None])
    return values


def test_a_folder_of_arrays_is_read_like_one_of_images(tmp_path):
    values = samples(tmp_path / "s")
    found = open_calibration(tmp_path / "s", [nchw()], NO_OPTIONS)
    np.testing.assert_array_equal(found.load(range(5))["x"], values)
    with pytest.raises(UsageError, match="--mean"):
        open_calibration(tmp_path / "s", [nchw()], DataOptions(mean=(0.5,)))


def test_a_folder_of_archives_feeds_several_inputs(tmp_path):
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", a=np.full(3, index, np.float32), b=np.full((1, 2), index, np.float32))
    found = open_calibration(tmp_path, TWO, NO_OPTIONS)
    assert found.load([2])["b"].tolist() == [[2, 2]]


@pytest.mark.parametrize("content", [b"", b"nonsense", "shape"])
def test_an_array_that_cannot_be_read_is_named_or_left_out(tmp_path, content):
    values = samples(tmp_path / "s")
    if content == "shape":
        np.save(tmp_path / "s" / "2.npy", np.zeros((3, 8, 9), np.float32))
    else:
        (tmp_path / "s" / "2.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"2\.npy"):
        open_calibration(tmp_path / "s", [nchw()], NO_OPTIONS)
    found = open_calibration(tmp_path / "s", [nchw()], SKIPPING)
    np.testing.assert_array_equal(found.load(range(4))["x"], values[[0, 1, 3, 4]])
    assert "1 unreadable files left out, the first: " in notes(found)


@pytest.mark.parametrize("left", [0, 40, -100])
def test_an_image_that_cannot_be_read_is_named_or_left_out(tmp_path, left):
    for index in range(4):
        save_image(tmp_path / f"{index}.png", seed=index)
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[:left])
    with pytest.raises(DataError, match=r"2\.png.*--skip-unreadable"):
        open_calibration(tmp_path, [nchw()], NO_OPTIONS).load(range(4))
    found = open_calibration(tmp_path, [nchw()], SKIPPING)
    assert len(found) == 3
    found.load(range(3))
    assert "1 unreadable files left out" in notes(found)


def test_where_nothing_can_be_read_it_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 unreadable"):
        open_calibration(tmp_path, [nchw()], SKIPPING)
    (tmp_path / "a.png").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="none of 1 files"):
        open_calibration(tmp_path, [nchw()], SKIPPING)


def test_sixteen_bits_are_scaled_by_their_range(tmp_path):
    values = RNG.integers(0, 65536, (8, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / "flat.png")
    found = open_calibration(tmp_path, [nchw(channels=1)], DataOptions(scale=1 / 255)).load([0, 1])["x"]
    np.testing.assert_allclose(found[0, 0], values / 65535, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0], found[1], atol=1 / 255)


@pytest.mark.parametrize(
    ("size", "inner"), [((8, 16), (4, 8)), ((16, 8), (8, 4)), ((3, 3), (8, 8)), ((1, 100), (1, 8))]
)
def test_the_letterbox_keeps_proportions(tmp_path, size, inner):
    Image.fromarray(np.full((*size, 3), 255, np.uint8)).save(tmp_path / "a.png")
    options = DataOptions(resize_mode="fit", scale=1)
    image = open_calibration(tmp_path, [nchw()], options).load([0])["x"][0, 0]
    inside = image == 255
    assert (inside.any(1).sum(), inside.any(0).sum()) == inner
    assert set(np.unique(image)) <= {114, 255}
    rows = np.flatnonzero(inside.any(1))
    assert abs(rows[0] - (7 - rows[-1])) <= 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"pad_value": 3}, "--resize-mode fit"),
        ({"resize_mode": "fit", "pad_value": 300}, "--pad-value"),
        ({"resize_mode": "fit", "crop": (8,)}, "--crop"),
        ({"resize_mode": "fit", "resize": (8,)}, "H W"),
        ({"resize_mode": "box"}, "--resize-mode"),
    ],
)
def test_options_of_the_letterbox_that_do_not_fit(given, named):
    with pytest.raises(UsageError, match=named):
        DataOptions(**given)


def test_the_letterbox_needs_a_size(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="add --resize H W"):
        open_calibration(tmp_path, [nchw(None, None)], DataOptions(resize_mode="fit"))


FUNCTIONS = """
import numpy as np
def array(): return np.ones((4, 3, 8, 8), np.float32)
def several():
    for index in range(4): yield {"x": np.full((3, 8, 8), index, np.float32)}
def wrong(): return 3
def fails(): raise ValueError("no\\ncamera")
def fails_later():
    yield np.ones((3, 8, 8), np.float32)
    raise OSError("gone")
"""


def test_inputs_from_a_function(tmp_path):
    file = tmp_path / "inputs.py"
    file.write_text(FUNCTIONS)
    assert len(open_calibration(source_of(f"{file}:array"), [nchw()], NO_OPTIONS)) == 4
    found = open_calibration(source_of(f"{file}:several"), [nchw()], NO_OPTIONS)
    assert found.load([3])["x"].max() == 3
    assert source_of("photos/") == "photos/"
    assert source_of(None) is None
    for name, told in (
        ("wrong", "returned int"),
        ("fails", r"inputs\.py:\d+: ValueError: no"),
        ("fails_later", "OSError: gone"),
    ):
        with pytest.raises(DataError, match=told):
            open_calibration(source_of(f"{file}:{name}"), [nchw()], NO_OPTIONS)
    with pytest.raises(UsageError, match=r"--inputs-from: .* does not exist"):
        source_of(f"{file}:nothing")


def test_inputs_from_a_function_on_the_command_line(tmp_path, capsys):
    import onnx
    from graph.model.test_constants import model_of, x

    model = model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { h = Conv (x, w)  r = Relu (h)  y = Conv (r, v) }",
        w=x(16, 3, 3, 3),
        v=x(4, 16, 1, 1),
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "inputs.py").write_text(
        FUNCTIONS.replace("(4, 3, 8, 8)", "(40, 3, 8, 8)").replace("ones", "random.rand")
    )
    source = f"{tmp_path / 'inputs.py'}:fails"
    given = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.onnx"), "--macs", "80%", "--no-bench"]
    assert cli.main([*given, "--inputs-from", source]) == DataError.exit_code
    assert "no camera" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_images_are_cast_for_an_input_of_integers(tmp_path, dtype):
    pixels = save_image(tmp_path / "a.png")
    found = open_calibration(tmp_path, [nchw(dtype=dtype)], NO_OPTIONS).load([0])["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0], pixels.transpose(2, 0, 1))
