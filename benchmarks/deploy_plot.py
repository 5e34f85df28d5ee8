"""Draw the table of `deploy.py` that stands in ``RESULTS.md``: accuracy and agreement against measured speed-up.

One column a network; above, top-1 on the test sets (525 photos, from elsewhere than the photos that were given), below,
agreement with the original on photos of the same folder that neither fitted nor chose anything.

Run: ``python benchmarks/deploy_plot.py --plot docs/deployed.svg``
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import ROOT
from matplotlib.figure import Figure

_SECTION = "## Networks that people deploy, at a measured time"
_ROW = re.compile(
    r"\| imagenet_(?P<name>\w+)(?: \((?P<first>[\d.]+)\))? \| (?P<way>[\w ]+), [^|]*\| (?P<speed>[\d.]+)x[^|]*"
    r"\| (?P<top1>[\d.]+) \| [^|]*\| (?P<agree>[\d.]+) /"
)
_STYLES: dict[str, tuple[str, str]] = {
    "smaller picture alone": ("C1", "s--"),
    "plain": ("C0", "o-"),
    "auto": ("C4", "v"),
    "recover": ("C2", "^"),
}
_NAMES = {
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_lite0": "EfficientNet-lite0",
    "mobilenet_v1_050_160": "MobileNet v1 0.5-160",
    "squeezenet1_1": "SqueezeNet 1.1",
}


def _table(text: str) -> tuple[dict[str, float], dict[tuple[str, str], list[tuple[float, float, float]]]]:
    """Top-1 of the originals, and (speed-up, top-1, agreement) by network and way."""
    section = text.split(_SECTION, 1)[1].split("\n## ", 1)[0]
    first: dict[str, float] = {}
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for found in _ROW.finditer(section):
        if found["first"]:
            first[found["name"]] = float(found["first"])
        rows[found["name"], found["way"]].append((float(found["speed"]), float(found["top1"]), float(found["agree"])))
    return first, rows


def _plot(text: str) -> Figure:
    first, rows = _table(text)
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes: Any = figure.subplots(2, len(first), sharex=True)
    for column, (name, start) in enumerate(first.items()):
        for row, (value, what) in enumerate(((start, "top-1, test sets, %"), (100.0, "agreement, unused photos, %"))):
            axis = axes[row, column]
            axis.plot([1], [value], "k*", markersize=10, label="original")
            for way, (color, style) in _STYLES.items():
                points = sorted((point[0], point[1 + row]) for point in rows[name, way])
                line = [(1.0, value), *points] if "-" in style else points
                axis.plot(*zip(*line, strict=True), style, color=color, label=way) if points else None
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(what)
        axes[0, column].set_title(_NAMES.get(name, name))
        axes[1, column].set_xlabel("measured speed-up")
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, required=True, help="file to draw to, .svg or .png")
    given = parser.parse_args()
    figure = _plot((ROOT / "benchmarks" / "RESULTS.md").read_text())
    figure.savefig(given.plot, metadata={"Date": None} if given.plot.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
