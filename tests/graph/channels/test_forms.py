"""What a form costs: one by one, or many at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.channels.forms import Form, LayerShape, form_parts

sizes = st.integers(1, 9)


@given(
    kernel=st.lists(st.integers(1, 5), max_size=3),
    groups=st.integers(1, 4),
    spatial=st.one_of(st.none(), sizes),
    channel=st.one_of(st.none(), sizes),
    inputs=sizes,
    own=sizes,
    unit=st.sampled_from(["macs", "params"]),
    data=st.data(),
)
def test_one_form_costs_what_it_costs_among_many(kernel, groups, spatial, channel, inputs, own, unit, data) -> None:
    spatial = spatial if kernel else None
    first = data.draw(st.integers(0, len(kernel) - 1)) if kernel else 0
    shape = LayerShape(tuple(kernel), groups, 36.0, tuple(7.0 + axis for axis in range(len(kernel))))
    form = Form(spatial, first, channel)
    among = form_parts([Form(), form, Form(channel=1)])
    assert Form.from_parts(among[:, 1]) == form
    many = shape.costs(among, inputs, groups * own, unit)
    assert float(shape.cost(form, inputs, groups * own, unit)) == pytest.approx(float(many[1]))


def test_the_dense_form_costs_its_weights_at_every_position() -> None:
    shape = LayerShape((3, 5), 2, 10.0, (20.0, 30.0))
    assert shape.cost(Form(), 4, 6, "params") == 6 * 4 * 15
    assert shape.cost(Form(), 4, 6, "macs") == 10 * 6 * 4 * 15
    # V along 3: 20 positions, rank 2 in each of two groups from 4 channels; H along 5: 10 positions to 6 outputs.
    assert shape.cost(Form(2), 4, 6, "macs") == 20 * (2 * 2) * 4 * 3 + 10 * 6 * 2 * 5
    assert math.isclose(shape.cost(Form(channel=1), 4, 6, "macs"), 10 * (2 * 4 * 15 + 6 * 1))
