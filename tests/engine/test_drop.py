"""What is lost, how surely, and when it is damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxprune.engine.divergence import OutputDivergence
from onnxprune.engine.drop import damage, estimate, expected_estimate, inputs_for, losses, reach
from onnxprune.engine.meaning import Meaning

CLASSES, VALUES = Meaning("classes", 1), Meaning("values")


def classes(agreement: float, samples: int) -> OutputDivergence:
    low = agreement - reach(1 - agreement, samples)
    return OutputDivergence("y", samples, 0.5, 1.0, agreement, 0.1, kind="classes", agreement_bound=(low, 1.0))


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_the_reach_is_that_of_the_wilson_interval(count, lost):
    lost = min(lost, count)
    high = stats.binomtest(lost, count).proportion_ci(method="wilson").high
    assert reach(lost / count, count) == pytest.approx(high - lost / count, abs=1e-9)


@given(st.floats(0.2, 60))
def test_the_number_of_inputs_that_is_named_is_enough_and_one_less_is_not(drop):
    needed = inputs_for(drop)
    assert needed is not None
    assert reach(drop / 100, needed) <= drop / 100
    assert needed == 1 or reach(drop / 100, needed - 1) > drop / 100


def test_thirty_inputs_cannot_promise_one_point_and_a_thousand_can():
    assert "ESTIMATE" in estimate(losses([classes(1.0, 30)]), 1)
    assert str(inputs_for(1)) in estimate(losses([classes(1.0, 30)]), 1)
    assert estimate(losses([classes(0.995, 1000)]), 1) == ""
    assert estimate(losses([classes(1.0, 30)]), None) == ""
    maps = OutputDivergence("y", 3, 0.5, 1.0, 0.9, kind="pixels", agreement_bound=(0.5, 1.0))
    assert "ESTIMATE" in estimate(losses([maps]), 20)
    assert "promise" not in estimate(losses([maps]), 20), "how much maps differ is not known"


def test_before_the_work_an_estimate_is_said_where_agreement_is_going_to_decide():
    assert "30 held-out inputs cannot show a drop of 1 points" in expected_estimate([CLASSES], 30, 1, "held-out")
    assert expected_estimate([CLASSES], 1000, 1, "held-out") == ""
    assert expected_estimate([VALUES], 30, 1, "held-out") == ""
    assert expected_estimate([CLASSES], 30, None, "held-out") == ""
    assert "no number of inputs" in expected_estimate([CLASSES], 30, 0, "held-out")


@pytest.mark.parametrize(
    ("output", "damaged"),
    [
        (classes(0.89, 100), True),
        (classes(0.91, 100), False),
        (OutputDivergence("y", 8, 0.21, 1.0), True),
        (OutputDivergence("y", 8, 0.19, 1.0), False),
        (OutputDivergence("y", 8, float("inf"), 1.0), True),
        (OutputDivergence("y", 8, 0.21, 1.0, 1.0, 0.1, kind="undecided"), True),
        (OutputDivergence("y", 8, 0.19, 1.0, 0.89, 0.1, kind="undecided"), True),
        (OutputDivergence("y", 8, 0.19, 1.0, 1.0, 0.1, kind="undecided"), False),
        (OutputDivergence("y", 8, 0.6, 1.0, 0.95, 0.1, kind="pixels"), False),
    ],
)
def test_less_agreement_than_nine_tenths_or_an_error_above_a_fifth_is_damage(output, damaged):
    line = damage([OutputDivergence("fine", 8, 0.0, 0.0), output], "held-out")
    assert bool(line) == damaged
    if damaged:
        assert line.startswith("DAMAGED: ")
        assert "\n" not in line
        for word in ("'y'", f"on {output.samples}", "--recover", "--exclude", "speed-up"):
            assert word in line
        assert "--recover" not in damage([output], "held-out", trained=True)
