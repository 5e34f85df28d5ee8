"""What a result is held to."""

from __future__ import annotations

import pytest
from runs import SMALL

from onnxprune.commands.prune import opened
from onnxprune.engine.divergence import OutputDivergence
from onnxprune.errors import VerifyError
from onnxprune.options.run import Options
from onnxprune.progress import silent
from onnxprune.steps import verify
from onnxprune.steps.verify import check_drop


@pytest.mark.parametrize("size", [10.5, 5933.0, float("inf"), float("nan")])
def test_an_output_that_differs_by_many_times_its_size_is_refused_whatever_was_asked_for(size):
    for agreement in (None, 1.0):
        with pytest.raises(VerifyError, match="output 'y' differs from the original's by"):
            check_drop((OutputDivergence("y", 8, 1.4, 1.0, agreement, of_size=size),), None)


def test_an_output_that_hardly_varies_may_be_off_by_more_than_it_does():
    check_drop((OutputDivergence("y", 8, 1.4, 0.003, 1.0, 0.002, of_size=0.01),), None)


def test_the_greatest_drop_is_of_agreement_for_a_classifier_and_of_relative_error_elsewhere():
    classifier = OutputDivergence("p", 8, 0.4, 1.0, 0.97, 0.1, kind="classes")
    other = OutputDivergence("y", 8, 0.02, 1.0)
    check_drop((classifier, other), 3.5)
    check_drop((classifier, other), None)
    with pytest.raises(VerifyError, match=r"'p': 3.00 points of top-1 agreement lost"):
        check_drop((classifier,), 2.5)
    with pytest.raises(VerifyError, match=r"'y': 2.00 % relative error"):
        check_drop((other,), 1.5)


@pytest.mark.parametrize(("agreement", "error", "words"), [(0.9, 0.01, "agreement"), (1.0, 0.33, "relative error")])
def test_an_undecided_output_is_held_to_both_criteria_and_says_what_would_settle_it(agreement, error, words):
    output = OutputDivergence("y", 8, error, 1.0, agreement, 0.1, kind="undecided")
    with pytest.raises(VerifyError, match=f"{words}.*--output y=classes"):
        check_drop((output,), 5)
    check_drop((output,), 40)


@pytest.mark.parametrize("count", [0, 1, 3, 10_000])
def test_the_search_for_the_first_difference_holds_as_many_samples_as_the_memory_limit_allows(tiny, monkeypatch, count):
    ran = []
    real = verify._run

    def run(work, piece, feeds, names):
        ran.append(len(feeds["x"]))
        return real(work, piece, feeds, names)

    monkeypatch.setattr(verify, "_run", run)
    with opened(tiny, None, SMALL, silent) as found:
        batch, sizes = found.batches[0], found.network.sizes
        floats = [name for name in sizes if found.order.made.get(name, -1) >= 0]
        each = verify._HELD_AT_ONCE * sum(sizes[name] for name in floats)
        monkeypatch.setattr(Options, "memory_bytes", property(lambda _: each * count))
        assert verify.first_difference(found, found.net, found.net, found.channels.all_alive(), batch) is None
    assert ran == ([min(count, len(batch.samples))] * 2 if count else [])
