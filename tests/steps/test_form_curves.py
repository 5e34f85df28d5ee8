"""What the survey of a layer promises, fitting the layer keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.graph.channels.forms import LayerShape
from onnxprune.graph.channels.rules import Axis
from onnxprune.graph.channels.sites import Site, Window
from onnxprune.options.planning import Uses
from onnxprune.options.solve import RefitOptions
from onnxprune.solve import MomentsBuilder, Regression
from onnxprune.steps.factorise import factorise
from onnxprune.steps.form_curves import FormOptions, form_curves

SITE = Site(
    "conv",
    "Conv",
    "x",
    "y",
    "w",
    Axis("w", 0),
    Axis("w", 1),
    window=Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
)
SHAPE = LayerShape((3, 3), 1, 100.0, (100.0, 100.0))
ALL = FormOptions(Uses(prune=True, spatial=True, channel=True), 2, "macs", "data")
LINEAR = RefitOptions(refit="linear", rounds=0)


def problem_and_new_rows(seed: int, inputs: int, outputs: int) -> tuple[Regression, np.ndarray]:
    """A conv that answers what it answers, and 4 000 rows that it was not gathered from."""
    rng = np.random.default_rng(seed)
    columns = 9 * inputs
    common = rng.standard_normal((5500, columns // 2)) @ rng.standard_normal((columns // 2, columns))
    x = np.maximum(common + rng.standard_normal((5500, columns)), 0).astype(np.float32)
    builder = MomentsBuilder(columns, 0)
    for half in (0, 1):
        builder.add(x[half:1500:2], None, half)
    weight, bias = rng.standard_normal((outputs, columns)), rng.standard_normal(outputs)
    moments = builder.finish().with_response(weight, bias)
    return Regression(moments, weight, bias, np.repeat(np.arange(inputs), 9)), x[1500:].astype(np.float64)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), inputs=st.integers(4, 8), outputs=st.integers(4, 8))
def test_the_fit_keeps_on_new_samples_what_the_survey_promises(seed, inputs, outputs) -> None:
    problem, new = problem_and_new_rows(seed, inputs, outputs)
    wanted = new @ problem.weight.T
    found = form_curves([problem], SHAPE, ALL)
    columns = np.arange(9 * inputs, dtype=np.int64)
    kinds = found.kinds()
    for places in kinds.values():
        for place in places[:: max(len(places) // 4, 1)].tolist():
            (solution,), _ = factorise(SITE, [problem], columns, found.form(place), LINEAR, None)
            left = wanted + problem.bias - new @ solution.weight.T - solution.bias
            error = np.square(left).mean(axis=0).sum() / wanted.var(axis=0).sum()
            if found.parts[0, place]:  # the fit also tries the plain basis, and takes the better one
                assert error <= found.error[place] * 1.15 + 1e-3
            else:
                assert error == pytest.approx(found.error[place], rel=0.15, abs=1e-3)
