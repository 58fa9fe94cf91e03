"""Checkpoints survive being killed, damaged, and read while they are written."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from engine.errors import CheckpointError, UserError
from engine.files import WriteError
from engine.runs.checkpoints import Checkpoints, load_checkpoint
from tests.processes import Python, python

WRITER = """
import sys
from pathlib import Path
import torch
from engine.runs.checkpoints import Checkpoints

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
    """If the fault were found only at a resume, the good checkpoints before it would be gone."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    before = files(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.save(3, {"value": value})
    assert files(tmp_path) == before


def test_the_newest_checkpoint_of_a_folder_without_one_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").newest() is None
    assert Checkpoints(tmp_path).newest() is None
    (tmp_path / "step-notes.pt").write_text("not ours")
    assert Checkpoints(tmp_path).newest() is None


def test_a_writer_killed_at_any_moment_leaves_a_good_newest(tmp_path):
    moments = random.Random(0)
    reached = 0
    for _ in range(3):
        writer = Python("-c", WRITER, tmp_path)
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


def test_an_error_is_raised_if_every_checkpoint_is_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        damage(checkpoints.save(step, state_of(step)), "truncated")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged; start again in a new folder"):
        checkpoints.newest()


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    text = tmp_path / "notes.pt"
    text.write_text("hello")
    listed = tmp_path / "list.pt"
    torch.save([1, 2], listed)
    for path, words in [
        (tmp_path / "absent.pt", "no such file, expected a step-"),
        (tmp_path, "is a folder, expected a step-"),
        (text, "is not a checkpoint of this framework, expected a step-"),
        (listed, "is not a checkpoint of this framework, expected a step-"),
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
def test_a_file_with_random_damage_is_read_or_raises_a_checkpoint_error(tmp_path):
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

    monkeypatch.setattr("engine.runs.checkpoints.load_checkpoint", overtaken)
    assert checkpoints.newest()[0] == 3
    assert tried == ["step-000000001", "step-000000003"]
    assert not caplog.records


def test_a_reader_never_gets_an_older_or_damaged_state_while_another_process_writes(tmp_path, caplog):
    writer = Python("-c", WRITER, tmp_path)
    try:
        assert [writer.stdout.readline() for _ in range(2)] == ["ready\n", "1\n"]
        drained = threading.Thread(target=writer.stdout.read)  # so that it never waits for its reader
        drained.start()
        last, reads, end = 0, 0, time.monotonic() + 1.5
        while time.monotonic() < end:
            step, state = Checkpoints(tmp_path).newest()
            assert step >= last
            assert state["step"] == step
            last, reads = step, reads + 1
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    drained.join()
    writer.communicate()
    assert last > 3
    assert reads > 3
    assert not caplog.records


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("ruined", "where"),
    [
        ({"net": {"a": torch.ones(2), "bn.running_var": torch.tensor([1.0, INF])}}, "net.bn.running_var"),
        ({"optimizer": {"state": {3: {"momentum_buffer": torch.tensor(NAN)}}}}, "optimizer.state.3.momentum_buffer"),
        ({"alpha": torch.tensor([[NAN]], dtype=torch.float16)}, "alpha"),
        ({"pressures": [0.5, -INF]}, "pressures.1"),
        ({"gradients": [(0.5, NAN)]}, "gradients.0.1"),
    ],
    ids=["statistics", "momentum", "alpha", "pressure", "gradient"],
)
def test_a_ruined_state_is_not_saved_and_pushes_no_good_one_out(tmp_path, ruined, where):
    checkpoints = Checkpoints(tmp_path)
    state = state_of(1) | {"count": torch.tensor(3), "flag": torch.tensor(True), "none": None}
    for step in (1, 2):
        checkpoints.save(step, state)
    before = files(tmp_path)
    with pytest.raises(UserError) as error:
        checkpoints.save(3, state | ruined)
    assert str(error.value).startswith(
        f"{where} is not finite at step 3: training has diverged; this state is not saved"
    )
    assert "the checkpoint of step 2 is good" in str(error.value)
    assert files(tmp_path) == before


def link_to_nothing(path: Path) -> None:
    path.symlink_to("/nonexistent")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_without_an_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").touch()


def larger_than_memory(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 43)


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "saved past"])
@pytest.mark.parametrize(
    "make", [link_to_nothing, link_to_itself, link_without_an_end, folder, os.mkfifo, larger_than_memory]
)
def test_what_is_no_file_in_the_place_of_a_checkpoint_is_skipped_for_the_checkpoint_before_it(
    tmp_path, make, resumed, caplog
):
    """Each is named once, nothing is waited for, and a save leaves two good checkpoints."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    odd = [tmp_path / f"step-{step:09d}-0123456789ab.pt" for step in ((3, 5) if resumed else (5, 6))]
    for path in odd:
        try:
            make(path)
        except OSError as error:
            pytest.skip(f"this file system: {error}")
    assert (checkpoints.resume() if resumed else checkpoints.newest())[0] == 2
    assert len(caplog.records) == 2
    checkpoints.save(4, state_of(4))
    assert [path.name[:14] for path in checkpoints._files() if path not in odd] == ["step-000000004", "step-000000002"]
    assert checkpoints.newest()[0] == 4
    if resumed:  # nothing is lost
        assert [os.path.lexists(f"{path}.damaged") for path in odd] == [True, True]
    else:
        assert [os.path.lexists(path) for path in odd] == [make is folder] * 2


