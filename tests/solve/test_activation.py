"""The auxiliary variable of the fit behind an activation is the exact minimiser, whatever the activation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import RELU, Activation, clip, leaky_relu
from onnxprune.solve.activation import Piece

ALL = [
    RELU,
    clip(0, 6),
    clip(-1, 1),
    clip(-np.inf, 2),
    leaky_relu(0.1),
    leaky_relu(0.0),
    Activation("Identity", (Piece(-np.inf, np.inf, 1.0, 0.0),)),
]


@pytest.mark.parametrize("activation", ALL, ids=lambda a: f"{a.name}{len(a.pieces)}")
@settings(deadline=None, max_examples=60)
@given(y=st.floats(-9, 9, width=32), m=st.floats(-9, 9, width=32), penalty=st.floats(0.05, 5))
def test_no_value_on_a_grid_is_cheaper(activation, y, m, penalty) -> None:
    target = activation(np.float32([[y]]))
    z = m + activation.wanted_change(target, np.float32([[m]]), penalty)[0, 0]

    def cost(values):
        behind = activation(np.atleast_2d(np.float32(values)))
        return np.square(target - behind) + penalty * np.square(np.float32(values) - m)

    grid = np.linspace(-20, 20, 2001, dtype=np.float32)
    assert float(cost(z)[0, 0]) <= float(cost(grid).min()) * (1 + 1e-4) + 1e-4


@pytest.mark.parametrize("activation", ALL, ids=lambda a: f"{a.name}{len(a.pieces)}")
def test_values_are_those_of_the_operator(activation) -> None:
    values = np.linspace(-8, 8, 321, dtype=np.float32)[None]
    expected = {
        "Relu": lambda v: np.maximum(v, 0),
        "Clip": lambda v: (
            np.clip(v, activation.pieces[0].upper, activation.pieces[-1].lower)
            if len(activation.pieces) == 3
            else np.minimum(v, 2)
        ),
        "LeakyRelu": lambda v: np.where(v > 0, v, activation.pieces[0].slope * v),
        "Identity": lambda v: v,
    }[activation.name](values)
    np.testing.assert_allclose(activation(values), expected, atol=1e-6)


def test_a_clip_from_zero_up_is_a_relu_and_an_empty_one_is_refused() -> None:
    assert clip(0, np.inf) is RELU
    with pytest.raises(ValueError, match="low < high"):
        clip(1, 1)
