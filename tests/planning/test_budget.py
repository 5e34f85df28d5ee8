"""One budget from one flag, and a usage error for everything else."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import UsageError
from onnxprune.options.budget import Budget, BudgetOptions

GOOD: dict[str, Any] = {"speedup": 2.0, "macs": "50%", "params": 0.5, "keep_ratio": 0.5}
BAD = [0, 0.0, 1, 1.0, "1", "0", "100%", "0%", "-5%", -0.5, "nan", float("nan"), "inf", float("inf"), "abc", "", "%"]
BAD += ["50%%", "1/2", "150%", 2]


def test_no_flag_asks_for_the_least_time_within_the_drop() -> None:
    budget = BudgetOptions().budget()
    assert (budget.kind, budget.unit) == ("drop", "latency")


def test_a_default_holds_only_when_no_flag_is_given() -> None:
    default = Budget("selector", 1.0, "what the selector finds")
    assert BudgetOptions().budget(default) is default
    assert BudgetOptions(params=0.5).budget(default).kind == "params"


@pytest.mark.parametrize(
    ("flag", "kind"), [("speedup", "latency"), ("macs", "macs"), ("params", "params"), ("keep_ratio", "keep-ratio")]
)
def test_each_flag_alone_is_its_own_kind_of_budget(flag: str, kind: str) -> None:
    budget = BudgetOptions(**{flag: GOOD[flag]}).budget()
    assert (budget.kind, budget.fraction) == (kind, 0.5)
    assert budget.text
    assert "\n" not in budget.text


@pytest.mark.parametrize("flags", [*combinations(GOOD, 2), *combinations(GOOD, 3), tuple(GOOD)])
def test_more_than_one_flag_is_a_usage_error_that_names_all_of_them(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        BudgetOptions(**{flag: GOOD[flag] for flag in flags}).budget()
    assert all("--" + flag.replace("_", "-") in str(caught.value) for flag in flags)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("flag", ["macs", "params", "keep_ratio"])
def test_a_share_that_is_not_between_nothing_and_all_is_a_usage_error(flag: str, value: Any) -> None:
    with pytest.raises(UsageError, match="--" + flag.replace("_", "-")) as caught:
        BudgetOptions(**{flag: value}).budget()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, 1.0, 0.5, 0, -2, float("nan"), float("inf"), -float("inf")])
def test_a_speedup_that_is_not_above_one_is_a_usage_error(value: float) -> None:
    with pytest.raises(UsageError, match="--speedup"):
        BudgetOptions(speedup=value).budget()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 99), st.sampled_from(["macs", "params", "keep_ratio"]))
def test_per_cent_and_fraction_mean_the_same(percent: int, flag: str) -> None:
    asked: list[Any] = [f"{percent}%", f" {percent} % ", str(percent / 100), percent / 100]
    found = [BudgetOptions(**{flag: value}).budget() for value in asked]
    assert all(budget == found[0] for budget in found)
    assert found[0].fraction == pytest.approx(percent / 100)


@settings(max_examples=50, deadline=None)
@given(st.floats(1.001, 1e6))
def test_times_fewer_leave_their_inverse(times: float) -> None:
    assert BudgetOptions(macs=f"{times}x").budget().fraction == pytest.approx(1 / times)
    assert BudgetOptions(speedup=times).budget().fraction == pytest.approx(1 / times)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=8) | st.floats() | st.integers())
def test_any_value_gives_a_budget_or_a_usage_error(value: Any) -> None:
    try:
        found: Budget | UsageError = BudgetOptions(macs=value).budget()
    except UsageError as error:
        found = error
    assert "\n" not in str(found) if isinstance(found, UsageError) else 0 < found.fraction < 1
