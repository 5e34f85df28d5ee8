"""Plans by measured cost, and what each part of the planner is worth. Without training; at most 3 000 images.

``accuracy``: what is left at true cuts in MACs and in milliseconds (batch 1, one thread). ``predicted``: milliseconds
that the clocks of layers add up to, against the network's own, for plans of three models. ``ablation``: ResNet-56 at 4x
fewer MACs, one part of the method after the other. ``trials``: the sensitivities from one trial each against trials at
eight levels, on ResNet-20.

Run: ``python benchmarks/plan_by_cost.py accuracy --data FOLDER --vgg cifar_vgg.onnx``, and so on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import onnxruntime
import zoo_models
from cifar_resnet56 import prepared, seconds_once
from common import arguments, machine, run_model, table
from scipy.stats import spearmanr
from three_c import faster
from zoo_models import CASES, Case

import onnxprune
from onnxprune import Options
from onnxprune.commands.prune import opened, prune_opened
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.channels.forms import Kind
from onnxprune.options.budget import times_less
from onnxprune.options.engine import EngineOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.planning import Candidates
from onnxprune.solve import Regression, kept_columns, refit
from onnxprune.steps import curves as probe
from onnxprune.steps.bench import Bench
from onnxprune.steps.factorise import factorise
from onnxprune.steps.sensitivity import Trials, fit_of, ratio, stacked

_SAMPLES = 3000
_BASE = Options(samples=_SAMPLES, bench=False, align=16, refit=RefitOptions(refit="linear"))
_ONE = EngineOptions(threads=1)
_HARD = replace(_BASE, align=1, points=30, refit=RefitOptions(refit="auto"))
_BY_NAME = {case.name: case for case in CASES}
_LEVELS = 8


@dataclass(frozen=True)
class Row:
    """A model, a budget, and how."""

    name: str
    speedup: float
    counted: Any = "macs"
    options: Options = field(default_factory=lambda: _HARD)


_LATENCY = replace(_BASE, refit=RefitOptions(refit="auto"), engine=_ONE)
_ROWS = (
    Row("cifar10_resnet56", 2.0),
    Row("cifar10_resnet56", 3.0),
    Row("cifar10_resnet56", 4.0),
    Row("cifar10_resnet56", 2.0, "latency", _LATENCY),
    Row("vgg", 4.0),
    Row("vgg", 5.0),
    Row("imagenet_squeezenet1_1", 1.3, "latency", _LATENCY),
    Row("imagenet_mobilenet_v1_050_160", 1.3, "latency", _LATENCY),
    Row("sr_vdsr", 2.0, "latency", _LATENCY),
)


def _case(name: str, given: argparse.Namespace) -> tuple[str, Case]:
    if name == "vgg":
        return str(given.vgg), replace(_BY_NAME["cifar10_resnet56"], name="vgg")
    return str(given.zoo / "models" / f"{name}.onnx"), _BY_NAME[name]


def _test_inputs(case: Case, data: Path) -> Any:
    """What agreement is counted on: the test images as the case's own metric prepares them."""
    found: list[Any] = []

    def spy(model: Any, inputs: Any, labels: Any) -> float:
        found.append(inputs)
        return 0.0

    with mock.patch.object(zoo_models, "top1", spy):
        if case.measure is not None:
            case.measure(data, "")
    return found[0]


def _agreement(case: Case, data: Path, path: str, model: Any) -> str:
    if "top-1" not in case.metric:
        return ""
    inputs = _test_inputs(case, data)
    ours, theirs = (
        np.concatenate([scores.reshape(len(scores), -1).argmax(axis=1) for scores in run_model(one, inputs)])
        for one in (model, path)
    )
    return f"{100 * float((ours == theirs).mean()):.1f} %"


