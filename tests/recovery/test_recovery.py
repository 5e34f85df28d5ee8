"""A recovery: never worse than the start, the same after an interruption, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from graph.families import FAMILIES, SIDE
from onnx import numpy_helper
from runs import damage_store

import onnxprune
from onnxprune import Options, RecoverOptions, cli
from onnxprune.commands import prune as pipeline
from onnxprune.console import flags
from onnxprune.errors import ModelError, UsageError, VerifyError
from onnxprune.options.engine import EngineOptions
from onnxprune.options.solve import RefitOptions
from onnxprune.recovery import distil, train
from onnxprune.torchnet.program import TorchNet

SHORT = RecoverOptions(epochs=2, train_batch=12)
QUICK = Options(bench=False, recipe="prune", align=4, points=20, refit=RefitOptions(refit="linear"), recover=SHORT)
LONGER = replace(QUICK, recover=RecoverOptions(epochs=30, train_batch=12, learning_rate=2e-3))


@pytest.fixture(scope="module")
def pruned(tiny):
    """Of the tiny network, at a third of its cost, and its weights off by some per cent."""
    return spoilt(onnxprune.prune(tiny, macs="3x", options=replace(QUICK, recover=None)).model)


def spoilt(model):
    worse = onnx.ModelProto()
    worse.CopyFrom(model)
    rng = np.random.default_rng(0)
    for tensor in worse.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim >= 2:
            noisy = values * (1 + 0.1 * rng.standard_normal(values.shape))
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    return worse


def weights_of(model) -> dict:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def same(left, right) -> bool:
    a, b = weights_of(left), weights_of(right)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def recovered(tiny, pruned):
    return onnxprune.recover(tiny, pruned, options=LONGER)


def test_it_comes_closer_to_the_original(recovered):
    record = recovered.report.recovery
    assert record.best > 0
    assert record.held[1] < record.held[0]
    assert record.after[0].kl < record.before[0].kl
    assert record.epochs == (30, 30)
    assert record.steps == 30 * 3
    assert [epoch.epoch for epoch in record.history] == list(range(1, 31))
    json.dumps(recovered.report.to_dict(), default=str)


def test_only_the_weights_change(recovered, pruned):
    before, after = weights_of(pruned), weights_of(recovered.model)
    assert before.keys() == after.keys()
    assert [node.op_type for node in pruned.graph.node] == [node.op_type for node in recovered.model.graph.node]
    for name in before:
        assert (before[name].shape, before[name].dtype) == (after[name].shape, after[name].dtype)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(changed) >= 8


def test_a_time_makes_as_many_epochs_as_fit(tiny, pruned, monkeypatch):
    """By a clock on which a step takes a second, and a judgement nothing."""
    ticks = [0.0]
    update = train.Trainer._update

    def timed(self, *args, **kwargs):
        ticks[0] += 1
        return update(self, *args, **kwargs)

    monkeypatch.setattr(train.Trainer, "_update", timed)
    monkeypatch.setattr(train.time, "perf_counter", lambda: ticks[0])
    course = RecoverOptions(seconds=26, train_batch=12, learning_rate=2e-3)
    record = onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=course)).report.recovery
    assert record.epochs == (7, 7)  # 26 less the 4 of the trial, 3 steps each
    assert record.seconds == 4 + 21
    short = onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=replace(course, seconds=0.01)))
    assert short.report.recovery.epochs == (1, 1)


def test_steps_that_are_timed_change_nothing(tiny, pruned, monkeypatch):
    monkeypatch.setattr(train, "_PACED_STEPS", 7)
    timed = replace(SHORT, epochs=None, seconds=1e-3, learning_rate=2e-3)
    plain = replace(SHORT, epochs=1, learning_rate=2e-3)
    results = [onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=course)) for course in (timed, plain)]
    assert same(results[0].model, results[1].model)


def test_a_second_run_gives_the_same(tiny, pruned, recovered):
    assert same(onnxprune.recover(tiny, pruned, options=LONGER).model, recovered.model)


@pytest.mark.parametrize("at", [2, 4, 5, 7])
def test_an_interrupted_run_goes_on_to_the_same_result(tiny, pruned, tmp_path, monkeypatch, at):
    options = replace(QUICK, recover=replace(SHORT, epochs=3))
    whole = onnxprune.recover(tiny, pruned, options=options)

    def interrupt(stage, done, total, detail="", /):
        if stage == "recover" and done == at:
            raise KeyboardInterrupt

    kept = replace(options, cache_dir=tmp_path)
    monkeypatch.setattr(train, "_SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        onnxprune.recover(tiny, pruned, options=kept, progress=interrupt)
    again = onnxprune.recover(tiny, pruned, options=kept)
    assert any("went on at step" in note.text for note in again.report.notes)
    assert same(again.model, whole.model)
    assert again.report.recovery.history == whole.report.recovery.history
    once_more = onnxprune.recover(tiny, pruned, options=kept)
    assert same(once_more.model, whole.model)


def test_what_an_interrupted_run_left_may_be_broken(tiny, pruned, tmp_path):
    kept = replace(QUICK, cache_dir=tmp_path)
    first = onnxprune.recover(tiny, pruned, options=kept)
    for content in (b"", b"nonsense", None):
        assert damage_store(tmp_path, lambda value, content=content: value[:2000] if content is None else content) == 1
        assert same(onnxprune.recover(tiny, pruned, options=kept).model, first.model)


def test_nothing_better_means_the_start(tiny, pruned):
    """A learning rate at which nothing survives."""
    options = replace(QUICK, recover=replace(SHORT, learning_rate=1e3))
    result = onnxprune.recover(tiny, pruned, options=options)
    assert result.report.recovery.best == 0
    assert result.report.recovery.after == result.report.recovery.before
    x = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)
    for ours, wanted in zip(answers(result.model, x), answers(pruned, x), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4)


def test_where_nothing_gets_better_it_begins_again_in_smaller_steps(tiny, pruned, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "_LEAST_PATIENCE", (8, 0))
    monkeypatch.setattr(train, "_PATIENCE", 60)
    steep = RecoverOptions(epochs=60, train_batch=12, learning_rate=1.0)
    options = replace(QUICK, recover=steep, cache_dir=tmp_path, outputs={"t19_0": "classes"})
    result = onnxprune.recover(tiny, pruned, options=options)
    assert any("began again" in note.text for note in result.report.notes)
    assert result.report.recovery.best > 0
    assert result.report.recovery.held[1] < result.report.recovery.held[0]
    assert same(onnxprune.recover(tiny, pruned, options=options).model, result.model)


def test_a_learning_rate_that_is_not_given_is_tried_out(tiny, pruned):
    course = replace(LONGER.recover, learning_rate=None, blockwise=0.0, epochs=60)
    result = onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=course))
    told = [note.text for note in result.report.notes if note.text.startswith("peak learning rate")]
    assert len(told) == 1
    assert all(f"{rate:.1g}:" in told[0] for rate in train._RATES)
    given = onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=replace(course, learning_rate=1e-3)))
    assert not any(note.text.startswith("peak learning rate") for note in given.report.notes)
    assert same(onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=course)).model, result.model)


def test_one_thread_and_two_take_the_same_steps(tiny, pruned):
    """With two, batches are made beside the steps."""
    results = [
        onnxprune.recover(tiny, pruned, options=replace(QUICK, engine=EngineOptions(threads=threads)))
        for threads in (1, 2)
    ]
    for ours, theirs in zip(*(one.report.recovery.history for one in results), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


def answers(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def test_frozen_layers_keep_their_weights(tiny, pruned):
    nodes = [node for node in pruned.graph.node if node.op_type in ("Conv", "Gemm")]
    options = replace(QUICK, recover=replace(LONGER.recover, freeze=(nodes[0].name, nodes[-1].name)))
    result = onnxprune.recover(tiny, pruned, options=options)
    before, after = weights_of(pruned), weights_of(result.model)
    for node in (nodes[0], nodes[-1]):
        for name in node.input[1:]:
            np.testing.assert_array_equal(before[name], after[name])
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    with pytest.raises(ModelError, match="no weights"):
        onnxprune.recover(tiny, pruned, options=replace(QUICK, recover=replace(SHORT, freeze=("*",))))


def halved(model):
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output, *half.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return half


def test_half_precision_is_trained_and_written_back(tiny, pruned):
    whole, half = halved(onnx.load(tiny)), halved(pruned)
    data = np.random.default_rng(0).standard_normal((40, 3, SIDE, SIDE)).astype(np.float16)
    result = onnxprune.recover(whole, half, data=data, options=QUICK)
    kinds = {t.data_type for t in result.model.graph.initializer if t.data_type != onnx.TensorProto.INT64}
    assert kinds == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_can_be_recovered(family):
    model = FAMILIES[family]()
    data = np.random.default_rng(1).standard_normal((28, 3, SIDE, SIDE)).astype(np.float32)
    options = replace(QUICK, recover=RecoverOptions(epochs=6, train_batch=7, learning_rate=1e-3))
    record = onnxprune.recover(model, spoilt(model), data=data, options=options).report.recovery
    assert record.best > 0
    assert record.held[1] < 0.95 * record.held[0]


def test_two_networks_that_do_not_belong_together_are_refused(tiny, vgg):
    with pytest.raises(ModelError, match="inputs are"):
        onnxprune.recover(tiny, vgg, options=QUICK)


def test_a_network_that_torch_runs_otherwise_is_refused(tiny, pruned, monkeypatch):
    """As it would be if an operator were misunderstood."""
    run = TorchNet.run
    monkeypatch.setattr(
        TorchNet,
        "run",
        lambda self, feeds, wanted, cuts=(): {n: 1.01 * t for n, t in run(self, feeds, wanted, cuts).items()},
    )
    with pytest.raises(VerifyError, match="torch and onnxruntime differ"):
        onnxprune.recover(tiny, pruned, options=QUICK)


def test_the_main_command_recovers_and_says_so(tiny, tmp_path, capsys):
    out, record = tmp_path / "out.onnx", tmp_path / "out.json"
    common = [str(tiny), "-o", str(out), "--align", "4", "--no-bench", "--no-cache", "--macs", "3x"]
    assert cli.main([*common, "--recover", "2", "--train-batch", "12", "--json", str(record)]) == 0
    text = capsys.readouterr().out
    assert "2 epochs" in text or "2 of 2 epochs" in text
    content = json.loads(record.read_text())
    assert content["recovery"]["epochs"] == [2, 2]
    assert content["divergence"] == content["recovery"]["after"]
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_what_drops_too_much_after_all_is_not_written(tiny, tmp_path, capsys, monkeypatch):
    output = tmp_path / "small.onnx"
    real = pipeline.check_drop

    def strict(divergence, max_drop):
        real([replace(found, top1_agreement=0.5) for found in divergence], max_drop)

    monkeypatch.setattr(pipeline, "check_drop", strict)
    arguments = [
        str(tiny),
        "-o",
        str(output),
        "--macs",
        "3x",
        "--align",
        "4",
        "--points",
        "20",
        "--no-bench",
        "--no-cache",
        "-q",
    ]
    assert cli.main([*arguments, "--recover", "1", "--max-drop", "40"]) == VerifyError.exit_code
    assert "50.00 points of top-1 agreement" in (said := capsys.readouterr().err)
    assert said.count("nothing was written") == 1
    assert not output.exists()


def test_the_command_for_any_pair(tiny, pruned, tmp_path, capsys):
    small, out = tmp_path / "small.onnx", tmp_path / "out.onnx"
    onnx.save(pruned, small)
    data = tmp_path / "inputs.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (48, 3, 16, 16), dtype=np.uint8))
    read = ["--data", str(data), "--mean", "0.5", "--std", "0.25"]
    given = ["recover", str(tiny), str(small), "-o", str(out), "--epochs", "2", "--train-batch", "12", "--no-cache"]
    assert cli.main([*given, *read]) == 0
    text = capsys.readouterr().out
    assert "recovered from" in text
    told = "".join(text.replace("│", "").split())
    assert "".join(f"onnxprune compare {tiny} {out} {' '.join(read)}".split()) in told
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert cli.main([*given[:5], "--epochs", "many"]) == UsageError.exit_code
    assert "many" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,filled",
    [
        (["m.onnx", "--recover"], ["m.onnx", "--recover", "auto"]),
        (["--recover", "m.onnx"], ["--recover", "auto", "m.onnx"]),
        (["--recover", "-o", "x"], ["--recover", "auto", "-o", "x"]),
        (["--recover", "12", "m"], ["--recover", "12", "m"]),
        (["--recover", "-3"], ["--recover", "-3"]),
        (["--recover", "auto"], ["--recover", "auto"]),
        (["--recover", "45m", "m"], ["--recover", "45m", "m"]),
        (["--recover", "1.5h"], ["--recover", "1.5h"]),
        (["recover", "a", "b"], ["recover", "a", "b"]),
    ],
)
def test_a_bare_recover_means_auto(arguments, filled):
    assert flags.filled(arguments) == filled


def test_what_would_do_nothing_or_take_for_ever_is_refused(tiny, capsys, tmp_path):
    common = [str(tiny), "-o", str(tmp_path / "x.onnx")]
    for more, word in (
        (["--learning-rate", "1e-3"], "without --recover"),
        (["--recover", "--max-drop", "1"], "--recover needs a budget"),
        (["--recover", "0"], "epochs"),
        (["--recover", "0m"], "time above 0"),
        (["--recover", "4.5"], "a time such as 45m"),
    ):
        assert cli.main([*common, *more]) == UsageError.exit_code
        assert word in capsys.readouterr().err


def test_without_torch_there_is_one_line(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.torchnet.find_spec", lambda name: None)
    assert cli.main([str(tiny), "-o", str(tmp_path / "x.onnx"), "--macs", "2x", "--recover"]) == UsageError.exit_code
    assert "pip install 'onnxprune[recover]'" in capsys.readouterr().err


def test_the_course_is_cut_to_the_inputs():
    for count, fixed, batch in ((9744, None, 100), (270, None, 13), (20, None, 1), (20, 8, 8)):
        course = distil._course_for(count, fixed, RecoverOptions(), affordable=1000)
        assert course[0] == batch
    assert distil._course_for(9744, None, RecoverOptions(), affordable=7)[0] == 7
    assert distil._course_for(9744, None, RecoverOptions(train_batch=50, epochs=3), affordable=7) == (50, 3)


def test_torch_takes_as_many_threads_as_were_asked_for_and_no_longer(tiny, pruned):
    usual = torch.get_num_threads()
    record = onnxprune.recover(tiny, pruned, options=replace(QUICK, engine=EngineOptions(threads=3))).report.recovery
    assert record.threads == 3
    assert torch.get_num_threads() == usual
