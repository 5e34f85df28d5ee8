"""Clocks: exact where measured, linear between, and added up over layers."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.channels.forms import DENSE, Form, form_parts
from onnxprune.planning.clock import Clock, Grid, marks


@pytest.fixture(scope="module", autouse=True)
def interpolation() -> None:
    """Import what `Grid` imports late: the first example is not to wait for it."""
    importlib.import_module("scipy.interpolate")


def plane(inputs: int, outputs: int, slope: float = 1.0) -> Grid:
    return Grid.measured(inputs, outputs, lambda i, o: slope * i * o / 100)


@given(most=st.integers(1, 600))
def test_marks_end_at_the_most_and_are_few(most):
    found = marks(most)
    assert found[-1] == most
    assert list(found) == sorted(set(found))
    assert 1 <= len(found) <= 6


@given(inputs=st.integers(1, 300), outputs=st.integers(1, 300), data=st.data())
def test_a_grid_is_exact_where_it_was_measured_and_between_its_neighbours_elsewhere(inputs, outputs, data):
    grid = plane(inputs, outputs)
    i, o = data.draw(st.sampled_from(marks(inputs))), data.draw(st.sampled_from(marks(outputs)))
    assert float(grid.at(i, o)) == pytest.approx(i * o / 100)
    between = float(grid.at(data.draw(st.integers(1, inputs)), o))
    assert grid.ms[0, marks(outputs).index(o)] <= between + 1e-9
    assert between <= grid.ms[-1, marks(outputs).index(o)] + 1e-9


def test_beyond_its_ends_a_grid_gives_its_ends():
    grid = plane(64, 64)
    assert float(grid.at(640, 64)) == pytest.approx(64 * 64 / 100)
    assert float(grid.at(1, 1)) == pytest.approx(8 * 8 / 100)


def test_a_form_takes_what_its_convs_take():
    clock = Clock(
        plane(32, 64), ((plane(32, 96, 2), plane(96, 64, 3)), (plane(32, 96, 5), plane(96, 64, 7))), plane(64, 64, 11)
    )

    def ms(form: Form) -> float:
        return float(clock.ms(form_parts([form]), 32, 64)[0])

    assert ms(DENSE) == pytest.approx(32 * 64 / 100)
    assert ms(Form(channel=32)) == pytest.approx((32 * 32 + 11 * 32 * 64) / 100)
    assert ms(Form(48, 0)) == pytest.approx((2 * 32 * 48 + 3 * 48 * 64) / 100)
    assert ms(Form(48, 1, 32)) == pytest.approx((5 * 32 * 48 + 7 * 48 * 32 + 11 * 32 * 64) / 100)
    every = clock.ms(form_parts([DENSE, Form(channel=32), Form(48, 0)]), 32, 64)
    assert every.tolist() == pytest.approx([ms(DENSE), ms(Form(channel=32)), ms(Form(48, 0))])


def test_channels_of_a_grouped_layer_are_counted_in_all_groups():
    clock = Clock(Grid((16, 32), (16, 32), np.array([[1.0, 2.0], [3.0, 4.0]])), groups=4)
    assert float(clock.ms(form_parts([DENSE]), 4, 16)[0]) == 1
    assert float(clock.ms(form_parts([DENSE]), 8, 32)[0]) == 4
