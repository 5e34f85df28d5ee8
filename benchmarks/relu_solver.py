"""The ReLU-aware solver against the published way, on the same samples of a 3x3 conv of 256 outputs, in one run.

The published way solves a least-squares problem with scikit-learn's ``LinearRegression`` in each of its 50 steps, 30
with penalty 0.1 and 20 with penalty 1. Ours is run to the same end: without a ridge, and without held-out samples to
stop it, as many turns as ``--turns`` says. Below stands what ``--refit auto`` does in its place, held-out samples and
all. All start from a linear fit; errors are those behind the ReLU, relative to the variance of the target there, on the
samples and on as many fresh ones.

Run: ``python benchmarks/relu_solver.py``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import machine, table
from sklearn.linear_model import LinearRegression

from onnxprune.options.solve import RefitOptions
from onnxprune.solve import RELU, MomentsBuilder, Regression, Samples, Solution, refit

_SAMPLES, _OUTPUTS, _KERNEL = 20_000, 256, 9
_PUBLISHED = ((0.1, 30), (1.0, 20))

Array = np.ndarray[Any, np.dtype[np.float32]]


def _samples(columns: int) -> tuple[Array, Array, Array]:
    """Correlated non-negative patches, half of whose columns the layer has lost, and what it answered before."""
    generator = np.random.default_rng(0)
    count = 2 * _SAMPLES
    common = generator.standard_normal((count, 200)).astype(np.float32)
    mixing = generator.standard_normal((200, 2 * columns)).astype(np.float32)
    x = np.maximum(common @ mixing / 14 + 0.2 * generator.standard_normal((count, 2 * columns), np.float32), 0)
    weight = generator.standard_normal((_OUTPUTS, 2 * columns), np.float32) / np.float32(np.sqrt(2 * columns))
    y = x @ weight.T
    y -= y.mean(axis=0) + y.std(axis=0)  # as in a trained net, most answers are cut
    return np.ascontiguousarray(x[:, :columns]), y, weight[:, :columns]


def _published(x: Array, y: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    target = np.maximum(y, 0)
    for penalty, steps in _PUBLISHED:
        for _ in range(steps):
            response = x @ weight.T + bias
            z = response + RELU.wanted_change(target, response, penalty)
            model = LinearRegression().fit(x, z)
            weight, bias = model.coef_, model.intercept_
    return weight, bias


def _error(x: Array, y: Array, weight: Any, bias: Any) -> float:
    target = np.maximum(y, 0).astype(np.float64)
    apart = np.maximum(x.astype(np.float64) @ weight.T + bias, 0) - target
    return float(np.square(apart).sum() / np.square(target - target.mean(axis=0)).sum())


def main() -> None:
    """Print errors, times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128, help="input channels that are left")
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args()
    columns = options.channels * _KERNEL
    x, y, original = _samples(columns)
    fresh = x[_SAMPLES:], y[_SAMPLES:]
    x, y = x[:_SAMPLES], y[:_SAMPLES]
    half = np.arange(_SAMPLES) % 2
    builder = MomentsBuilder(columns, _OUTPUTS)
    for side in (0, 1):
        builder.add(x[half == side], y[half == side], side)
    units = np.repeat(np.arange(options.channels), _KERNEL)
    problem = Regression(builder.finish(), original.astype(np.float64), np.zeros(_OUTPUTS), units)
    everything, samples = np.arange(columns), Samples(x, y, half)

    def timed(chosen: RefitOptions) -> tuple[Solution, float]:
        start = time.perf_counter()
        found = refit(problem, everything, chosen, samples)
        return found, time.perf_counter() - start

    plain, _ = timed(RefitOptions(refit="linear", strengths=(0.0,)))
    linear, _ = timed(RefitOptions(refit="linear"))
    as_far = RefitOptions(refit="auto", strengths=(0.0,), relu_steps=((5.0, options.turns),), judged=False)
    ours, own = timed(as_far)
    held, judged = timed(RefitOptions(refit="auto"))
    start = time.perf_counter()
    theirs = _published(x, y, plain.weight.astype(np.float32), plain.bias.astype(np.float32))
    published = time.perf_counter() - start

    print(machine())
    print(f"{_SAMPLES} samples, {columns} columns, {_OUTPUTS} outputs\n")
    rows: list[list[object]] = []
    for name, (weight, bias), seconds in (
        ("linear, no ridge", (plain.weight, plain.bias), None),
        ("published, 50 steps", theirs, published),
        (f"ours, no ridge, {options.turns} turns", (ours.weight, ours.bias), own),
        ("linear, as shipped", (linear.weight, linear.bias), None),
        ("--refit auto, as shipped", (held.weight, held.bias), judged),
    ):
        times = ["", ""] if seconds is None else [f"{seconds:.1f}", f"{published / seconds:.1f}"]
        rows.append([name, *(f"{_error(*part, weight, bias):.4f}" for part in ((x, y), fresh)), *times])
    print(table(["way", "error on the samples", "on fresh ones", "seconds", "times faster"], rows))


if __name__ == "__main__":
    main()
