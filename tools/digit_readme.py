"""The page that describes ``models/``, written from what was measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Measured", "page"]


@dataclass(frozen=True)
class Measured:
    """A trained net: its files' contents and the numbers of its row."""

    name: str
    description: str
    files: Mapping[str, bytes]
    operators: Mapping[str, int]
    parameters: int
    macs: int
    accuracy: float


PAGE = """\
# Two small nets to compress

Convolutional nets really trained on real data that a dependency ships, with the data to compress them and
to measure the result. `tools/train_digits.py` makes every file beside this page, and the page.

{models}

`accuracy`: top-1 on the {test_count} test images, measured with onnxruntime on the files as stored.
`MACs`: multiply-accumulates of Conv and Gemm for one image, padding included, BN not counted.
`parameters`: elements of all initializers, BN statistics included.

{descriptions}

Both: opset {opset}, input `input` (N, 1, {size}, {size}) float32, output `logits` (N, {classes}), N symbolic,
every BN a node of its own.

## Data

The digits are `sklearn.datasets.load_digits()`: 1797 handwritten digits, 8 x 8 pixels of 0 to 16. They are
the test set of E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
Repository, 1998 ([doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0).

Changes made to them: pixels times 255/16, rounded to uint8; enlarged to {size} x {size} (Pillow, bilinear),
so that three stages fit and the first two have room for convs that cost something; split, every class in the
same proportion, into {training_count} training and {test_count} test images.

| file | arrays |
|---|---|
| `<name>.calib.npz` | `images` ({training_count}, {size}, {size}, 1) uint8: the training images, no labels |
| `<name>.test.npz` | `images` ({test_count}, {size}, {size}, 1) uint8, `labels` ({test_count},) int64 |
| both | `scale` 1/255, `mean` {mean:.4f}, `std` {std:.4f}, each (1,) float32 |

A net sees (pixel * scale - mean) / std, as NCHW. The two nets have the same data, each its own copy, so that
a model's data are found by its name. The calibration images are the ones the nets were trained on: judge a
compressed net by the test images.

## Recipe

    pip install -e '.[cpu,train]'
    python tools/train_digits.py --out models

- From scratch: {epochs} epochs in batches of {batch}, cross-entropy.
- SGD, Nesterov momentum {momentum}, weight decay {weight_decay}; learning rate up to {learning_rate}
  over the first tenth of the steps, then down a cosine to nearly 0.
- Each image rotated by up to {rotation} degrees, zoomed by up to {zoom:.0%} and shifted by up to {shift}
  pixels along each axis, at random.
- Seed {seed} for split, weights, order and augmentation; one thread; a few minutes.
- The last epoch's weights are kept: the test images chose nothing.

Made with {versions}.
The same versions on the same kind of processor write the same bytes; others round differently and end with
other weights of about the same accuracy.

## Files

{files}
"""


def page(nets: Sequence[Measured], *, facts: Mapping[str, object]) -> str:
    """Return the page; ``facts`` has a value for every name in ``PAGE`` that the nets do not give."""
    return PAGE.format(
        models="\n".join(_model_rows(nets)),
        descriptions="\n".join(f"- `{net.name}`: {net.description}." for net in nets),
        files="\n".join(_file_rows(nets)),
        **facts,
    )


def _model_rows(nets: Sequence[Measured]) -> list[str]:
    rows = [
        f"| `{net.name}.onnx` | {net.accuracy:.1%} | {net.macs / 1e6:.2f} M | {net.parameters:,} "
        f"| {net.operators['Conv']} | {net.operators['BatchNormalization']} | {net.operators['Gemm']} |"
        for net in nets
    ]
    return [
        "| model | accuracy | MACs | parameters | Conv | BN | Gemm |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def _file_rows(nets: Sequence[Measured]) -> list[str]:
    rows = [
        f"| `{name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |"
        for net in nets
        for name, content in net.files.items()
    ]
    return ["| file | bytes | sha256 |", "|---|---|---|", *rows]
