"""Nets that the tests of plans share, loaded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from onnxprune.graph.channels.forms import Form
from onnxprune.graph.channels.groups import ChannelMap, channel_map
from onnxprune.graph.model.fold import fold
from onnxprune.graph.model.load import load
from onnxprune.graph.model.net import Net
from onnxprune.planning.assignment import REMOVED, Assignment
from onnxprune.planning.candidates import Candidates
from onnxprune.planning.cost import CostModel, cost_model
from onnxprune.planning.sensitivity import PredictedErrors

MODELS = Path(__file__).parents[2] / "models"


@cache
def digits(name: str) -> tuple[Net, ChannelMap]:
    """A network and its channel map."""
    net, _ = load(MODELS / f"digits_{name}.onnx")
    net, _ = fold(net)
    return net, channel_map(net)


@cache
def costs(name: str) -> CostModel:
    """What a network costs for one sample."""
    net, channels = digits(name)
    return cost_model(net, channels, {net.input_names[0]: (1, 1, 16, 16)})


def assigned(keep: Mapping[str, int], forms: Mapping[str, Form] | None = None) -> Assignment:
    """The assignment of some counts, a branch removed where none is kept."""
    return Assignment({name: count or REMOVED for name, count in keep.items()}, forms or {})


def candidates_of(entries: Iterable[tuple[Form, float]]) -> Candidates:
    """Candidates of pairs of a form and its error."""
    forms, errors = zip(*entries, strict=True)
    return Candidates.of(forms, errors)


def predicted(cost: CostModel, planned: Assignment, errors: PredictedErrors) -> float:
    """Sum of the errors of a plan, read off the curves and the candidates."""
    total = sum(errors.curves[name][cost.sizes[name] - keep] for name, keep in planned.counts.items())
    for name, form in planned.forms.items():
        found = errors.candidates[name]
        total += found.error[next(i for i in range(len(found)) if found.form(i) == form)]
    return float(total)
