"""Train the two nets of ``models/`` on scikit-learn's digits and write them as ONNX, with their data.

Everything is made and checked in memory, and written only then: two models, each with its calibration and its
test images, and the ``README.md`` that describes them.
"""

from __future__ import annotations

import io
import math
import platform
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

try:
    import cyclopts
    import digit_data
    import digit_readme
    import onnxruntime
    import sklearn
    import torch
    import training
    from digit_nets import CLASSES, NETS, NetSpec
    from torch.nn import functional
    from torch_to_onnx import OPSET, to_onnx
except ImportError as error:
    sys.exit(f"train_digits: {error.name} is not installed: run  pip install -e '.[cpu,train]'")

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4
"""Largest allowed difference between the logits of torch and of onnxruntime."""


@dataclass(frozen=True)
class Recipe(training.Recipe):
    """How the nets are trained; augmentation draws between minus and plus its three limits."""

    rotation: float = 10
    """In degrees."""
    zoom: float = 0.1
    """As a part of the size."""
    shift: float = 1.5
    """In pixels, along each axis."""


def main(*, out: Path = Path("models")) -> None:
    """Train both nets and write models, data and README.md; takes a few minutes.

    Parameters
    ----------
    out
        Folder to write to; made if it does not exist.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    recipe = Recipe()
    digits = digit_data.load(recipe.seed)
    nets = [measure(spec, train(spec, digits, recipe), digits) for spec in NETS]
    out.mkdir(parents=True, exist_ok=True)
    for net in nets:
        for name, content in net.files.items():
            (out / name).write_bytes(content)
    page = digit_readme.page(nets, facts=facts(digits, recipe))
    (out / "README.md").write_text(page, encoding="utf-8", newline="\n")


def train(spec: NetSpec, digits: digit_data.Digits, recipe: Recipe) -> nn.Module:
    """Train a net without a look at the test images."""
    torch.manual_seed(recipe.seed)
    model = spec.build()
    inputs = torch.from_numpy(digit_data.prepare(digits.calibration))
    labels = torch.from_numpy(digits.training_labels)
    return training.train(model, inputs, labels, recipe, lambda images: augment(images, recipe), spec.name)


def augment(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Rotate, zoom and shift each image by its own random amounts; the border is the darkest value."""
    angle, zoom, right, down = torch.rand(4, len(images)) * 2 - 1
    angle = angle * math.radians(recipe.rotation)
    zoom = 1 + zoom * recipe.zoom
    # affine_grid's unit is half the image: its coordinates run from -1 to 1.
    right, down = (amount * recipe.shift * 2 / images.shape[-1] for amount in (right, down))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    matrix = torch.stack([cos, -sin, right, sin, cos, down], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    # grid_sample pads with 0.
    darkest = images.min()
    return functional.grid_sample(images - darkest, grid, align_corners=False) + darkest


def measure(spec: NetSpec, model: nn.Module, digits: digit_data.Digits) -> digit_readme.Measured:
    """Convert a trained net, check it against torch, and measure it on the files' contents."""
    proto = to_onnx(
        model,
        name=spec.name,
        description=spec.description,
        input_shape=(1, digit_data.SIZE, digit_data.SIZE),
        classes=CLASSES,
    )
    onnx.checker.check_model(proto, full_check=True)
    model_bytes = proto.SerializeToString(deterministic=True)
    test_bytes = digit_data.npz_bytes(digits.test)
    with np.load(io.BytesIO(test_bytes)) as stored:
        inputs, labels = digit_data.prepare(stored), stored["labels"]
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"input": inputs})[0]
    with torch.no_grad():
        difference = float(np.abs(logits - model(torch.from_numpy(inputs)).numpy()).max())
    if not difference < TOLERANCE:
        sys.exit(
            f"train_digits: {spec.name}: expected onnxruntime's logits within {TOLERANCE} of torch's, found "
            f"{difference:.1e}; nothing was written: look at the operators in torch_to_onnx.py"
        )
    measured = digit_readme.Measured(
        name=spec.name,
        description=spec.description,
        files={
            f"{spec.name}.onnx": model_bytes,
            f"{spec.name}.calib.npz": digit_data.npz_bytes(digits.calibration),
            f"{spec.name}.test.npz": test_bytes,
        },
        operators=Counter(node.op_type for node in proto.graph.node),
        parameters=sum(math.prod(weight.dims) for weight in proto.graph.initializer),
        macs=count_macs(proto),
        accuracy=float((logits.argmax(axis=1) == labels).mean()),
    )
    print(
        f"{spec.name}: {measured.accuracy:.1%} of {len(labels)} test images right, "
        f"{measured.macs / 1e6:.2f} M MACs, {measured.parameters:,} parameters, "
        f"onnxruntime within {difference:.0e} of torch"
    )
    return measured


def count_macs(proto: onnx.ModelProto) -> int:
    """Count the multiply-accumulates of the convs and Gemms for one image, padding included."""
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {weight.name: weight.dims for weight in graph.initializer}
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":
            macs += math.prod(shapes[node.output[0]][1:]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type == "Gemm":
            macs += math.prod(weights[node.input[1]])
    return macs


def facts(digits: digit_data.Digits, recipe: Recipe) -> dict[str, object]:
    """Collect what the page says about data, recipe and versions."""
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return {
        **asdict(recipe),
        "training_count": len(digits.calibration["images"]),
        "test_count": len(digits.test["images"]),
        "mean": digits.calibration["mean"].item(),
        "std": digits.calibration["std"].item(),
        "size": digit_data.SIZE,
        "classes": CLASSES,
        "opset": OPSET,
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }


if __name__ == "__main__":
    cyclopts.run(main)
