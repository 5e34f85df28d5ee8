"""Channel selection and refit of one conv: from moments, and from the sample matrix as published.

Both ways see the same centred samples, minimise the same objective, ``1/2 E||y - sum_c beta_c z_c||^2 +
alpha |beta|_1`` with z_c the response of channel c alone, and keep the same number of channels:

moments   ``MomentsBuilder`` (its time counts), the LASSO path on Q and q, the linear refit.
plain     the matrix of all channels' responses, (points * outputs, channels) float32; scikit-learn ``Lasso``,
          bisection on the penalty until the count is met, warm started; ``LinearRegression`` on the kept
          columns. The code published with He et al. (ICCV 2017) does this, on a subsample of 400 points.

Errors are relative, over the samples of the fit and over as many as a fifth of them that neither has seen.

Run: ``python benchmarks/lasso_moments.py``; a small one:
``python benchmarks/lasso_moments.py --points 4000 --channels 32 --outputs 32``.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LinearRegression
from threadpoolctl import threadpool_info

from onnxprune.options.solve import RefitOptions, SelectOptions
from onnxprune.solve import MomentsBuilder, Regression, kept_columns, refit, select

Array32 = npt.NDArray[np.float32]

_BATCH = 2000
_SEARCH_STEPS = 40
_KERNEL = 9


@dataclass(frozen=True)
class Layer:
    """x: (points, 9 channels) patches, y: (points, outputs), weight: (outputs, 9 channels), all float32."""

    x: Array32
    y: Array32
    weight: Array32
    channels: int

    def part(self, rows: slice) -> Layer:
        """The same layer at the points ``rows``."""
        return replace(self, x=self.x[rows], y=self.y[rows])


@dataclass(frozen=True)
class Outcome:
    """kept: (k,) channels; weight (outputs, 9 k) and bias (outputs,) of the refit; seconds by stage."""

    kept: npt.NDArray[np.int64]
    weight: npt.NDArray[np.floating]
    bias: npt.NDArray[np.floating]
    seconds: dict[str, float]


def make_layer(points: int, channels: int, outputs: int, seed: int) -> Layer:
    """Patches like those behind a ReLU: channels share a few causes, and the 9 pixels of one are alike."""
    rng = np.random.default_rng(seed)
    causes = max(4, channels // 4)
    mixing = rng.standard_normal((causes, channels), dtype=np.float32) / np.float32(np.sqrt(causes))
    strength = rng.gamma(2.0, 0.5, channels).astype(np.float32)
    x = np.empty((points, channels, _KERNEL), dtype=np.float32)
    for start in range(0, points, _BATCH):
        part = x[start : start + _BATCH]
        part[...] = (rng.standard_normal((len(part), causes), dtype=np.float32) @ mixing)[:, :, None]
        part += np.float32(0.7) * rng.standard_normal(part.shape, dtype=np.float32)
        np.maximum(part, 0, out=part)
        part *= strength[:, None]
    flat = x.reshape(points, -1)
    weight = rng.standard_normal((outputs, flat.shape[1]), dtype=np.float32)
    weight *= np.repeat(rng.gamma(2.0, 0.5, channels), _KERNEL).astype(np.float32) / np.float32(flat.shape[1]) ** 0.5
    return Layer(flat, flat @ weight.T, weight, channels)


def by_moments(layer: Layer, keep: int) -> Outcome:
    """The package's own way."""
    seconds, clock = {}, time.perf_counter()
    builder = MomentsBuilder(layer.x.shape[1], layer.y.shape[1])
    for start in range(0, len(layer.x), _BATCH):
        rows = slice(start, start + _BATCH)
        builder.add(layer.x[rows], layer.y[rows], start // _BATCH % 2)
    moments = builder.finish()
    seconds["moments"], clock = time.perf_counter() - clock, time.perf_counter()
    unit = np.repeat(np.arange(layer.channels), _KERNEL)
    problem = Regression(moments, layer.weight.astype(np.float64), np.zeros(layer.y.shape[1]), unit)
    options = SelectOptions(selector="lasso", lasso="path", rank_tol=0.0)
    kept = select([problem], layer.channels, keep, options).kept
    seconds["lasso"], clock = time.perf_counter() - clock, time.perf_counter()
    solution = refit(problem, kept_columns(problem, kept), RefitOptions(refit="linear"))
    seconds["refit"] = time.perf_counter() - clock
    return Outcome(kept, solution.weight, solution.bias, seconds)


def by_samples(layer: Layer, keep: int) -> Outcome:
    """The plain way, on the whole sample matrix."""
    seconds, clock = {}, time.perf_counter()
    y = layer.y - layer.y.mean(axis=0)
    centre = layer.x.mean(axis=0)
    responses = np.empty((y.size, layer.channels), dtype=np.float32, order="F")
    for channel in range(layer.channels):
        own = slice(channel * _KERNEL, (channel + 1) * _KERNEL)
        responses[:, channel] = ((layer.x[:, own] - centre[own]) @ layer.weight[:, own].T).reshape(-1)
    target = y.reshape(-1)
    seconds["matrix"], clock = time.perf_counter() - clock, time.perf_counter()
    kept = search(responses, target, keep)
    seconds["lasso"], clock = time.perf_counter() - clock, time.perf_counter()
    del responses
    regression = LinearRegression(copy_X=False).fit(layer.x[:, columns_of(kept)], layer.y)
    seconds["refit"] = time.perf_counter() - clock
    return Outcome(kept, regression.coef_, regression.intercept_, seconds)


def search(responses: Array32, target: Array32, keep: int) -> npt.NDArray[np.int64]:
    """Bisection on the penalty until exactly ``keep`` coefficients are not zero."""
    high = float(np.abs(target @ responses).max()) / len(target)
    low = 1e-6 * high
    # The default tolerance, 1e-4, leaves the smallest coefficients and so the count undecided.
    solver = Lasso(fit_intercept=False, warm_start=True, copy_X=False, max_iter=1000, tol=1e-6)
    kept = np.arange(responses.shape[1])
    for _ in range(_SEARCH_STEPS):
        middle = float(np.sqrt(low * high))
        solver.set_params(alpha=middle).fit(responses, target)
        kept = np.flatnonzero(solver.coef_)
        if len(kept) == keep:
            break
        low, high = (middle, high) if len(kept) > keep else (low, middle)
    return kept


def columns_of(kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The columns of x that belong to the channels ``kept``."""
    return (kept[:, None] * _KERNEL + np.arange(_KERNEL)).reshape(-1)


def relative_error(layer: Layer, outcome: Outcome) -> float:
    """E||y - W x - b||^2 / E||y - E y||^2 over the samples themselves."""
    left = layer.y - layer.x[:, columns_of(outcome.kept)] @ outcome.weight.T.astype(np.float32)
    left -= outcome.bias.astype(np.float32)
    return float(np.square(left).sum(dtype=np.float64) / (layer.y.var(axis=0).sum(dtype=np.float64) * len(left)))


def main() -> None:
    """Run both ways once and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--outputs", type=int, default=256, help="256: the plain matrix has 13 GB")
    parser.add_argument("--keep", type=int, help="default: half of the channels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep = options.keep or options.channels // 2
    extra = max(1000, options.points // 5)
    whole = make_layer(options.points + extra, options.channels, options.outputs, options.seed)
    layer, others = whole.part(slice(options.points)), whole.part(slice(options.points, None))
    ours = by_moments(layer, keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain = by_samples(layer, keep)
    threads = {str(info["internal_api"]): int(info["num_threads"]) for info in threadpool_info()}
    print(f"{datetime.date.today()}  {platform.machine()}  {platform.system()}  threads {threads}")
    print(
        f"{options.points} points, {options.channels} channels 3x3, {options.outputs} outputs, keep {keep}; "
        f"plain matrix {layer.y.size * layer.channels * 4 / 1e9:.1f} GB"
    )
    for name, outcome in (("moments", ours), ("plain", plain)):
        stages = "  ".join(f"{stage} {seconds:.2f} s" for stage, seconds in outcome.seconds.items())
        total = sum(outcome.seconds.values())
        errors = f"error {relative_error(layer, outcome):.5f}, on others {relative_error(others, outcome):.5f}"
        print(f"{name:8} kept {len(outcome.kept):4}  {errors}  {total:8.2f} s  ({stages})")
    common = len(np.intersect1d(ours.kept, plain.kept))
    print(f"same support: {np.array_equal(ours.kept, plain.kept)} ({common} of {keep} in common)")
    print(f"ratio: {sum(plain.seconds.values()) / sum(ours.seconds.values()):.1f} times faster from moments")


if __name__ == "__main__":
    main()
