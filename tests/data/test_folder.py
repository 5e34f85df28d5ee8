import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxprune.data import InputSpec, open_calibration
from onnxprune.data.images import scan_folder
from onnxprune.errors import DataError
from onnxprune.options.data import DataOptions

from .helpers import FLOAT, NO_OPTIONS, nchw, nhwc, notes, pixels, save_image

AS_IS = DataOptions(preset="none")


def png_claiming(width, height):
    """A PNG header for an image of any size, with next to nothing behind it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_images_are_found_below_the_folder_in_order_and_other_files_are_counted(tmp_path):
    last = save_image(tmp_path / "b" / "1.png", seed=1)
    first = save_image(tmp_path / "a" / "2.BMP", seed=2)
    middle = save_image(tmp_path / "a" / "deep" / "0.ppm", seed=3)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / "._1.png").write_bytes(b"no image")
    found = open_calibration(tmp_path, [nhwc()], AS_IS)
    np.testing.assert_array_equal(found.load([0, 1, 2])["x"], np.stack([first, middle, last]))
    assert len(found) == found.description["count"] == 3
    assert found.description["skipped_files"] == 2
    assert found.description["kind"] == "folder"
    assert found.labels is None
    assert not found.synthetic


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "bmp", "webp", "ppm", "tif", "tiff", "gif"])
def test_every_promised_format_is_read(tmp_path, extension):
    gradient = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    Image.fromarray(gradient).convert("RGB").save(tmp_path / f"x.{extension}")
    loaded = open_calibration(str(tmp_path), [nhwc(32, 32)], AS_IS).load([0])["x"]
    assert np.abs(loaded[0, :, :, 1] - gradient).mean() < 3


def test_indices_choose_images_in_their_order_with_repeats(tmp_path):
    images = [save_image(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    loaded = open_calibration(tmp_path, [nchw()], AS_IS).load([2, 0, 2])["x"]
    np.testing.assert_array_equal(loaded.transpose(0, 2, 3, 1), np.stack([images[2], images[0], images[2]]))
    assert loaded.flags["C_CONTIGUOUS"]


def test_an_index_out_of_range_and_no_index_are_bugs_of_the_caller(tmp_path):
    save_image(tmp_path / "a.png")
    found = open_calibration(tmp_path, [nchw()], AS_IS)
    for index in (1, -1):
        with pytest.raises(IndexError):
            found.load([index])
    with pytest.raises(ValueError, match="at least one"):
        found.load([])


def test_images_are_decoded_only_when_they_are_loaded(tmp_path):
    save_image(tmp_path / "a.png", seed=1)
    save_image(tmp_path / "b.png", 64, 64, seed=2)
    damaged = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(damaged[: len(damaged) // 2])
    found = open_calibration(tmp_path, [nchw()], NO_OPTIONS)
    found.load([0])
    with pytest.raises(DataError, match=r"b\.png: cannot be read as an image: .*truncated"):
        found.load([1])


def test_an_empty_folder_is_named_with_the_extensions_that_count(tmp_path):
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(DataError, match=r"no images found.*\(1 other files\), expected .*\.png") as caught:
        open_calibration(tmp_path, [nchw()], NO_OPTIONS)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_an_unreadable_image_is_named_when_the_folder_is_opened(tmp_path, content):
    save_image(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: cannot be read as an image") as caught:
        open_calibration(tmp_path, [nchw()], NO_OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [11_000, 100_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_claiming(side, side))
    with pytest.raises(DataError, match=r"bomb\.png: .*(pixels, expected at most|decompression bomb)"):
        open_calibration(tmp_path, [nchw()], NO_OPTIONS)


def test_a_thin_image_that_a_resize_would_blow_up_is_refused(tmp_path):
    save_image(tmp_path / "thin.png", 1, 3000)
    with pytest.raises(DataError, match=r"thin\.png: 1x3000 becomes 256x768000, expected at most"):
        open_calibration(tmp_path, [nchw(224, 224)], DataOptions(preset="imagenet"))


def test_more_than_sixteen_bits_a_channel_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match=r"deep\.tif: more than 16 bits per channel"):
        open_calibration(tmp_path, [nchw()], NO_OPTIONS)


def test_an_image_that_shrank_after_opening_is_refused(tmp_path):
    save_image(tmp_path / "a.png")
    found = open_calibration(tmp_path, [nchw()], NO_OPTIONS)
    save_image(tmp_path / "a.png", 4, 4)
    with pytest.raises(DataError, match=r"a\.png: 4x4 pixels, expected 8x8"):
        found.load([0])


def test_an_image_that_is_gone_is_named(tmp_path):
    save_image(tmp_path / "a.png")
    found = open_calibration(tmp_path, [nchw()], NO_OPTIONS)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        found.load([0])


def test_different_sizes_on_a_dynamic_model_name_two_files_and_the_way_out(tmp_path):
    save_image(tmp_path / "a.png", 8, 8)
    save_image(tmp_path / "b.png", 8, 8)
    save_image(tmp_path / "c.png", 8, 9)
    with pytest.raises(DataError, match=r"c\.png is 8x9 but .*a\.png is 8x8, expected one size: add --resize"):
        open_calibration(tmp_path, [nchw(None, None)], AS_IS)
    for options in (DataOptions(resize=(8, 8)), DataOptions(crop=(6,)), DataOptions(resize=(9,), crop=(8,))):
        assert open_calibration(tmp_path, [nchw(None, None)], options).load([0, 1, 2])["x"].shape[0] == 3


def test_a_rotation_in_the_metadata_is_applied(tmp_path):
    array = pixels(6, 10, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.tif", "turned.png", "turned.webp"):
        Image.fromarray(array).save(tmp_path / name, exif=exif, lossless=True)
    found = open_calibration(tmp_path, [nhwc(10, 6)], AS_IS)
    for index in range(3):
        np.testing.assert_array_equal(found.load([index])["x"][0], np.rot90(array, -1))


def test_gray_and_colour_images_are_brought_to_the_models_channels_with_a_note(tmp_path):
    gray = save_image(tmp_path / "a.png", gray=True)
    save_image(tmp_path / "b.png", seed=2)
    found = open_calibration(tmp_path, [nchw()], AS_IS)
    np.testing.assert_array_equal(found.load([0])["x"][0], np.stack([gray] * 3))
    assert "1 gray images repeated to 3 channels" in notes(found)
    found = open_calibration(tmp_path, [nchw(channels=1)], AS_IS)
    np.testing.assert_array_equal(found.load([0])["x"][0, 0], gray)
    assert "1 colour images reduced to luma" in notes(found)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_every_pillow_mode_becomes_three_channels(tmp_path, mode):
    Image.fromarray(pixels(8, 8, 3)).convert(mode).save(tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}")
    assert open_calibration(tmp_path, [nchw()], AS_IS).load([0])["x"].shape == (1, 3, 8, 8)


def test_links_to_folders_are_followed_once_and_special_files_are_left_alone(tmp_path):
    save_image(tmp_path / "far" / "a.png")
    home = tmp_path / "home"
    home.mkdir()
    (home / "near").symlink_to(tmp_path / "far")
    (home / "loop").symlink_to(home)
    (home / "gone.png").symlink_to(tmp_path / "missing.png")
    os.mkfifo(home / "pipe.png")
    found = open_calibration(home, [nchw()], AS_IS)
    assert len(found) == 1
    assert found.description["skipped_files"] == 2


def test_the_digest_follows_names_and_content_and_nothing_else(tmp_path):
    def digest() -> str:
        return open_calibration(tmp_path, [nchw()], AS_IS).digest()

    path = tmp_path / "a.bmp"
    save_image(path)
    before, status = digest(), path.stat()
    assert len(before) == 64
    os.utime(path, ns=(1, 1))
    assert digest() == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a pixel
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    changed = digest()
    assert changed != before
    path.rename(tmp_path / "b.bmp")
    assert digest() not in (before, changed)


def test_hidden_folders_are_not_read(tmp_path):
    for place in (tmp_path / "shown", tmp_path / ".hidden", tmp_path / "shown" / ".thumbnails"):
        place.mkdir()
        save_image(place / "a.png")
    assert len(open_calibration(tmp_path, [nchw()], AS_IS)) == 1
    assert len(open_calibration(tmp_path / ".hidden", [nchw()], AS_IS)) == 1


def test_a_folder_is_refused_for_several_inputs_and_for_inputs_that_take_no_images(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"the model has inputs 'x', 'y': give an \.npz"):
        open_calibration(tmp_path, [nchw(), InputSpec("y", (None, 4), FLOAT)], NO_OPTIONS)
    with pytest.raises(DataError, match=r"takes none \(four axes, 1 or 3 channels\)"):
        open_calibration(tmp_path, [InputSpec("y", (None, 4), FLOAT)], NO_OPTIONS)


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "no such file or folder"), ("a.png", "expected an image folder")]
)
def test_a_path_that_is_no_source_is_named(tmp_path, name, words):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=words) as caught:
        open_calibration(tmp_path / name, [nchw()], NO_OPTIONS)
    assert str(tmp_path / name) in str(caught.value)


def test_a_relative_folder_with_folders_in_it_is_read(tmp_path, monkeypatch):
    for name in ("photos/one.png", "photos/more/two.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in scan_folder(Path("photos")).files] == [
        Path("photos/more/two.png"),
        Path("photos/one.png"),
    ]
