"""Images at their own size, before any preprocessing: in a folder, or in an array.

Files are treated as hostile until decoded: only the common decoders are tried (none that runs another program), the
pixel count is checked against the header before a pixel is decoded, and only regular files are opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from onnxprune.data.files import reading
from onnxprune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from onnxprune.data.preprocess import Size
    from onnxprune.data.spec import Hash

__all__ = ["ArrayImages", "FolderImages", "ImageSource", "scan_folder", "walk"]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
MOST_PIXELS = 100_000_000
"""Largest image that is decoded, in pixels; a larger one counts as a decompression bomb."""

GRAY_MODES = frozenset({"1", "L", "LA", "La"})
DEEP_MODES = ("I", "F")
"""Prefixes of the modes with more than 8 bits per channel, which Pillow clips when it converts them."""
_DEEP_RANGE = 257  # 0..65535 becomes 0..255
_WAY_OUT = "--skip-unreadable leaves such files out"


class ImageSource(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def size(self, index: int) -> Size:
        """Return (H, W) in pixels, without decoding."""

    def gray(self, index: int) -> bool:
        """Return True if the image has one channel."""

    def name(self, index: int) -> str:
        """Return the image's name in errors."""

    def read(self, index: int) -> NDArray[Any]:
        """Return the pixels, (H, W, 1) or (H, W, 3) in RGB.

        Raises:
            DataError: the file cannot be decoded, or its size differs from the one in its header.
        """

    def update(self, digest: Hash) -> None:
        """Add the content to a digest."""


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array.

    Attributes:
        pixels: (n, H, W, C), uint8 or float in pixel units, C 1 or 3.
        source: name of the array in errors.
    """

    pixels: NDArray[Any]
    source: str

    def __len__(self) -> int:
        return len(self.pixels)

    def size(self, index: int) -> Size:
        """Return (H, W) in pixels, one size for all images."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def gray(self, index: int) -> bool:
        """Return True if C is 1."""
        return int(self.pixels.shape[3]) == 1

    def name(self, index: int) -> str:
        """Return the name of the array: all its images have one shape."""
        return self.source

    def read(self, index: int) -> NDArray[Any]:
        """Return one image as a view: (H, W, C)."""
        return np.asarray(self.pixels[index])

    def update(self, digest: Hash) -> None:
        """Add shape, dtype and every value to a digest."""
        digest.update(f"{self.pixels.shape} {self.pixels.dtype}".encode())
        for image in self.pixels:
            digest.update(image.tobytes())


@dataclass(frozen=True)
class ImageFile:
    """Image file as its header describes it.

    Attributes:
        path: the file.
        size: (H, W) in pixels, upright.
        gray: True for one channel.
        place: path relative to the folder.
    """

    path: Path
    size: Size
    gray: bool
    place: str


@dataclass(frozen=True)
class FolderImages:
    """Images in files, decoded on demand.

    Attributes:
        files: the image files, in order of their paths.
        skipped: number of other files: hidden, not regular, or without the extension of an image.
        unreadable: errors of the images that were left out, one line each.
    """

    files: tuple[ImageFile, ...]
    skipped: int
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def size(self, index: int) -> Size:
        """Return (H, W) in pixels, from the header."""
        return self.files[index].size

    def gray(self, index: int) -> bool:
        """Return True if the header says that the image has one channel."""
        return self.files[index].gray

    def name(self, index: int) -> str:
        """Return the path."""
        return str(self.files[index].path)

    def read(self, index: int) -> NDArray[Any]:
        """Decode the first frame of one file, upright, without transparency.

        Returns:
            (H, W, 1) if gray, else (H, W, 3); uint8, and float32 for more than 8 bits per channel.

        Raises:
            DataError: the file cannot be decoded, or its size differs from the one in its header.
        """
        try:
            return _pixels(self.files[index])
        except DataError as error:
            raise DataError(f"{error}; {_WAY_OUT}") from error

    def update(self, digest: Hash) -> None:
        """Add the names and the content of all files to a digest."""
        for file in self.files:
            with reading(file.path, "an image"), file.path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.place}\n{content}\n".encode("utf-8", "surrogateescape"))


def scan_folder(folder: Path, *, skip_unreadable: bool = False) -> FolderImages:
    """Find the images in `folder` and its subfolders, and read their headers.

    Args:
        folder: the folder.
        skip_unreadable: decode every image, and leave unreadable ones out.

    Raises:
        DataError: an image cannot be read or has too many pixels, without `skip_unreadable`; or there is no image.
    """
    files: list[ImageFile] = []
    skipped = 0
    unreadable: list[str] = []
    for path in sorted(walk(folder)):
        status = path.stat() if path.exists() else None
        hidden = path.name.startswith(".")
        if hidden or path.suffix.lower() not in EXTENSIONS or status is None or not stat.S_ISREG(status.st_mode):
            skipped += 1
            continue
        try:
            file = _header(path, path.relative_to(folder).as_posix())
            if skip_unreadable:
                _pixels(file)
        except DataError as error:
            if not skip_unreadable:
                raise DataError(f"{error}; {_WAY_OUT}") from error
            unreadable.append(str(error))
        else:
            files.append(file)
    if not files:
        extensions = " ".join(sorted(EXTENSIONS))
        others = f"{skipped} other files" + (f", {len(unreadable)} unreadable" if unreadable else "")
        raise DataError(f"{folder}: no images found in this folder or below ({others}), expected {extensions}")
    return FolderImages(tuple(files), skipped, tuple(unreadable))


def _pixels(file: ImageFile) -> NDArray[Any]:
    with reading(file.path, "an image"), _open(file.path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(DEEP_MODES):
            pixels: NDArray[Any] = np.asarray(upright).astype(np.float32) / np.float32(_DEEP_RANGE)
        else:
            pixels = np.asarray(upright.convert("L" if upright.mode in GRAY_MODES else "RGB"))
    if pixels.shape[:2] != file.size:
        raise DataError(
            f"{file.path}: {pixels.shape[0]}x{pixels.shape[1]} pixels, expected "
            f"{file.size[0]}x{file.size[1]} from its header: was it changed during the run, or turned "
            f"by its metadata? Save it again"
        )
    return pixels.reshape(*file.size, -1)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files but those in hidden folders; linked folders are followed, each real folder once."""
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(base) / name for name in names)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be listed: {error.strerror}")


def _header(path: Path, place: str) -> ImageFile:
    with reading(path, "an image"), _open(path) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # Some versions of Pillow have already rotated this size, some rotate it on decoding: read the tags.
            width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        # getexif() decodes a whole PNG, so its metadata counts only if it precedes the pixels.
        turned = image.format != "PNG" or "exif" in image.info
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
        gray = image.mode in GRAY_MODES or image.mode.startswith(DEEP_MODES)
    return ImageFile(path, (width, height) if orientation in (5, 6, 7, 8) else (height, width), gray, place)


def _open(path: Path) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        DataError: more pixels than `MOST_PIXELS`, or more than 16 bits per channel.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=FORMATS)
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise DataError(f"{path}: {width * height} pixels, expected at most {MOST_PIXELS}: shrink or remove it")
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode.startswith(DEEP_MODES) and not sixteen:
        image.close()
        raise DataError(
            f"{path}: more than 16 bits per channel (mode {image.mode}): convert it to 8 or 16 bits, or give an .npy"
        )
    return image
