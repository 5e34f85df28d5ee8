"""Is there a better set of channels than the greedy one? Exchanges after it, and averages of similar channels.

In a run with ``--recipe prune``, three sets of as many channels are chosen for every group that loses some, on half of
its samples, and the refit to that half is judged on the other half:

=============  ====================================================================================================
greedy         block Optimal Brain Surgeon, as shipped
exchanged      the greedy set after exchanges of a kept and a removed channel, which go on while the error on the
               fitted half falls
folded         the means of clusters of similar channels (Ward's method) in place of single channels. The means are
               taken behind the activation, where no network could compute them: a bound for averaged weights
=============  ====================================================================================================

Exchanges: Meng et al., "OSSCAR", ICML 2024, by the sweep operator (Goodnight 1979). Folding: Wang et al., "Forget the
data and fine-tuning! Just fold the network to compress", ICLR 2025.

Run: ``python benchmarks/better_sets.py --data FOLDER``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from common import arguments, machine, table
from deploy import photo_folders
from deployed import NETWORKS
from scipy.cluster.hierarchy import fcluster, ward

import onnxprune
from onnxprune import DataOptions, Options
from onnxprune.solve import Regression, select
from onnxprune.solve.elimination import obs_order
from onnxprune.solve.held_out import parts_of
from onnxprune.solve.numerics import JITTER, factorise, scale_of

Array = np.ndarray[Any, Any]

_TRIED = 4  # removed units of the largest gains, each tried against all kept ones
_LEAST = 1e-5  # of the error, that an exchange must bring
_RIDGE = 1e-3
_SPEEDUP = 1.5


class _Swept:
    """Moments of one consumer with the kept columns swept: one formula gives a kept unit's cost, a removed one's gain.

    ``a`` is -H, H G_SR and the Schur complement, ``b`` the solution W of the kept columns S and the remaining cross
    moments of the others, H = (G_SS)^-1.
    """

    def __init__(self, problem: Regression, kept: Array) -> None:
        part = problem.moments.total
        scale = scale_of(part.gram)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        self.a = part.gram * inverse * inverse[:, None]
        self.a[np.diag_indices_from(self.a)] += JITTER + (scale <= 0)
        self.b = part.cross * inverse[:, None]
        self.factor = problem.scale()
        units = int(problem.unit.max(initial=-1)) + 1
        self.columns = [np.flatnonzero(problem.unit == unit) for unit in range(units)]
        self._sweep(np.flatnonzero((problem.unit < 0) | np.isin(problem.unit, kept)), 1.0)

    def scores(self, units: int) -> Array:
        """``tr(B_u^T |A_uu|^-1 B_u)`` of each unit: (units,)."""
        found = np.zeros(units)
        for unit, own in enumerate(self.columns):
            if len(own):
                b = self.b[own]
                found[unit] = self.factor * abs(np.trace(np.linalg.solve(self.a[np.ix_(own, own)], b @ b.T)))
        return found

    def move(self, unit: int, *, into: bool) -> None:
        """Sweep a unit into the kept ones, or out of them."""
        if unit < len(self.columns) and len(self.columns[unit]):
            self._sweep(self.columns[unit], 1.0 if into else -1.0)

    def _sweep(self, own: Array, sign: float) -> None:
        inverse = np.linalg.inv(self.a[np.ix_(own, own)])
        rows = self.a[own].copy()
        change, answer = inverse @ rows, inverse @ self.b[own]
        self.a -= rows.T @ change
        self.b -= rows.T @ answer
        self.a[own], self.a[:, own], self.b[own] = sign * change, sign * change.T, sign * answer
        self.a[np.ix_(own, own)] = -inverse


def exchanged(problems: Sequence[Regression], units: int, kept: Array) -> Array:
    """Exchange a kept and a removed unit for as long as the error falls: (k,) sorted."""
    states = [_Swept(problem, kept) for problem in problems]
    inside = np.isin(np.arange(units), kept)
    for _ in range(units):
        gains = np.where(inside, -np.inf, np.sum([state.scores(units) for state in states], axis=0))
        for unit in np.argsort(-gains)[: min(_TRIED, units - len(kept))]:
            for state in states:
                state.move(int(unit), into=True)
            costs = np.where(inside, np.sum([state.scores(units) for state in states], axis=0), np.inf)
            worst = int(np.argmin(costs))
            better = gains[unit] - costs[worst] > _LEAST
            for state in states:
                state.move(worst if better else int(unit), into=False)
            if better:
                inside[unit], inside[worst] = True, False
                break
        else:
            break
    return np.flatnonzero(inside)


def _identity(unit: Array, kept: Array) -> Array:
    """The matrix (k, p) that selects the columns of the kept units and of none."""
    return np.eye(len(unit))[np.flatnonzero((unit < 0) | np.isin(unit, kept))]


def _means(problems: Sequence[Regression], units: int, keep: int) -> list[Array]:
    """Matrices (k, p) that average the columns of clusters of similar units, for each consumer."""
    features = []
    for problem in problems:
        part = problem.moments.total
        values, vectors = np.linalg.eigh(part.gram)
        root = vectors * np.sqrt(np.maximum(values, 0.0))  # rows whose inner products are the second moments
        size = np.sqrt(problem.scale()) * np.linalg.norm(problem.weight, axis=0)
        own = [(root * size[:, None])[problem.unit == unit].ravel() for unit in range(units)]
        width = max(map(len, own))
        features.append(np.stack([np.pad(one, (0, width - len(one))) for one in own]))
    label = fcluster(ward(np.concatenate(features, axis=1)), keep, criterion="maxclust") - 1
    found = []
    for problem in problems:
        rows = [np.eye(len(problem.unit))[problem.unit < 0]]
        for cluster in range(label.max() + 1):
            columns = [np.flatnonzero(problem.unit == unit) for unit in np.flatnonzero(label == cluster)]
            columns = [one for one in columns if len(one)]
            if columns:
                means = np.zeros((len(columns[0]), len(problem.unit)))
                for one in columns:
                    means[np.arange(len(one)), one] = 1 / len(columns)
                rows.append(means)
        found.append(np.concatenate(rows))
    return found


def _held_error(problems: Sequence[Regression], maps: Sequence[Array], half: int) -> float:
    """Relative error on one half of the refit of mapped columns to the other, summed over consumers."""
    error = 0.0
    for problem, mapped in zip(problems, maps, strict=True):
        fitted, judged = parts_of(problem.moments, half)
        weight = factorise(mapped @ fitted.gram @ mapped.T, ridge=_RIDGE).solve(mapped @ fitted.cross)
        gram, cross = mapped @ judged.gram @ mapped.T, mapped @ judged.cross
        quadratic = np.vdot(gram @ weight, weight) - 2 * np.vdot(cross, weight)
        error += problem.scale() * float(judged.power.sum() + quadratic)
    return error


def _compared(problems: Sequence[Regression], units: int, keep: int) -> tuple[Array, int]:
    """Errors of the three ways on new samples, mean of both halves, and the number of units exchanged."""
    errors, moved = np.zeros(3), 0
    for half in (0, 1):
        known = [problem.half(half) for problem in problems]
        greedy = np.sort(obs_order(known, units)[units - keep :])
        better = exchanged(known, units, greedy)
        moved += len(set(better) - set(greedy))
        ways = [[_identity(problem.unit, kept) for problem in problems] for kept in (greedy, better)]
        ways.append(_means(known, units, keep))
        errors += np.array([_held_error(problems, maps, half) for maps in ways]) / 2
    return errors, moved


def _network(name: str, given: argparse.Namespace) -> list[object]:
    rows: list[tuple[Array, int]] = []
    plain = select

    def asked(problems: Sequence[Regression], units: int, keep: int | None, options: Any) -> Any:
        if keep is not None and 0 < keep < units and max(len(problem.unit) for problem in problems) <= given.columns:
            rows.append(_compared(problems, units, keep))
        return plain(problems, units, keep, options)

    with mock.patch("onnxprune.steps.fit.select", asked):
        if name.startswith("cifar"):
            data = DataOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
            path, source = str(given.zoo / "models" / f"{name}.onnx"), str(given.data / "cifar10_calib.npz")
            options = replace(Options(bench=False, samples=3000), data=data)
            onnxprune.prune(path, data=source, macs=1 / _SPEEDUP, options=replace(options, recipe="prune"))
        else:
            network = NETWORKS[name]
            options = replace(Options(bench=False, samples=given.photos, recipe="prune"), data=network.data)
            with photo_folders(given.data / "photos") as (folder, _):
                onnxprune.prune(network.path(given.zoo), data=folder, macs=1 / _SPEEDUP, options=options)
    errors = np.array([error for error, _ in rows])
    ratios = errors / errors[:, :1]
    wins = (ratios < 0.99).sum(axis=0)
    return [
        name,
        len(rows),
        sum(moved for _, moved in rows) / 2,
        f"{errors[:, 0].mean():.4f}",
        f"{np.median(ratios[:, 1]):.4f} ({wins[1]})",
        f"{np.median(ratios[:, 2]):.2f} ({wins[2]})",
    ]


def main() -> None:
    """Print a table, a row as soon as it is there."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="parts of networks' names")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--columns", type=int, default=2500, help="largest number of columns of a consumer")
    given = parser.parse_args()
    rows: list[list[object]] = []
    for name in ("cifar10_resnet56", *NETWORKS):
        if not given.only or any(text in name for text in given.only):
            rows.append(_network(name, given))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    header = ["network", "groups", "units exchanged", "error, greedy", "exchanged / greedy", "folded / greedy"]
    print(table(header, rows))
    print("Ratios are medians of the groups; in brackets, the groups that are better by more than one per cent.")


if __name__ == "__main__":
    main()