def test_a_checkpoint_of_another_format_is_refused_and_the_format_named(tmp_path):
    path = Checkpoints(tmp_path).save(1, {"format": "proxylessnas/checkpoint@9"})
    with pytest.raises(CheckpointError, match="format 'proxylessnas/checkpoint@9', expected 'proxyl"):
        load_checkpoint(path)


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
import torch
from engine.runs.checkpoints import Checkpoints
from engine.errors import run_command

def main():
    checkpoints = Checkpoints(Path(sys.argv[1]))
    for step in (1, 2):
        checkpoints.save(step, {"weights": torch.zeros(1000)})
    if sys.argv[2] == "size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    elif sys.argv[2] == "descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    checkpoints.save(3, {"weights": torch.zeros(1_000_000)})

run_command(main)
"""


def limited(folder: Path, how: str, shell: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Two small checkpoints, then a large one where the system refuses it."""
    return python("-c", LIMITED, folder, how, env=shell)


def assert_refused_without_loss(end: subprocess.CompletedProcess[str], folder: Path, words: str) -> None:
    assert end.returncode == 2, end.stderr
    (line,) = end.stderr.splitlines()
    assert line.startswith(f"error: {folder}/")
    assert words in line
    assert [name[:14] for name in files(folder)] == ["step-000000001", "step-000000002"]  # and no temporary file
    assert Checkpoints(folder).newest()[0] == 2


def test_a_limit_of_a_files_size_is_one_line_and_loses_nothing(tmp_path, shell):
    assert_refused_without_loss(limited(tmp_path, "size", shell), tmp_path, "File too large); raise the limit")


def test_no_descriptor_left_is_one_line_and_loses_nothing(tmp_path, shell):
    assert_refused_without_loss(limited(tmp_path, "descriptors", shell), tmp_path, "Too many open files); raise the")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, shell):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        assert_refused_without_loss(limited(disk, "disk", shell), disk, "No space left on device); make room")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_checkpoint_that_cannot_be_deleted_is_one_line(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WriteError, match="Operation not permitted"):
        checkpoints.save(3, state_of(3))
    assert checkpoints.newest()[0] == 3


@pytest.mark.parametrize("key", ["network", "space", "layers", "classes", "test"])
@pytest.mark.parametrize("value", [torch.zeros(3, 3), [torch.zeros(1)], {"stages": [torch.zeros(2)]}, {1: "a"}])
def test_a_checkpoint_whose_description_is_not_text_and_numbers_is_refused(tmp_path, key, value):
    """A forged one may hold a tensor there, which cannot be compared with a setting."""
    path = Checkpoints(tmp_path).save(1, {"search": {}, key: value})
    with pytest.raises(CheckpointError, match=f"{key}: holds something else than text and numbers, expected a step-"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["search", "retrain"])
@pytest.mark.parametrize("value", [torch.zeros(3), [1], "text", None])
def test_a_checkpoint_whose_state_is_no_mapping_is_refused(tmp_path, key, value):
    path = Checkpoints(tmp_path).save(1, {key: value})
    with pytest.raises(CheckpointError, match=f"{key}: holds something else than a state, expected a step-"):
        load_checkpoint(path)
