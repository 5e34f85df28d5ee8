"""Terminals that are full, closed, or old, and names that want to command them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.families import FAMILIES, SIDE

from onnxprune import cli
from onnxprune.console import terminal
from onnxprune.console.visible import visible

COMMANDS = ("\x1b[2J", "\x07", "\x9b31m", "\u202e")
QUICK = ("--macs", "60%", "--no-bench", "--no-cache", "--points", "20", "--align", "4")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="/dev/full and pipes are those of POSIX")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A model whose nodes have names that a terminal would obey."""
    path = tmp_path_factory.mktemp("hostile") / "\x1b[31mred.onnx"
    model = FAMILIES["vgg_bn"]()
    for number, node in enumerate(model.graph.node):
        node.name = COMMANDS[number % len(COMMANDS)] + node.name
    onnx.save(model, path)
    inputs = np.random.default_rng(0).standard_normal((44, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(path.with_suffix(".calib.npz"), x=inputs)
    return path


def run(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "onnxprune", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=120, check=False, **options)


def test_commands_to_a_terminal_are_shown(hostile, tmp_path, capsys):
    assert cli.main(["inspect", str(hostile), "-v"]) == 0
    assert cli.main(["inspect", str(hostile) + "x"]) == 3
    out, err = capsys.readouterr()
    for command in COMMANDS:
        assert command not in out
        assert command not in err
    assert "\u241b[2J" in out
    assert "\u241b[31mred" in err
    assert visible("name\twith\ntwo lines ü 漢") == "name\twith\ntwo lines ü 漢"


@pytest.mark.parametrize("place", ["full", "closed"])
def test_a_result_that_cannot_be_printed_is_safe_and_named(tiny, tmp_path, place):
    output = tmp_path / "out.onnx"
    if place == "full":
        with open("/dev/full", "wb") as full:
            done = run(tiny, "-o", output, *QUICK, stdout=full)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        done = run(tiny, "-o", output, *QUICK, stdout=writing)
        os.close(writing)
    assert done.returncode == 9
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("onnxprune: error: the result cannot be printed")
    assert last.endswith(f"written: {output}")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    onnx.checker.check_model(str(output), full_check=True)


def test_a_progress_that_cannot_be_printed_does_not_end_the_run(tiny, tmp_path):
    output = tmp_path / "out.onnx"
    command = [sys.executable, "-m", "onnxprune", str(tiny), "-o", str(output), *QUICK]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stderr=full, stdout=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 0
    assert b"written to" in done.stdout
    assert output.is_file()


def test_a_terminal_of_another_encoding_gets_what_it_can_show(hostile):
    done = run("inspect", hostile, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0
    assert b"\\u241b[2J" in done.stdout
    assert not done.stderr


def test_the_screen_keeps_its_own_control_codes():
    file = io.StringIO()
    screen = terminal.Screen(file=file, force_terminal=True, width=80)
    screen.print("[bold]a\x1b[31mb[/bold]")
    assert "\x1b[1m" in file.getvalue()
    assert "\x1b[31m" not in file.getvalue()


def test_an_interruption_in_the_first_moment_is_one_line(monkeypatch, capsys):
    import onnxprune.__main__ as door

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert door.main() == 130
    assert capsys.readouterr().err == "onnxprune: error: interrupted; nothing was written\n"


def test_an_interruption_after_the_model_says_that_it_is_there(tiny, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.cli.write_json", interrupted)
    output = tmp_path / "out.onnx"
    assert cli.main([str(tiny), "-o", str(output), *QUICK, "-q"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"onnxprune: error: interrupted; written: {output}"
