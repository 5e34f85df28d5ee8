"""Patterns of node names: an exact name means itself, whatever it would match as a glob."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxprune.graph.model.patterns import meant, meant_by

NAMES = st.lists(st.text("ab[]*?1", min_size=1, max_size=5), unique=True)


@given(names=NAMES, pattern=st.text("ab[]*?1", max_size=5))
def test_a_name_means_itself_alone(names, pattern):
    found = meant_by(pattern, names)
    assert found <= set(names)
    assert found == {pattern} if pattern in names else pattern not in found


def test_a_glob_means_all_that_it_matches():
    assert meant_by("conv[1]", ["conv1", "conv[1]"]) == {"conv[1]"}
    assert meant_by("conv[1]", ["conv1", "conv2"]) == {"conv1"}
    assert meant(["a*", "b"], ["a1", "a2", "b", "c"]) == {"a1", "a2", "b"}
    assert meant([], ["a"]) == set()
