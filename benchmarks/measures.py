"""Measures of tasks for ``--evaluate benchmarks/measures.py:NAME``: what a person would count.

Each gets a function that runs the network under test, and returns per cent, higher is better. The environment variable
ZOO_DATA names the folder that ``unpack.py`` has written. What the original finds is the reference where there are no
labels: the first network that a measure sees is the original.

=========  ===========================================================================================
``ocr``    100 less the character error rate of greedy CTC reading, against what the original reads
``faces``  UltraFace: 100 less the difference in the number of faces found, over the number of faces
``yunet``  YuNet, the same
``voc``    DeepLab: intersection over union of the labelled objects, mean over the photos with masks
``meet``   person mask: intersection over union with the original's mask, mean over photos
=========  ===========================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_REFERENCES: dict[str, Any] = {}
_PHOTOS = 60


def ocr(run: Run) -> float:
    """Read text lines."""
    texts = []
    for path in _images("text_lines_test"):
        image = Image.open(path).convert("RGB")
        width = max(48, round(image.width * 48 / image.height / 8) * 8)
        pixels = np.asarray(image.resize((width, 48)), np.float32)[..., ::-1]
        scores = _first(run({"x": _nchw((pixels / 255 - 0.5) / 0.5)}))[0]
        best = scores.argmax(axis=1)
        texts.append([int(c) for place, c in enumerate(best) if c and (not place or c != best[place - 1])])
    wanted = _REFERENCES.setdefault("ocr", texts)
    apart = sum(_edits(a, b) for a, b in zip(wanted, texts, strict=True))
    return 100 - 100 * apart / sum(map(len, wanted))


def faces(run: Run) -> float:
    """Count faces by UltraFace."""

    return _counted("faces", (320, 240), lambda pixels: len(_ultraface(run, pixels)))


def ultraface_boxes(run: Run) -> list[Array]:
    """Boxes (n, 4) of the faces that UltraFace finds in each of the six test photos."""
    return [
        _ultraface(run, np.asarray(Image.open(path).convert("RGB").resize((320, 240)), np.float32))
        for path in _images("faces_test")
    ]


def _ultraface(run: Run, pixels: Array) -> Array:
    found = run({"input": _nchw((pixels - 127) / 128)})
    return _kept(found["boxes"][0], found["scores"][0, :, 1], 0.7, 0.3)


def yunet(run: Run) -> float:
    """Count faces by YuNet."""

    def count(pixels: Array) -> int:
        height, width = pixels.shape[:2]
        found = run({"input": _nchw(pixels[..., ::-1])})
        boxes, scores = [], []
        for stride in (8, 16, 32):
            rows, columns = np.divmod(np.arange(height // stride * (width // stride)), width // stride)
            box = found[f"bbox_{stride}"][0]
            middle = (np.stack([columns, rows], axis=1) + box[:, :2]) * stride
            half = np.exp(box[:, 2:]) * stride / 2
            boxes.append(np.concatenate([middle - half, middle + half], axis=1))
            likely = found[f"cls_{stride}"][0, :, 0] * found[f"obj_{stride}"][0, :, 0]
            scores.append(np.sqrt(np.clip(likely, 0, 1)))
        return len(_kept(np.concatenate(boxes), np.concatenate(scores), 0.6, 0.3))

    return _counted("yunet", (320, 256), count)


def voc(run: Run) -> float:
    """Segment the photos that have masks."""
    found = []
    for photo, label in (("bird.jpg", 3), ("dog.png", 12)):
        path = _folder() / "voc_seg" / photo
        pixels = np.asarray(Image.open(path).convert("RGB").resize((513, 513)), np.uint8)
        known = Image.open(path.with_name(f"{path.stem}_mask.png")).resize((513, 513), Image.Resampling.NEAREST)
        mask = np.asarray(known)
        labels = _first(run({"MobilenetV2/MobilenetV2/input": pixels[None]})).reshape(513, 513)
        there, wanted = (labels == label) & (mask != 255), mask == label
        found.append((there & wanted).sum() / (there | wanted).sum())
    return float(100 * np.mean(found))


def meet(run: Run) -> float:
    """Mask the person in photos."""
    masks = []
    for path in (*_images("faces_test"), *_images("faces_test_b"), *measured_photos(_folder() / "photos")):
        pixels = np.asarray(Image.open(path).convert("RGB").resize((256, 144)), np.float32) / 255
        scores = _first(run({"input_1:0": pixels[None]}))[0]
        masks.append(scores[..., 1] > scores[..., 0])
    wanted = _REFERENCES.setdefault("meet", masks)
    both = [((a & b).sum(), (a | b).sum()) for a, b in zip(wanted, masks, strict=True)]
    return float(100 * np.mean([inside / union if union else 1.0 for inside, union in both]))


def measured_photos(folder: Path) -> list[Path]:
    """The photos of a folder on which ``meet`` measures, which no command may get."""
    return _photos_in(folder)[5::100][:_PHOTOS]


def _folder() -> Path:
    return Path(os.environ["ZOO_DATA"])


def _images(name: str) -> list[Path]:
    return _photos_in(_folder() / name)


def _photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".webp", ".png"))


def _nchw(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _first(outputs: Mapping[str, Array]) -> Array:
    return next(iter(outputs.values()))


def _counted(name: str, size: tuple[int, int], count: Callable[[Array], int]) -> float:
    counts = [
        count(np.asarray(Image.open(path).convert("RGB").resize(size), np.float32))
        for path in (*_images("faces_test"), *_images("faces_test_b"))
    ]
    wanted = _REFERENCES.setdefault(name, counts)
    apart = sum(abs(a - b) for a, b in zip(wanted, counts, strict=True))
    return float(100 - 100 * apart / max(sum(wanted), 1))


def _kept(boxes: Array, scores: Array, least: float, most: float) -> Array:
    """Boxes (m, 4) left of boxes (n, 4) by non-maximum suppression."""
    chosen = scores > least
    boxes, order = boxes[chosen], np.argsort(-scores[chosen])
    kept = []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(boxes[first])
        order = rest[[overlap(boxes[first], boxes[other]) <= most for other in rest]] if len(rest) else rest
    return np.array(kept).reshape(-1, 4)


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes, of left, top, right and bottom."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.maximum(high - low, 0))
    return float(inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside))


def log_scores(session: Any, inputs: Array) -> Array:
    """Log-probabilities (n, classes) of a classifier, one input at a time; its outputs are probabilities or logits."""
    name = session.get_inputs()[0].name
    found = np.concatenate([session.run(None, {name: one[None]})[0].reshape(1, -1) for one in inputs])
    if (found >= 0).all() and np.allclose(found.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(found, 1e-12)))
    shifted = found - found.max(1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


def session_of(model: Any) -> Any:
    """A session of onnxruntime with one thread, of a model or a path."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # some files of the zoo give a warning for each weight
    loadable = model if isinstance(model, (str, bytes)) else model.SerializeToString()
    return onnxruntime.InferenceSession(loadable, options, providers=["CPUExecutionProvider"])


def _edits(left: list[int], right: list[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for place, a in enumerate(left, 1):
        before, row[0] = row[0], place
        for other, b in enumerate(right, 1):
            before, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, before + (a != b))
    return row[-1]
