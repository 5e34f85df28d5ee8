"""Whatever onnxruntime says, it becomes one line with the label in front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.engine import sessions
from onnxprune.engine.sessions import Engine
from onnxprune.errors import EngineError
from onnxprune.options.engine import EngineOptions

from .helpers import CPU, MODELS, parse

ADD = parse("y = Add(a, b)\n z = Relu(y)", "float[N,M] a, float[N,K] b", "float[N,L] y, float[N,L] z")
ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 64, ADD.SerializeToString()[:-20]])
def test_broken_bytes_are_one_line_with_the_label(content: bytes) -> None:
    with pytest.raises(EngineError, match=r"^the result: onnxruntime cannot load it: .") as caught:
        CPU.session(content, label="the result")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_file_is_one_line_with_the_label(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^net: ") as caught:
        CPU.session(tmp_path / "none.onnx", label="net")
    assert "\n" not in str(caught.value)


def test_a_shape_that_fails_while_running_is_one_line_with_the_label() -> None:
    session = CPU.session(ADD, label="the original")
    with pytest.raises(EngineError, match=r"^the original: onnxruntime cannot run it: .") as caught:
        session.run({"a": ONES, "b": np.ones((2, 5), np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "feeds",
    [{}, {"a": ONES}, {"a": ONES, "b": ONES.astype(np.float64)}, {"a": ONES, "b": ONES[0]}],
    ids=["none", "one", "type", "rank"],
)
def test_wrong_feeds_are_one_line_with_the_label(feeds: dict[str, np.ndarray]) -> None:
    session = CPU.session(ADD, label="net")
    with pytest.raises(EngineError, match=r"^net: ") as caught:
        session.run(feeds)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_not_there_is_one_line_with_the_label() -> None:
    with pytest.raises(EngineError, match=r"^net: "):
        CPU.session(ADD, label="net").run({"a": ONES, "b": ONES}, ["nothing"])


def test_a_model_too_large_for_one_message_is_refused_before_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MOST_BYTES", 10)
    with pytest.raises(EngineError, match=r"^net: .*2 GB"):
        CPU.session(ADD, label="net")


def test_outputs_come_by_name_all_or_those_asked_for() -> None:
    session = CPU.session(ADD, label="net")
    assert (session.input_names, session.output_names) == (("a", "b"), ("y", "z"))
    everything = session.run({"a": ONES, "b": -3 * ONES})
    assert {name: float(array[0, 0]) for name, array in everything.items()} == {"y": -2.0, "z": 0.0}
    assert list(session.run({"a": ONES, "b": ONES}, ["z"])) == ["z"]


def test_a_message_its_bytes_and_its_file_are_the_same_model() -> None:
    path = MODELS / "digits_resnet.onnx"
    x = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    found = [
        CPU.session(model, label="net").run({"input": x})["logits"]
        for model in (onnx.load(path), path.read_bytes(), path, str(path))
    ]
    assert all(np.array_equal(found[0], other) for other in found)


def test_provider_and_threads_are_those_that_were_asked_for() -> None:
    engine = Engine.open(EngineOptions(provider="cpu", threads=2))
    session = engine.session(ADD, label="net")
    assert (engine.provider, session.provider, session.threads) == ("CPU", "CPU", 2)
    assert Engine.open(EngineOptions(provider="cpu")).session(ADD, label="net").threads == 0


def test_pieces_of_a_network_do_not_go_to_tensorrt() -> None:
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert Engine(EngineOptions(), providers).for_pieces().providers == providers[1:]
    assert Engine(EngineOptions(), providers[1:]).for_pieces().providers == providers[1:]
