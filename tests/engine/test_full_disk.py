"""If the disk is full, writing curves ends at once with one line, and no point before the last checkpoint is lost."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from engine.curves.event_files import EventFile, write_all
from engine.curves.metrics import MetricsLog
from engine.errors import run_command
from engine.files import WriteError
from tests.processes import python

WRITER = """
import resource, sys
from pathlib import Path
import numpy as np
from engine.errors import run_command
from engine.curves.metrics import MetricsLog

folder, limit, pictures = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "pictures"

def main():
    metrics = MetricsLog(folder, resume_step=None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    try:
        for step in range(1, 100_000):
            metrics.scalars(step, {f"t{k}": 1 / 3 for k in range(20)} if not pictures else {"loss": 1 / step})
            if pictures:
                metrics.image(step, "net", noise)
            metrics.flush()
            print(step, flush=True)
    finally:
        metrics.close()

run_command(main)
"""


@pytest.mark.parametrize(("kind", "full"), [("lines", "metrics.jsonl"), ("pictures", "tfevents")])
def test_a_file_that_may_not_grow_is_one_line_and_no_flushed_point_is_lost(tmp_path, kind, full):
    ended = python("-c", WRITER, tmp_path, 20000, kind)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"error: {tmp_path}/")
    assert full in ended.stderr
    assert "cannot be written (File too large); raise the limit of a file's size (ulimit -f)" in ended.stderr
    flushed = int(ended.stdout.splitlines()[-1])
    MetricsLog(tmp_path, resume_step=flushed).close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, flushed + 1))
    assert list(tmp_path.glob("*.damaged")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("which", ["lines", "events"])
def test_a_full_disk_is_one_line_at_the_very_point_that_has_no_room(tmp_path, which, capsys):
    metrics = MetricsLog(tmp_path, resume_step=None)
    metrics.scalars(1, {"loss": 1.0})
    file = metrics._jsonl if which == "lines" else metrics._events._file
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file.fileno())
    os.close(full)

    def main() -> None:
        try:
            metrics.scalars(2, {"loss": 1.0})
        finally:
            metrics.close()

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 2
    assert "cannot be written (No space left on device); make room" in capsys.readouterr().err


def test_a_resume_without_room_leaves_both_files_as_they_were(tmp_path, monkeypatch):
    metrics = MetricsLog(tmp_path, resume_step=None)
    for step in range(1, 9):
        metrics.scalars(step, {"loss": 1.0})
    metrics.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match="make room"):
        MetricsLog(tmp_path, resume_step=4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_the_system_cuts_short_is_completed(monkeypatch, tmp_path):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, bytes(content[:3])))
    with (tmp_path / "a").open("wb", buffering=0) as file:
        write_all(file.fileno(), b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    with pytest.raises(WriteError, match="cannot be written"):
        EventFile(tmp_path / "missing")


def test_no_room_for_temporary_files_is_one_line(tmp_path, monkeypatch, capsys):
    """Python then says that no such folder was found, as if one were missing."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])

    def main() -> None:
        tempfile.mkdtemp()

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 2
    line = "error: TMPDIR: no folder for temporary files can be written; make room in /tmp, or name another one\n"
    assert capsys.readouterr().err == line


def test_another_missing_file_is_not_taken_for_that():
    def main() -> None:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        run_command(main)