def _accuracy(given: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for row in _ROWS:
        if given.only and row.name not in given.only:
            continue
        path, case = _case(row.name, given)
        options = replace(row.options, data=case.data)
        start = time.perf_counter()
        result = onnxprune.prune(
            path, data=case.inputs(given.data), options=replace(options, budget=times_less(row.speedup, row.counted))
        )
        taken, report = time.perf_counter() - start, result.report
        if result.model is None or case.measure is None:
            raise AssertionError("nothing to measure")
        plans = next((note.text for note in report.notes if note.subject == "latency"), "")
        cells: list[object] = [
            row.name,
            f"{row.speedup:g}x {row.counted}",
            f"{report.macs.ratio:.2f}x",
            f"{faster(path, result.model):.2f}x",
            f"{case.measure(given.data, path):.2f} -> {case.measure(given.data, result.model):.2f}",
            _agreement(case, given.data, path, result.model),
            f"{report.seconds['probe'] + report.seconds.get('time layers', 0):.0f}",
            f"{taken:.0f}",
            f"{taken / once:.1f}" if (once := _pass(path, case, given)) else "",
        ]
        rows.append(cells)
        print(*cells, plans, sep=" | ", file=sys.stderr, flush=True)
        rows[-1].append(_refusal(path, case, given, options, row) if row.name.startswith("imagenet") else "")
    header = ["model", "asked", "MACs", "latency", "metric", "agreement", "planning, s", "whole run, s", "passes"]
    print(table([*header, "--max-drop 1"], rows))


def _pass(path: str, case: Case, given: argparse.Namespace) -> float:
    """Seconds of one pass of onnxruntime over the images that a run is calibrated on; 0: not of one size."""
    if case.calibration != "cifar10_calib.npz":
        return 0.0
    with np.load(given.data / "cifar10_calib.npz") as archive:
        return seconds_once(path, prepared(archive["images"][:_SAMPLES]))


def _refusal(path: str, case: Case, given: argparse.Namespace, options: Options, row: Row) -> str:
    strict = replace(options, max_drop=1.0)
    try:
        onnxprune.prune(
            path, data=case.inputs(given.data), options=replace(strict, budget=times_less(row.speedup, row.counted))
        )
    except OnnxPruneError as error:
        return f"refused ({type(error).__name__})"
    return "kept"


def _predicted(given: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    errors = []
    for name in ("cifar10_resnet56", "imagenet_squeezenet1_1", "sr_vdsr"):
        path, case = _case(name, given)
        by_clock = replace(_LATENCY, data=case.data, samples=100, sensitivity=False, budget=times_less(2.0, "latency"))
        with tempfile.TemporaryDirectory() as cache:
            options = replace(by_clock, cache_dir=Path(cache))
            with opened(path, case.inputs(given.data), options, lambda *_: None) as run:
                cost, bench = run.cost, Bench(run)
                for recipe in ("prune", "3c"):
                    for speedup in (1.3, 1.7, 2.2, 3.0):
                        asked = replace(options, recipe=recipe, budget=times_less(speedup, "macs"))
                        try:
                            plan = prune_opened(replace(run, options=asked), dry_run=True).plan
                        except OnnxPruneError as error:
                            print(name, recipe, speedup, error, file=sys.stderr)
                            continue
                        planned = plan.assignment(run.channels)
                        predicted = cost.latency() / cost.latency(planned)
                        measured = bench.timing(planned).ratio
                        errors.append(abs(measured / predicted - 1))
                        rows.append([name, recipe, f"{speedup:g}x", predicted, measured, f"{100 * errors[-1]:.1f} %"])
                        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(table(["model", "recipe", "MACs", "predicted", "measured", "error of the milliseconds"], rows))
    print(f"\n{len(errors)} plans, median error {100 * float(np.median(errors)):.1f} %")


def _ablation(given: argparse.Namespace) -> None:
    linear, plain = RefitOptions(refit="linear"), RefitOptions(refit="linear", rounds=0)
    pruned = replace(_BASE, recipe="prune")
    steps: list[tuple[str, Options]] = [
        ("channels, the same share everywhere", replace(pruned, allocation="uniform")),
        ("by closed-form error (greedy)", replace(pruned, sensitivity=False)),
        ("+ weighed by trials (sensitivity)", pruned),
        ("+ V, H and P (--recipe 3c)", replace(_BASE, refit=plain)),
        ("+ any number of channels (--align 1)", replace(_BASE, refit=plain, align=1)),
        ("+ V given H (--rounds 1)", replace(_BASE, refit=linear, align=1)),
        ("+ the activation (--refit auto)", replace(_HARD, points=None)),
        ("+ three times the positions (--points 30)", _HARD),
        ("by latency instead (--speedup 2), --no-drop-branches", replace(_LATENCY, drop_branches=False)),
        ("by latency, branches may go whole", _LATENCY),
    ]
    path, case = _case("cifar10_resnet56", given)
    once = _pass(path, case, given)
    rows: list[list[object]] = []
    for label, chosen in steps:
        if given.only and not any(word in label for word in given.only):
            continue
        start = time.perf_counter()
        by_clock = "latency" in label
        result = onnxprune.prune(
            path,
            data=case.inputs(given.data),
            options=replace(
                chosen, data=case.data, budget=times_less(2.0, "latency") if by_clock else times_less(4.0, "macs")
            ),
        )
        taken, report = time.perf_counter() - start, result.report
        if result.model is None or case.measure is None:
            raise AssertionError("nothing to measure")
        accuracy = case.measure(given.data, result.model)
        kl = report.divergence[0].kl
        cells = [f"{report.macs.ratio:.2f}x", f"{faster(path, result.model):.2f}x", accuracy, f"{kl:.4f}", taken / once]
        rows.append([label, *cells])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(table(["ResNet-56", "MACs", "latency", "top-1 of 5 000", "KL, held back", "passes"], rows))


class _Brute(Trials):
    """Eight trials where `Trials` makes one: the geometric mean of their ratios."""

    found: ClassVar[list[tuple[float, float]]] = []

    def group(self, group: Any, order: Any, curve: Any, problems: Mapping[str, Sequence[Regression]]) -> float:
        ratios = []
        for gone in np.unique(np.linspace(1, group.size - 1, _LEVELS).astype(int)):
            kept = np.sort(order[gone:])
            weights = {}
            for name, regressions in problems.items():
                parts = []
                for problem in (regression.half(0) for regression in regressions):
                    columns = kept_columns(problem, kept)
                    solution = refit(problem, columns, fit_of(problem, len(columns)))
                    whole = np.zeros_like(problem.weight)
                    whole[:, columns] = solution.weight
                    parts.append(replace(solution, weight=whole))
                weights[self._run.channels.sites[name]] = stacked(parts)
            ratios.append(ratio(self._damage.of(weights), float(curve[gone])))
        return self._mean(super().group(group, order, curve, problems), ratios)

    def site(self, name: str, candidates: Candidates, problems: Sequence[Regression]) -> dict[Kind, float]:
        site, whole = self._run.channels.sites[name], problems
        problems = [problem.half(0) for problem in problems]
        columns = np.arange(problems[0].weight.shape[1], dtype=np.int64)
        cheap, found = super().site(name, candidates, whole), {}
        for kind, places in candidates.kinds().items():
            ratios = []
            for place in places[np.unique(np.linspace(0, len(places) - 1, _LEVELS).astype(int))]:
                form = candidates.form(int(place))
                solutions, _ = factorise(site, problems, columns, form, fit_of(problems[0], len(columns)), None)
                weights = stacked(solutions)
                ratios.append(ratio(self._damage.of({site: weights}), float(candidates.error[place])))
            found[kind] = self._mean(cheap[kind], ratios)
        return found

    def _mean(self, cheap: float, ratios: Sequence[float]) -> float:
        usable = [value for value in ratios if np.isfinite(value) and value > 0]
        mean = float(np.exp(np.mean(np.log(usable)))) if usable else float("nan")
        if np.isfinite([mean, cheap]).all():
            self.found.append((cheap, mean))
        return mean


def _trials(given: argparse.Namespace) -> None:
    path, case = _case("cifar10_resnet20_rawexport", given)
    if case.measure is None:
        raise AssertionError("nothing to measure")
    rows: list[list[object]] = []
    for label, kind, sensitivity in (
        ("none", Trials, False),
        ("one trial each", Trials, True),
        ("eight", _Brute, True),
    ):
        start = time.perf_counter()
        row: list[object] = [label]
        for speedup in (2.0, 3.0):
            options = replace(_BASE, data=case.data, align=1, bench=False, sensitivity=sensitivity)
            with mock.patch.object(probe, "Trials", kind):
                result = onnxprune.prune(path, data=case.inputs(given.data), macs=f"{speedup}x", options=options)
            if result.model is not None:
                row.append(case.measure(given.data, result.model))
        rows.append([*row, time.perf_counter() - start])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(table(["trials", "top-1 at 2x", "at 3x", "seconds of both"], rows))
    cheap, mean = zip(*_Brute.found, strict=True)
    correlation = float(spearmanr(cheap, mean).statistic)
    print(f"\nrank correlation of one trial with eight, over {len(cheap) // 2} groups and forms: {correlation:.3f}")


def main() -> None:
    """Print one of the tables."""
    tables = {
        "accuracy": _accuracy,
        "predicted": _predicted,
        "ablation": _ablation,
        "trials": _trials,
    }
    parser = arguments(__doc__)
    parser.add_argument("table", choices=tables)
    parser.add_argument("--vgg", type=Path, help="what train_cifar_vgg.py has written")
    parser.add_argument("--only", nargs="*", help="accuracy: of these models; ablation: rows with these words")
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    print(machine(), flush=True)
    tables[given.table](given)


if __name__ == "__main__":
    main()
