"""What the benchmarks share: where the zoo is, what machine this is, how accuracy is measured, how a table looks."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

__all__ = ["arguments", "machine", "run_model", "table", "top1"]

ROOT = Path(__file__).resolve().parent.parent


def arguments(description: str | None, *, zoo: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks on the zoo take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if zoo:
        default = ROOT.parent / "shared" / "zoo"
        parser.add_argument("--zoo", type=Path, default=default, help="folder with models/ and unpack.py")
        parser.add_argument("--data", type=Path, required=True, help="folder that unpack.py has written")
    return parser


def machine() -> str:
    """Processor, threads, date and versions in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return (
        f"{name}, {os.cpu_count()} cores, {datetime.date.today()}, onnxruntime {onnxruntime.__version__} CPU, "
        f"numpy {np.__version__}"
    )


def run_model(model: onnx.ModelProto | bytes | str, inputs: np.ndarray[Any, Any], batch: int = 100) -> Iterator[Any]:
    """First output of a model, batch by batch."""
    loadable = model if isinstance(model, (bytes, str)) else model.SerializeToString()
    session = onnxruntime.InferenceSession(loadable, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else batch
    for start in range(0, len(inputs), size):
        yield session.run(None, {name: inputs[start : start + size]})[0]


def top1(model: onnx.ModelProto | bytes | str, inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Top-1 accuracy in per cent."""
    answers = np.concatenate([scores.reshape(len(scores), -1).argmax(axis=1) for scores in run_model(model, inputs)])
    return float(100 * (answers == labels).mean())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats get two decimals."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
