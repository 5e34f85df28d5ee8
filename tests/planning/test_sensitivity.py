"""How much an error counts: by ratios alone, damped, and 1 for what nobody tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.channels.forms import Form
from onnxprune.planning.candidates import Candidates
from onnxprune.planning.sensitivity import Sensitivity

CURVES = {name: np.array([0.0, 1.0, 2.0]) for name in "abc"}
FORMS = Candidates.of([Form(4), Form(channel=4), Form(4, 0, 4)], [1.0, 1.0, 1.0])
values = st.floats(1e-3, 1e3)


@given(values, values, values, st.floats(1e-6, 1e6))
def test_only_ratios_count_and_they_are_damped(a, b, c, unit) -> None:
    found = Sensitivity({"a": a, "b": b}, {"x": {"spatial": c}})
    weighed, errors = found.curves(CURVES), found.candidates({"x": FORMS})["x"].error
    assert weighed["a"][1] / weighed["b"][1] == pytest.approx(np.sqrt(a / b))
    assert errors[1] / weighed["a"][1] == pytest.approx(np.sqrt(c / a))
    assert weighed["a"][1] * weighed["b"][1] * errors[1] == pytest.approx(1)
    assert weighed["a"][2] == pytest.approx(2 * weighed["a"][1])
    other = Sensitivity({"a": a * unit, "b": b * unit}, {"x": {"spatial": c * unit}})
    assert other.curves(CURVES)["a"] == pytest.approx(weighed["a"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_not_known_counts_as_it_is(value) -> None:
    found = Sensitivity({"a": value, "b": 4.0, "d": 1.0}, {})
    assert found.curves(CURVES)["a"].tolist() == [0, 1, 2]
    assert found.curves(CURVES)["c"].tolist() == [0, 1, 2]
    assert found.candidates({"x": FORMS})["x"].error.tolist() == [0, 1, 1, 1]
    assert Sensitivity({}, {}).curves(CURVES)["a"].tolist() == [0, 1, 2]


def test_every_kind_of_form_has_its_own() -> None:
    found = Sensitivity({}, {"x": {"spatial": 1.0, "channel": 16.0, "both": 256.0}})
    assert found.candidates({"x": FORMS})["x"].error == pytest.approx([0, 0.25, 1, 4])
