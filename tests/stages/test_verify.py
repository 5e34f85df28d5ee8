"""What a result is held to."""

from __future__ import annotations

import pytest

from onnxprune.errors import VerifyError
from onnxprune.runtime.divergence import OutputDivergence
from onnxprune.stages.verify import check_drop


@pytest.mark.parametrize("error", [10.5, 5933.0, float("inf"), float("nan")])
def test_an_output_worse_than_any_constant_is_refused_whatever_was_asked_for(error):
    for agreement in (None, 1.0):
        with pytest.raises(VerifyError, match="output 'y' has a relative error of"):
            check_drop((OutputDivergence("y", 8, error, 1.0, agreement, of_size=error / 2),), None)


def test_an_output_that_hardly_varies_may_be_off_by_more_than_it_does():
    check_drop((OutputDivergence("y", 8, 350.0, 0.003, 1.0, 0.002, of_size=0.01),), None)


def test_the_greatest_drop_is_of_agreement_for_a_classifier_and_of_relative_error_elsewhere():
    classifier, other = OutputDivergence("p", 8, 0.4, 1.0, 0.97, 0.1), OutputDivergence("y", 8, 0.02, 1.0)
    check_drop((classifier, other), 3.5)
    check_drop((classifier, other), None)
    with pytest.raises(VerifyError, match=r"'p': 3.00 points of top-1"):
        check_drop((classifier,), 2.5)
    with pytest.raises(VerifyError, match=r"'y': 2.00 % relative error"):
        check_drop((other,), 1.5)
