"""Output files that are devices, links, pipes, badly named or on a full disk: written through or refused."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune import files, scratch
from onnxprune.console.targets import check_targets
from onnxprune.errors import OutputError, UsageError
from onnxprune.files import check_writable, write_bytes
from onnxprune.scratch import scratch_folder

CONTENT = b"what was written"
LONGEST = "n" * 255

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices and pipes are those of POSIX")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".part", ".lock"))]


@pytest.mark.parametrize("name", ["a", LONGEST, "with space", "\x1b[31m", "ü"])
def test_a_file_is_written_whatever_its_name(tmp_path, name):
    check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())
    write_bytes(tmp_path / name, CONTENT)
    assert (tmp_path / name).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_stays_and_the_file_behind_it_keeps_its_mode(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to("real")
    (tmp_path / "further").symlink_to(link)
    write_bytes(tmp_path / "further", CONTENT)
    assert link.is_symlink()
    assert real.read_bytes() == CONTENT
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    (tmp_path / "dangling").symlink_to("new")
    write_bytes(tmp_path / "dangling", CONTENT)
    assert (tmp_path / "new").read_bytes() == CONTENT


def test_devices_are_written_through_and_stay():
    before = os.stat("/dev/null")
    check_writable(Path("/dev/null"))
    write_bytes(Path("/dev/null"), CONTENT)
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    with pytest.raises(OutputError, match="No space left"):
        write_bytes(Path("/dev/full"), CONTENT)


def test_an_open_descriptor_is_written_through(tmp_path):
    reading, writing = os.pipe()
    path = Path(f"/dev/fd/{writing}")
    check_writable(path)
    write_bytes(path, CONTENT)
    os.close(writing)
    assert os.read(reading, 100) == CONTENT
    os.close(reading)
    with (tmp_path / "open").open("wb") as file:  # as a shell opens it for `> open`
        file.write(b"before ")
        file.flush()
        write_bytes(Path(f"/proc/self/fd/{file.fileno()}"), CONTENT)
    assert (tmp_path / "open").read_bytes() == b"before " + CONTENT


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "long", "nowhere", "below a file"])
def test_what_cannot_be_written_is_found_before_the_work(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("target")
    elif kind == "long":
        path = tmp_path / (LONGEST + "n")
    elif kind == "nowhere":
        path = tmp_path / "none" / "target"
    else:
        path.write_bytes(b"")
        path = path / "target"
    for attempt in (check_writable, lambda path: write_bytes(path, CONTENT)):
        with pytest.raises(OutputError) as found:
            attempt(path)
        assert "\n" not in str(found.value)
        assert str(path) in str(found.value)
    assert not leftovers(tmp_path)


def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write to any
    with pytest.raises(OutputError, match="write-protected"):
        write_bytes(path, CONTENT)
    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_bytes(path, CONTENT)
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_outputs_and_inputs_are_told_apart_through_links(tmp_path):
    model = tmp_path / "model"
    model.write_bytes(b"model")
    (tmp_path / "link").symlink_to(model)
    with pytest.raises(UsageError, match="is an input"):
        check_targets([model], [tmp_path / "link"])
    with pytest.raises(UsageError, match="two outputs"):
        check_targets([], [tmp_path / "a", tmp_path / "." / "a"])
    check_targets([model], [Path("/dev/null"), Path("/dev/null")])


KILLED = """
import sys, time
from pathlib import Path
from onnxprune import files
from onnxprune.scratch import scratch_folder
folder = Path(sys.argv[1])
with scratch_folder(folder) as scratch:
    (scratch / "held").write_bytes(b"x" * 1000)
    files.os.fsync = lambda _: (print("ready", flush=True), time.sleep(60))
    files.write_bytes(folder / "result", b"half")
"""


def test_what_a_killed_run_leaves_goes_when_the_next_begins(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        before = sorted(path.name for path in tmp_path.iterdir())
        with scratch_folder(tmp_path):
            check_writable(tmp_path / "other")
            assert set(before) <= {path.name for path in tmp_path.iterdir()}, "its run still goes on"
        run.send_signal(signal.SIGKILL)
    assert len(before) == 3
    check_writable(tmp_path / "other")
    with scratch_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_scratch_folders_of_versions_without_locks_go_after_three_days(tmp_path, monkeypatch):
    old, young = tmp_path / "onnxprune-old", tmp_path / "onnxprune-young"
    for folder, days in ((old, 4), (young, 2)):
        folder.mkdir()
        os.utime(folder, (time.time() - days * 86400,) * 2)
    (tmp_path / "onnxprune-file").write_bytes(b"a user's")
    with scratch_folder(tmp_path) as made:
        assert made.is_dir()
    assert not old.exists()
    assert young.exists()
    assert (tmp_path / "onnxprune-file").exists()


def test_a_users_folders_and_locks_of_similar_names_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "onnxprune-results").mkdir()
    (tmp_path / "onnxprune-env").mkdir()
    (tmp_path / "onnxprune-env.lock").write_bytes(b"1234")
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 30 * 86400,) * 2)
    with scratch_folder(None):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"onnxprune-results", "onnxprune-env", "onnxprune-env.lock"}


def test_a_folder_that_takes_no_files_is_not_used_for_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    with scratch_folder(tmp_path / "missing") as made:
        assert made.parent == tmp_path
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="no folder"), scratch_folder(None):
        pass
