"""What a run shows on its way where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxprune.report.progress import StageLines


@pytest.fixture
def lines():
    """Lines of a run whose clock the test sets: (progress, its text, set the seconds)."""
    now, text = [0.0], io.StringIO()
    with StageLines(Console(file=text, width=40), clock=lambda: now[0]) as progress:
        yield progress, text, lambda seconds: now.__setitem__(0, seconds)


def test_a_stage_is_one_line_however_often_it_is_called(lines):
    progress, text, _ = lines
    for done in range(5):
        progress("sample", done, 5)
    progress("compress", 0, 3)
    progress("sample", 0, 5)
    assert text.getvalue() == "[00:00] sample\n[00:00] compress\n"


def test_a_long_stage_is_one_line_a_minute_with_its_share(lines):
    progress, text, at = lines
    for seconds in range(0, 150, 10):
        at(seconds)
        progress("compress", seconds, 150, "loss [3]")
    assert text.getvalue() == (
        "[00:00] compress  loss [3]\n[01:00] compress  40 %  loss [3]\n[02:00] compress  80 %  loss [3]\n"
    )


def test_a_stage_without_work_has_a_share(lines):
    progress, text, at = lines
    progress("verify", 0, 0)
    at(61)
    progress("verify", 0, 0)
    assert text.getvalue().splitlines()[1] == "[01:01] verify  0 %"
