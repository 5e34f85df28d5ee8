"""Every method on the shapes of every family: verified, or declined in one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph.families import FAMILIES, SIDE
from runs import SMALL

import onnxprune
from onnxprune.errors import PlanError
from onnxprune.options.solve import RefitOptions, SelectOptions

pytestmark = pytest.mark.slow

_METHODS = {
    "prune": SMALL,
    "prune, behind the activation": replace(SMALL, refit=RefitOptions(refit="auto")),
    "prune, lasso": replace(SMALL, select=SelectOptions(selector="lasso")),
    "spatial": replace(SMALL, recipe="spatial"),
    "channel": replace(SMALL, recipe="channel"),
    "3c": replace(SMALL, recipe="3c"),
    "3c, behind the activation": replace(SMALL, recipe="3c", refit=RefitOptions(refit="auto")),
}
_QUICK = ("prune", "3c")
# Hardly anything but depthwise convs is wider than one by one there.
_FEW_KERNELS = {"mobilenet_v2", "mobilenet_v3", "efficientnet", "convnext"}


def _tried(family: str, method: str) -> None:
    model = FAMILIES[family]()
    data = {"x": np.random.default_rng(0).standard_normal((40, 3, SIDE, SIDE)).astype(np.float32)}
    result = onnxprune.prune(model, data=data, macs=0.9, options=_METHODS[method])
    assert result.report.macs.after <= 0.9 * result.report.macs.before
    assert result.model is not None


@pytest.mark.parametrize("method", _QUICK)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loses_a_tenth_and_is_verified(family, method):
    _tried(family, method)


@pytest.mark.long
@pytest.mark.parametrize("method", [name for name in _METHODS if name not in _QUICK])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_does_so_too(family, method):
    if method == "spatial" and family in _FEW_KERNELS:
        with pytest.raises(PlanError, match=r"out of reach|no layer"):
            _tried(family, method)
    else:
        _tried(family, method)
