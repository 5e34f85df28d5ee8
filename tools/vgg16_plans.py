"""Write the published VGG-16 tables as plan files: ``python tools/vgg16_plans.py``, into ``models/plans``.

The numbers are those of the models that came with He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
Networks" (ICCV 2017). They replay on any graph whose first 13 convs have VGG-16's shapes, whatever their names.
"""

from __future__ import annotations

from pathlib import Path

from onnxprune.graph.channels.forms import Form
from onnxprune.planning import GroupPlan, LayerPlan, Plan

FOLDER = Path(__file__).resolve().parent.parent / "models" / "plans"
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RANKS = {
    "conv1_2": 17,
    "conv2_1": 37,
    "conv2_2": 47,
    "conv3_1": 83,
    "conv3_2": 89,
    "conv3_3": 106,
    "conv4_1": 175,
    "conv4_2": 192,
    "conv4_3": 227,
    "conv5_1": 398,
    "conv5_2": 390,
    "conv5_3": 379,
}
"""Rank of V, and width in front of P."""
PRUNED = ("conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1", "conv4_2")
WIDTHS = (24, 22, 41, 51, 108, 89, 111, 184, 276, 228)
"""Of conv1_1 to conv4_3 in the model that only loses channels."""


def main() -> None:
    """Write both files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, plan in (("vgg16_3c_4x", three_c()), ("vgg16_prune_5x", pruned())):
        (FOLDER / f"{name}.json").write_text(plan.to_json(), encoding="utf-8", newline="\n")


def shapes() -> dict[str, tuple[int, ...]]:
    """Weights of the 13 convs, in order."""
    found: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for stage, widths in enumerate(STAGES, 1):
        for number, outputs in enumerate(widths, 1):
            found[f"conv{stage}_{number}"] = (outputs, inputs, 3, 3)
            inputs = outputs
    return found


def three_c() -> Plan:
    """V/H, P and pruned channels, a nominal 4x: outside of conv5 the ranks are 4/3 of the table's."""
    ranks = {name: rank if name.startswith("conv5") else rank * 4 // 3 for name, rank in RANKS.items()}
    layers = tuple(LayerPlan(name, shapes()[name], Form(rank, 0, rank)) for name, rank in ranks.items())
    keep = {name: max(int(shapes()[name][0] / 1.15), ranks[name]) for name in PRUNED}
    return _plan(keep, layers, "VGG-16, 3C, He et al. 2017, nominal 4x", 4.0)


def pruned() -> Plan:
    """Channels only, a nominal 5x."""
    keep = dict(zip(shapes(), WIDTHS, strict=False))
    return _plan(keep, (), "VGG-16, channel pruning, He et al. 2017, nominal 5x", 5.0)


def _plan(keep: dict[str, int], layers: tuple[LayerPlan, ...], words: str, nominal: float) -> Plan:
    names = list(shapes())
    groups = tuple(
        GroupPlan(name, (names[names.index(name) + 1],), shapes()[name][0], count) for name, count in keep.items()
    )
    return Plan(groups, "vgg16", words, layers, tuple(shapes().items()), nominal)


if __name__ == "__main__":
    main()
