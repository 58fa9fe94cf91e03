"""Checkpoints survive being killed, damaged, and read while they are written."""

from __future__ import annotations

import contextlib
import logging
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from engine.checkpoints import Checkpoints, load_checkpoint
from engine.errors import CheckpointError

WRITER = """
import sys
from pathlib import Path
import torch
from engine.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
found = checkpoints.newest()
step = found[0] if found else 0
print("ready", flush=True)
while True:
    step += 1
    checkpoints.save(step, {"step": step, "weights": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""


def state_of(step: int) -> dict:
    return {"step": step, "weights": torch.full((1000,), float(step))}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"w": torch.randn(3, 4), "half": torch.randn(2).bfloat16(), "n": 3, "x": 0.1, "deep": {"l": [1, "a", None]}}
    path = Checkpoints(tmp_path / "new" / "folder").save(7, state)
    step, found = Checkpoints(tmp_path / "new" / "folder").newest() or (None, {})
    assert step == 7
    assert path.stat().st_mode & 0o777 == 0o644
    for key in ("w", "half"):
        assert torch.equal(found[key], state[key])
    assert {k: found[k] for k in ("n", "x", "deep")} == {k: state[k] for k in ("n", "x", "deep")}


def test_the_newest_two_are_kept_and_named_by_step_and_hash(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (8, 9, 10, 100):  # by number, not by text
        checkpoints.save(step, state_of(step))
    assert [name[:14] for name in files(tmp_path)] == ["step-000000010", "step-000000100"]
    assert all(re.fullmatch(r"step-\d{9}-[0-9a-f]{12}\.pt", name) for name in files(tmp_path))
    assert checkpoints.newest()[0] == 100
    path = checkpoints.save(100, state_of(5))
    assert load_checkpoint(path)["step"] == 5
    assert len({name[15:] for name in files(tmp_path)}) == 2


def test_steps_are_those_of_the_files_newest_first(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", keep=3)
    assert checkpoints.steps() == []
    for step in (8, 9, 10, 100):
        checkpoints.save(step, state_of(step))
    assert checkpoints.steps() == [100, 10, 9]


@pytest.mark.parametrize("value", [Path("a"), {1: {"deep": [object]}}, random.Random])
def test_a_state_that_could_not_be_read_back_is_a_bug_at_the_save(tmp_path, value):
    """Found at a resume it would be too late: the good checkpoints before it would be gone."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    before = files(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.save(3, {"value": value})
    assert files(tmp_path) == before


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").newest() is None
    assert Checkpoints(tmp_path).newest() is None
    (tmp_path / "step-notes.pt").write_text("not ours")
    assert Checkpoints(tmp_path).newest() is None


def test_a_writer_killed_at_any_moment_leaves_a_good_newest(tmp_path):
    moments = random.Random(0)
    reached = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        if reached == 0:
            assert writer.stdout.readline() == "1\n"
        time.sleep(moments.uniform(0.01, 0.2))
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.communicate()[0].split()]
        step, state = Checkpoints(tmp_path).newest()
        assert step >= max(said, default=1)  # what was reported as saved is there
        assert step >= reached
        assert state["step"] == step
        assert torch.equal(state["weights"], torch.full((200_000,), float(step)))
        reached = step
    Checkpoints(tmp_path).save(reached + 1, state_of(reached + 1))
    assert len(files(tmp_path)) == 2


def test_the_next_save_removes_what_a_killed_writer_left(tmp_path):
    stale = tmp_path / ".step-000000003-0123456789ab.pt.x1y2z3.tmp"
    stale.write_bytes(b"half")
    other = tmp_path / "notes.tmp"
    other.write_text("of the user")
    assert Checkpoints(tmp_path).newest() is None
    Checkpoints(tmp_path).save(4, state_of(4))
    assert not stale.exists()
    assert other.exists()


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit"])
def test_a_damaged_newest_gives_way_to_the_one_before_it(tmp_path, how, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1))
    bad = checkpoints.save(2, state_of(2))
    damage(bad, how)
    with caplog.at_level(logging.WARNING):
        step, state = checkpoints.newest()
    assert (step, state["step"]) == (1, 1)
    assert len(caplog.records) == 1
    assert str(bad) in caplog.text
    assert "damaged" in caplog.text


def test_saving_past_a_damaged_checkpoint_leaves_two_good_ones(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (100, 200):
        checkpoints.save(step, state_of(step))
    damage(checkpoints.save(300, state_of(300)), "one bit")
    assert checkpoints.newest()[0] == 200
    checkpoints.save(250, state_of(250))
    checkpoints.save(300, state_of(3))
    caplog.clear()
    assert checkpoints.newest()[1]["step"] == 3
    assert [name[:14] for name in files(tmp_path)] == ["step-000000250", "step-000000300"]
    assert not caplog.records


def test_all_damaged_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        damage(checkpoints.save(step, state_of(step)), "truncated")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged; start again in a new folder"):
        checkpoints.newest()


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path):
    text = tmp_path / "notes.pt"
    text.write_text("hello")
    listed = tmp_path / "list.pt"
    torch.save([1, 2], listed)
    for path, words in [
        (tmp_path / "absent.pt", "no such checkpoint"),
        (tmp_path, "cannot be read"),
        (text, "is not a checkpoint of this framework; expected a step-"),
        (listed, "is not a checkpoint of this framework; expected a step-"),
    ]:
        with pytest.raises(CheckpointError, match=words) as error:
            load_checkpoint(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"state": Trap()}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"state": Trap()}))
    for name in ("torch.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            load_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_gets_past_as_another_error(tmp_path):
    torch.save({"a": torch.arange(10), "b": {"c": [1, 2, "x"]}}, tmp_path / "good.pt")
    contents = [(tmp_path / "good.pt").read_bytes(), pickle.dumps({"a": [1, 2], "b": "x" * 20})]
    choices = random.Random(0)
    path = tmp_path / "x.pt"
    for i in range(600):
        content = bytearray(contents[i % 2])
        for _ in range(choices.randrange(1, 5)):
            content[choices.randrange(len(content))] = choices.randrange(256)
        path.write_bytes(content[: choices.randrange(1, len(content) + 1)] if i % 3 == 0 else content)
        with contextlib.suppress(CheckpointError):
            assert isinstance(load_checkpoint(path), dict)


def test_a_file_deleted_between_listing_and_reading_is_not_called_damaged(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1))
    tried = []

    def overtaken(path: Path) -> dict:
        if not tried:
            for step in (2, 3):  # the writer, which deletes step 1
                checkpoints.save(step, state_of(step))
        tried.append(path.name[:14])
        return load_checkpoint(path)

    monkeypatch.setattr("engine.checkpoints.load_checkpoint", overtaken)
    assert checkpoints.newest()[0] == 3
    assert tried == ["step-000000001", "step-000000003"]
    assert not caplog.records


def test_reading_while_another_process_writes_and_deletes(tmp_path, caplog):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert writer.stdout is not None
    try:
        assert [writer.stdout.readline() for _ in range(2)] == ["ready\n", "1\n"]
        threading.Thread(target=writer.stdout.read, daemon=True).start()  # so that it never waits for its reader
        last, reads, end = 0, 0, time.monotonic() + 1.5
        while time.monotonic() < end:
            step, state = Checkpoints(tmp_path).newest()
            assert step >= last
            assert state["step"] == step
            last, reads = step, reads + 1
    finally:
        writer.kill()
        writer.wait()
    assert last > 3
    assert reads > 3
    assert not caplog.records
