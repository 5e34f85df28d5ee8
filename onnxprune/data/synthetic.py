"""Synthetic inputs with the statistics of photographs, for use without real inputs.

On white noise, the activations of a trained network are far from its activations on photographs. Three facts about
photographs account for most of their second-order statistics: amplitudes fall as 1/f (Field, "Relations between
the statistics of natural images and the response properties of cortical cells", 1987); edges come from
objects that occlude each other, with sizes of density r^-3 (the dead-leaves model; Lee, Mumford, Huang,
"Occlusion models for natural images", 2001); and colours vary far more in brightness than along the two
opponent axes (Ruderman, Cronin, Chiao, "Statistics of cone responses to natural images", 1998).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.data.calibration import check_indices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnxprune.data.preprocess import Preprocessing, Size
    from onnxprune.data.spec import Hash, InputSpec

__all__ = ["SyntheticCalibration", "SyntheticImages", "natural_image", "one_over_f"]

GENERATOR = "dead leaves, 1"
"""Name and version of the generator, part of the digest: change it whenever the images for a seed change."""

OPPONENT = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]) / np.sqrt([[3.0], [2.0], [6.0]])
"""Rows: brightness, blue-yellow and red-green, as unit vectors in RGB."""

DEVIATIONS = np.array([1.0, 0.27, 0.13])
"""Typical standard deviation along each row of `OPPONENT`, relative to brightness."""

LEAVES = 120
TEXTURE = 0.4
"""Standard deviation of the 1/f texture, relative to the leaves."""


@dataclass(frozen=True)
class SyntheticImages:
    """Images generated on demand, each determined by `seed` and its index.

    Attributes:
        count: number of images.
        extent: (H, W) in pixels.
        seed: seed of the generator, 0 or more.
    """

    count: int
    extent: Size
    seed: int

    def __len__(self) -> int:
        return self.count

    def size(self, index: int) -> Size:
        """Return (H, W) in pixels, one size for all images."""
        return self.extent

    def gray(self, index: int) -> bool:
        """Return False: all images have colours."""
        return False

    def name(self, index: int) -> str:
        """Return the image's name in errors."""
        return f"synthetic image {index}"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Generate one image: (H, W, 3) uint8 RGB."""
        return natural_image(np.random.default_rng([self.seed, index]), self.extent)

    def update(self, digest: Hash) -> None:
        """Add generator, count, extent and seed to a digest: they determine the images."""
        digest.update(repr((GENERATOR, self)).encode())


@dataclass(frozen=True, kw_only=True)
class SyntheticCalibration:
    """Synthetic values for every input; a :class:`~onnxprune.data.calibration.Calibration`.

    Attributes:
        specs: the model's inputs; each takes images or floats.
        shapes: per input that takes no images, the extents of one sample; filled with 1/f noise of unit variance.
        images: per input that takes images, the images and their preprocessing.
        count: number of samples.
        seed: seed of the generator, 0 or more.
        description: source, kind, count, preprocessing, notes and a warning, for the report.
    """

    specs: tuple[InputSpec, ...]
    shapes: dict[str, tuple[int, ...]]
    images: dict[str, tuple[SyntheticImages, Preprocessing]]
    count: int
    seed: int
    description: dict[str, object]
    labels: None = None
    synthetic: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in the model's order."""
        return tuple(spec.name for spec in self.specs)

    def __len__(self) -> int:
        return self.count

    def load(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Generate the samples at `indices`."""
        chosen = check_indices(indices, self.count)
        return {spec.name: self._load(position, spec, chosen) for position, spec in enumerate(self.specs)}

    def digest(self) -> str:
        """Return the SHA-256 in hex of seed, count, inputs and preprocessing; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        specs = [(spec.name, spec.shape, str(spec.dtype)) for spec in self.specs]
        digest = hashlib.sha256(repr((GENERATOR, self.count, self.seed, specs, self.shapes)).encode())
        for name, (images, recipe) in self.images.items():
            digest.update(repr((name, recipe.describe())).encode())
            images.update(digest)
        return digest.hexdigest()

    def _load(self, position: int, spec: InputSpec, indices: list[int]) -> NDArray[Any]:
        if spec.name in self.images:
            images, recipe = self.images[spec.name]
            return recipe.apply(images.read(index) for index in indices)
        noise = [
            one_over_f(np.random.default_rng([self.seed, index, position]), self.shapes[spec.name]) for index in indices
        ]
        return np.stack(noise).astype(spec.dtype)


def one_over_f(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Generate Gaussian noise of `shape` whose amplitude falls as 1/f along all axes, with mean 0 and variance 1."""
    white = rng.standard_normal(shape)
    if white.size < 2:
        return white
    squares = sum(axis**2 for axis in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij", sparse=True))
    frequency = np.sqrt(squares)
    frequency.flat[0] = np.inf
    noise = np.fft.ifftn(np.fft.fftn(white) / frequency).real
    return np.asarray((noise - noise.mean()) / noise.std())


def natural_image(rng: np.random.Generator, size: Size) -> NDArray[np.uint8]:
    """Generate an image, (H, W, 3) uint8 RGB, with random brightness, contrast and content."""
    texture = np.stack([one_over_f(rng, size) for _ in range(3)], axis=2)
    scene = _leaves(rng, size) + TEXTURE * texture
    scene -= scene.mean(axis=(0, 1))
    colors = (scene * DEVIATIONS) @ OPPONENT
    brightness = rng.uniform(70, 170)
    contrast = rng.uniform(25, 70)
    pixels = brightness + contrast * colors / max(float(colors.std()), 1e-6)
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)


def _leaves(rng: np.random.Generator, size: Size) -> NDArray[np.float64]:
    """Draw overlapping ellipses and rectangles: (H, W, 3) along the opponent axes, each of about unit variance."""
    height, width = size
    canvas = np.empty((height, width, 3))
    canvas[:] = rng.standard_normal(3)
    rows = np.arange(height)[:, np.newaxis]
    columns = np.arange(width)[np.newaxis, :]
    # Radii of density r^-3 between an eighteenth and 0.6 of the short side, by inverting their distribution.
    largest, smallest = 0.6 * min(size), min(size) / 18
    radii = 1 / np.sqrt(rng.uniform(largest**-2, smallest**-2, LEAVES))
    for radius in radii:
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        reach = 1.5 * radius
        box = (
            slice(max(0, int(row - reach)), int(row + reach) + 1),
            slice(max(0, int(column - reach)), int(column + reach) + 1),
        )
        down, right = rows[box[0]] - row, columns[:, box[1]] - column
        along = (down * np.sin(angle) + right * np.cos(angle)) / radius
        across = (down * np.cos(angle) - right * np.sin(angle)) / (radius * aspect)
        inside = along**2 + across**2 < 1 if rng.random() < 0.5 else np.maximum(abs(along), abs(across)) < 1
        shade = 1 + 0.3 * along[inside, np.newaxis]
        canvas[box][inside] = rng.standard_normal(3) * shade
    return canvas
