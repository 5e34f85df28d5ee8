"""The errors that a plan rests on, against the errors of the final fits on inputs that nobody has seen.

Every group of channels at three levels, and every kind of form of each layer, is fitted on some inputs as the last
step of a run would (selection, ridge, all samples), and judged on the moments of as many fresh inputs, on the original
network. "Flattering" is the error on the samples of the fit itself, which the plan went by until 0.5.

Run: ``python benchmarks/honest_curves.py --data FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, table
from deployed import NETWORKS
from PIL import Image

from onnxprune import DataOptions, Options
from onnxprune.commands.prune import opened
from onnxprune.options.budget import BudgetOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.progress import silent
from onnxprune.solve import Moments, Regression, kept_columns, refit, removal_order
from onnxprune.steps.curves import Curves, error_curves
from onnxprune.steps.decide import shapes_of
from onnxprune.steps.factorise import factorise
from onnxprune.steps.prepare import Prepared
from onnxprune.steps.statistics import Need, gathered, group_problems, parts_of, site_problems

Array = np.ndarray[Any, Any]
Triple = tuple[float, float, float]
"""Promised, true and flattering error."""

_LINEAR = RefitOptions(refit="linear", rounds=0)
_LEVELS = (0.25, 0.5, 0.75)
_LEAST = 1e-4  # errors below it, of channels that are all but dead, decide nothing
_ROWS = (
    ("cifar10_resnet56", 300),
    ("imagenet_mobilenet_v2", 150),
    ("imagenet_squeezenet1_1", 150),
    ("imagenet_efficientnet_lite0", 150),
)


def _pixels(name: str, count: int, folder: Path) -> tuple[Array, Array, DataOptions]:
    """Inputs to fit on, as many fresh ones, and their preprocessing."""
    if name.startswith("cifar"):
        with np.load(folder / "cifar10_test.npz") as archive:
            images = archive["images"]
        drawn = np.random.default_rng(0).permutation(len(images))[: 2 * count]
        data = DataOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        return images[drawn[:count]], images[drawn[count:]], data
    network = NETWORKS[name]
    files = sorted((folder / "photos").iterdir())
    drawn = np.random.default_rng(0).permutation(len(files))[: 2 * count]
    size = network.side, network.side
    images = np.stack([np.asarray(Image.open(files[i]).convert("RGB").resize(size)) for i in drawn])
    return images[:count], images[count:], network.data


def _moments(run: Prepared, names: Sequence[str]) -> dict[str, tuple[Moments, ...]]:
    """Of layers on the original network, one layer at a time where memory is short."""
    needs = [Need(name, (name,)) for name in names]
    found = {}
    for number, part in enumerate(parts := list(parts_of(run, needs))):
        found.update(gathered(run, part, number, len(parts)))
    return found


def _error(problem: Regression, solution: Any, columns: Array) -> float:
    """Relative, of a solution for some columns of a regression."""
    total = problem.moments.columns(columns).total
    return total.error(solution.weight, solution.bias) / float(total.power.sum())


def _groups(run: Prepared, fresh: Prepared, found: Curves) -> Iterator[Triple]:
    for group in run.channels.prunable:
        if group.name not in found.rankings or group.size < 8:
            continue
        ours, theirs = (group_problems(one, group, _moments(one, group.consumers)) for one in (run, fresh))
        problems = [problem for regressions in ours.values() for problem in regressions]
        judges = [problem for regressions in theirs.values() for problem in regressions]
        order, curve = removal_order(problems, group.size, run.options.select), found.rankings[group.name].curve
        for share in _LEVELS:
            gone = int(share * group.size)
            true = flattering = 0.0
            for problem, judge in zip(problems, judges, strict=True):
                columns = kept_columns(problem, order[gone:])
                solution = refit(problem, columns, _LINEAR)
                true += _error(judge, solution, columns)
                flattering += solution.error
            yield float(curve[gone]), true, flattering


def _forms(run: Prepared, fresh: Prepared, found: Curves) -> Iterator[Triple]:
    for name, candidates in found.candidates.items():
        site = run.channels.sites[name]
        ours, theirs = (site_problems(one, name, _moments(one, (name,))[name]) for one in (run, fresh))
        if len(ours) > 1:
            continue
        columns = np.arange(ours[0].weight.shape[1], dtype=np.int64)
        for places in candidates.kinds().values():
            place = int(places[len(places) // 2])
            (solution,), _ = factorise(site, ours, columns, candidates.form(place), _LINEAR, None)
            true = _error(theirs[0], solution, columns)
            yield float(candidates.error[place]), true, float(solution.error)


def _row(name: str, kind: str, triples: Sequence[Triple]) -> list[object]:
    promised, true, flattering = np.array([triple for triple in triples if min(triple[:2]) > _LEAST]).T
    apart, bias = promised / true - 1, np.exp(np.mean(np.log(promised / true))) - 1
    flat = np.exp(np.mean(np.log(np.maximum(flattering, 1e-9) / true))) - 1
    spread = np.percentile(apart, (10, 90)) * 100
    cells = f"{100 * np.median(np.abs(apart)):.1f} %", f"{100 * bias:+.1f} %", f"{spread[0]:+.0f} .. {spread[1]:+.0f} %"
    return [name, kind, len(true), *cells, f"{100 * flat:+.1f} %"]


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", help="networks")
    given = parser.parse_args()
    rows = []
    for name, count in _ROWS:
        if given.only and name not in given.only:
            continue
        ours, theirs, data = _pixels(name, count, given.data)
        network = NETWORKS.get(name)
        path = network.path(given.zoo) if network else str(given.zoo / "models" / f"{name}.onnx")
        options = replace(Options(bench=False, align=16, budget=BudgetOptions(macs="2x").budget()), data=data)
        with opened(path, ours, options, silent) as run, opened(path, theirs, options, silent) as fresh:
            found = error_curves(run, run.eligible.groups, shapes_of(run))
            for kind, triples in (
                ("channels", list(_groups(run, fresh, found))),
                ("forms", list(_forms(run, fresh, found))),
            ):
                if triples:
                    rows.append(_row(f"{name}, {count} inputs", kind, triples))
                    print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(machine(), "\n")
    header = ["network", "what", "number", "median apart", "bias", "10 to 90 %", "bias of the fitted error"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
