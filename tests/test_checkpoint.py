"""Files are whole or not there; a log has no gaps and no doubles."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from ti_backbones import checkpoint
from ti_backbones.errors import InputError
from ti_backbones.runlog import Log, TensorBoard


def test_what_is_saved_is_loaded(tmp_path: Path):
    state = {"step": 3, "config": {"lr": 0.1}, "weights": {"w": torch.randn(3, 4)}, "list": [1, None, "a"]}
    checkpoint.save(tmp_path / "deep" / "c.pt", state)
    loaded = checkpoint.load(tmp_path / "deep" / "c.pt")
    assert torch.equal(loaded["weights"].pop("w"), state["weights"].pop("w"))
    assert loaded == state
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.pt"]


def test_files_appear_together_or_not_at_all(tmp_path: Path):
    old = {"a.bin": b"old a", "b.bin": b"old b"}
    checkpoint.write_files(tmp_path, old)
    with (
        pytest.raises(InputError, match=r"cannot write '.*b.bin'"),
        checkpoint.replacing(tmp_path / "a.bin", tmp_path / "b.bin") as [a, _],
    ):
        a.write_bytes(b"new a")  # and b not at all
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write '.*/folder' \(Is a directory\)"):
        checkpoint.write_files(tmp_path, {"a.bin": b"new a", "folder": b"no file"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == old


def test_a_file_too_large_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "f"
    checkpoint.write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write '.*/f' \(File too large\); '.*/f' is as it was"):
            checkpoint.write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 256 KiB; skips where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_checkpoint(small_disk: Path):
    path = small_disk / "c.pt"
    checkpoint.save(path, {"w": torch.ones(30_000)})
    with pytest.raises(InputError, match="No space left on device"):
        checkpoint.save(path, {"w": torch.zeros(40_000)})
    assert checkpoint.load(path)["w"].sum() == 30_000
    assert [p.name for p in small_disk.iterdir()] == ["c.pt"]


def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path: Path):
    """A process that does nothing but save is killed at 20 moments."""
    path = tmp_path / "c.pt"
    for number in range(20):
        pid = os.fork()
        if not pid:
            try:
                step = 0
                while True:
                    step += 1
                    checkpoint.save(path, {"step": step, "w": torch.full((50_000,), float(step))})
            finally:
                os._exit(1)
        time.sleep(0.02 + 0.007 * number)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if path.exists():
            state = checkpoint.load(path)
            assert (state["w"] == state["step"]).all()
    assert path.exists()
    checkpoint.save(path, {"step": 0})
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"], "what a killed process left behind is not reused"


def test_a_log_is_continued_without_gaps_or_doubles(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = Log(path, 0)
    for step in range(1, 8):
        log.write({"step": step, "loss": 1.0})
    with path.open("a") as f:
        f.write('{"step": 8, "lo')  # cut off by a kill
    log = Log(path, 5)
    for step in range(6, 9):
        log.write({"step": step, "loss": 2.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(s, 1.0 if s < 6 else 2.0) for s in range(1, 9)]


def test_a_line_that_lacks_only_its_end_is_not_continued(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    Log(path, 2).write({"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_tensorboard_drops_what_a_resumed_run_does_again(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, 0)
    for step in range(1, 8):
        board.write({"step": step, "loss": 1.0})
    time.sleep(0.01)
    board = TensorBoard(tmp_path, 5)
    for step in range(6, 9):
        board.write({"step": step, "loss": 2.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, 1.0 if s < 6 else 2.0) for s in range(1, 9)]
