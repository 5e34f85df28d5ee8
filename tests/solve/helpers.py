"""Samples and problems that the tests of the solvers share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.solve import Moments, MomentsBuilder, Regression


@dataclass(frozen=True)
class Case:
    """x (n, p) float32, y (n, o) float32, half (n,), and the problem that they make."""

    x: np.ndarray
    y: np.ndarray
    half: np.ndarray
    problem: Regression
    units: int


def moments_of(x: np.ndarray, y: np.ndarray, half: np.ndarray, batch: int = 64) -> Moments:
    builder = MomentsBuilder(x.shape[1], y.shape[1])
    for start in range(0, len(x), batch):
        for which in (0, 1):
            rows = np.flatnonzero(half[start : start + batch] == which) + start
            builder.add(x[rows], y[rows], which)
    return builder.finish()


def relu_patches(rng: np.random.Generator, samples: int, columns: int) -> np.ndarray:
    """Correlated, non-negative values as behind a ReLU: (samples, columns) float32."""
    rank = max(2, columns // 2)
    common = rng.standard_normal((samples, rank)) @ rng.standard_normal((rank, columns))
    return np.maximum(common + 0.7 * rng.standard_normal((samples, columns)), 0).astype(np.float32)


def make_case(
    seed: int, *, units: int = 6, kernel: int = 2, outputs: int = 4, samples: int = 400, noise: float = 0.3
) -> Case:
    rng = np.random.default_rng(seed)
    columns = units * kernel
    x = relu_patches(rng, samples, columns)
    weight = rng.standard_normal((outputs, columns))
    bias = rng.standard_normal(outputs)
    y = (x @ weight.T + bias + noise * rng.standard_normal((samples, outputs))).astype(np.float32)
    half = np.arange(samples) % 2
    unit = np.repeat(np.arange(units), kernel)
    return Case(x, y, half, Regression(moments_of(x, y, half), weight, bias, unit), units)


def brute_force_error(case: Case, columns: np.ndarray) -> float:
    """Relative error of the least squares refit on the samples themselves."""
    y = case.y.astype(np.float64)
    y -= y.mean(axis=0)
    x = case.x[:, columns].astype(np.float64)
    x -= x.mean(axis=0)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0] if len(columns) else np.zeros_like(y)
    return float(np.square(y - fitted).sum() / np.square(y).sum())
