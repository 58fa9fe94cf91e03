"""The good points of damaged curves are kept, a warning counts lost ones, and a copy of the damaged file stays."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from engine.curves import event_files, truncation
from engine.curves.event_files import HEADER, Damage, events_of, record_of
from engine.curves.metrics import MetricsLog
from engine.errors import ConfigError
from tests.curves import curves_in

LAST = 20


def write(folder: Path, steps: range, resume_step: int | None = None) -> None:
    metrics = MetricsLog(folder, resume_step=resume_step)
    for step in steps:
        metrics.scalars(step, {"loss": 1 / step, "lr": 0.1 * step})
    metrics.close()


def line_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def event_steps(folder: Path) -> list[int]:
    return [step for step, _ in curves_in(folder).scalars["loss"]]


def damaged(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.damaged"))


def event_file(folder: Path) -> Path:
    (path,) = folder.glob("*tfevents*")
    return path


def records(content: bytes) -> list[tuple[int, int]]:
    """Where each record of an undamaged file begins and ends."""
    found, at = [], 0
    while at < len(content):
        end = at + HEADER.size + struct.unpack_from("<Q", content, at)[0] + 4
        found.append((at, end))
        at = end
    return found


@pytest.fixture
def run(tmp_path):
    write(tmp_path, range(1, LAST + 1))
    return tmp_path


BAD_LINES = {
    "blank": b"\n",
    "cut": b'{"step": 5, "lo\n',
    "a list": b'[1, 2]\n',
    "a number": b"7\n",
    "no step": b'{"loss": 1.0}\n',
    "step is text": b'{"step": "5", "loss": 1.0}\n',
    "step is a fraction": b'{"step": 5.5, "loss": 1.0}\n',
    "step is true": b'{"step": true, "loss": 1.0}\n',
    "step is negative": b'{"step": -5, "loss": 1.0}\n',
    "value is a list": b'{"step": 5, "loss": [1.0]}\n',
    "value is text": b'{"step": 5, "loss": "1.0"}\n',
    "infinite": b'{"step": 5, "loss": 1e999}\n',
    "NaN": b'{"step": 5, "loss": NaN}\n',
    "NUL": b"\x00" * 100 + b"\n",
    "not UTF-8": b'{"step": 5, "l\xff": 1.0}\n',
    "nested": b'{"step": 5, "loss": ' + b"[" * 100_000 + b"\n",
    "a huge number": b'{"step": ' + b"9" * 100_000 + b"}\n",
    "3 MB": b'{"step": 5, "loss": 1' + b"0" * (3 << 20) + b"}\n",
    "twice the same key": b'{"step": 5, "loss": 1.0, "loss": 2.0}\n',
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_only_a_bad_line_is_lost_and_a_warning_counts_it(run, caplog, bad):
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = bad
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        write(run, range(16, LAST + 1), resume_step=15)
    assert line_steps(run) == [*range(1, 5), *range(6, LAST + 1)]
    assert event_steps(run) == list(range(1, LAST + 1))
    (copy,) = damaged(run)
    assert copy.name == "metrics.jsonl.damaged"
    assert copy.read_bytes() == before
    assert caplog.messages == [
        f"{path}: 1 of 20 lines could not be read and are left out; the file as it was is kept as metrics.jsonl.damaged"
    ]


@pytest.mark.parametrize("tail", [b'{"step": 21, "lo', b"{", b'{"step'], ids=["cut", "a brace", "cut in the key"])
def test_the_last_line_of_a_killed_process_is_no_damage(run, caplog, tail):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    with caplog.at_level(logging.WARNING):
        write(run, range(21, 23), resume_step=LAST)
    assert line_steps(run) == list(range(1, 23))
    assert caplog.messages == []
    assert damaged(run) == []


@pytest.mark.parametrize("tail", [b"garbage", b'{"step": "21"}', b"\x00" * (2 << 20)], ids=["garbage", "type", "NUL"])
def test_another_last_line_without_an_end_is_damage(run, caplog, tail):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    with caplog.at_level(logging.WARNING):
        write(run, range(21, 23), resume_step=LAST)
    assert line_steps(run) == list(range(1, 23))
    assert "1 of 21 lines" in caplog.text
    assert len(damaged(run)) == 1


def test_an_earlier_damaged_file_is_not_overwritten(run):
    path = run / "metrics.jsonl"
    for k in range(3):
        path.write_bytes(f"broken {k}\n".encode() + path.read_bytes())
        write(run, range(16, LAST + 1), resume_step=15)
    names = ["metrics.jsonl.2.damaged", "metrics.jsonl.3.damaged", "metrics.jsonl.damaged"]
    assert [copy.name for copy in damaged(run)] == names
    firsts = [copy.read_bytes().splitlines()[0] for copy in damaged(run)]
    assert firsts == [b"broken 1", b"broken 2", b"broken 0"]


def test_lines_edited_on_another_system_are_no_damage(run, caplog):
    path = run / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    write(run, range(16, LAST + 1), resume_step=15)
    assert line_steps(run) == list(range(1, LAST + 1))
    assert caplog.messages == []


def test_curves_that_are_no_file_are_refused_in_one_line(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: is a folder, expected the curves of a run"):
        MetricsLog(run, resume_step=3)


@pytest.mark.parametrize("place", ["content", "checksum of the content"])
def test_a_flipped_byte_loses_only_its_own_record(run, caplog, place):
    path = event_file(run)
    content = bytearray(path.read_bytes())
    _, end = records(bytes(content))[5]  # the first is the version; so this is step 5
    content[end - (20 if place == "content" else 2)] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        write(run, range(16, LAST + 1), resume_step=15)
    assert event_steps(run) == [*range(1, 5), *range(6, LAST + 1)]
    assert line_steps(run) == list(range(1, LAST + 1))
    (copy,) = damaged(run)
    assert "tfevents" not in copy.name  # or TensorBoard would show it
    assert copy.read_bytes() == bytes(content)
    (said,) = caplog.messages
    assert said.startswith(f"{path}: 1 record (")
    assert said.endswith(
        f"bytes) could not be read and is left out, 20 records are kept; the file as it was is kept as {copy.name}"
    )


@pytest.mark.parametrize("offset", range(12))
def test_after_a_broken_header_the_next_record_is_found_again(run, caplog, offset):
    path = event_file(run)
    content = bytearray(path.read_bytes())
    begin, end = records(bytes(content))[5]
    content[begin + offset] ^= 0x10
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        write(run, range(16, LAST + 1), resume_step=15)
    assert event_steps(run) == [*range(1, 5), *range(6, LAST + 1)]
    assert f"1 unreadable stretch ({end - begin} bytes) could not be read and is left out, 20 records" in caplog.text
    assert len(damaged(run)) == 1


@pytest.mark.parametrize("inserted", [b"\n", b"\x00" * 4096, bytes(range(256)) * 40], ids=["newline", "NUL", "bytes"])
def test_bytes_between_records_lose_no_record(run, inserted):
    path = event_file(run)
    content = path.read_bytes()
    begin, _ = records(content)[7]
    path.write_bytes(content[:begin] + inserted + content[begin:] + inserted)
    write(run, range(16, LAST + 1), resume_step=15)
    assert event_steps(run) == list(range(1, LAST + 1))
    assert len(damaged(run)) == 1


def test_a_record_is_found_behind_a_gap_longer_than_what_is_searched_at_once(run, monkeypatch):
    path = event_file(run)
    content = path.read_bytes()
    begin, _ = records(content)[7]
    for searched in (13, 64, 100, 1000):
        monkeypatch.setattr(event_files, "SEARCHED_AT_ONCE", searched)
        path.write_bytes(content[:begin] + b"?" * 1000 + content[begin:])
        damage = Damage()
        found = [event.step for _, event in events_of(path, damage)]
        assert found == list(range(LAST + 1))
        assert (damage.records, damage.stretches, damage.bytes) == (0, 1, 1000)


def test_a_record_that_is_no_event_is_left_out(run):
    path = event_file(run)
    content = path.read_bytes()
    begin, _ = records(content)[7]
    path.write_bytes(content[:begin] + record_of(b"\xff" * 9) + content[begin:])
    damage = Damage()
    assert [event.step for _, event in events_of(path, damage)] == list(range(LAST + 1))
    assert (damage.records, damage.stretches) == (1, 0)


def test_a_record_cut_off_by_the_end_is_no_damage(run, caplog):
    path = event_file(run)
    content = path.read_bytes()
    begin, end = records(content)[-1]
    for cut in range(begin + 1, end):
        for old in run.glob("*tfevents*"):
            old.unlink()
        path.write_bytes(content[:cut])
        truncation.truncate_events(run, LAST, lambda event: False)
        assert event_steps(run) == list(range(1, LAST))
    assert caplog.messages == []
    assert damaged(run) == []


def test_a_resume_killed_at_any_place_while_mending_repeats_and_loses_nothing(run, monkeypatch):
    """Files are kept before they are replaced, and removed after their points are in the new file."""
    path = event_file(run)
    content = bytearray(path.read_bytes())
    content[records(bytes(content))[5][1] - 20] ^= 1
    path.write_bytes(content)
    (run / "metrics.jsonl").write_bytes(b"broken\n" + (run / "metrics.jsonl").read_bytes())

    class Killed(BaseException):
        pass

    left = [0]

    def killed(*arguments, function):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*arguments)

    for name in ("keep_damaged", "fsync_folder", "record_of"):
        function = getattr(truncation, name)
        monkeypatch.setattr(truncation, name, lambda *a, function=function: killed(*a, function=function))
    for survived in range(0, 40, 3):
        left[0] = survived
        try:
            MetricsLog(run, resume_step=15).close()
        except Killed:
            continue
    left[0] = 1000
    write(run, range(16, LAST + 1), resume_step=15)
    assert event_steps(run) == [*range(1, 5), *range(6, LAST + 1)]
    assert line_steps(run) == list(range(1, LAST + 1))
    assert [copy.name.split(".")[0] for copy in damaged(run)] == ["events", "metrics"]


def test_a_run_whose_event_files_lie_in_a_folder_of_their_own_goes_on(run):
    """Earlier versions wrote them so; one run must not be two in TensorBoard."""
    former = run / "tensorboard"
    former.mkdir()
    event_file(run).rename(former / "events.out.tfevents.9999999999.host.1.0")
    write(run, range(16, LAST + 1), resume_step=15)
    assert event_steps(run) == list(range(1, LAST + 1))
    assert not former.exists()


def test_files_of_the_users_in_the_former_folder_stay(run):
    former = run / "tensorboard"
    former.mkdir()
    (former / "notes.txt").write_text("mine")
    event_file(run).rename(former / "events.out.tfevents.9999999999.host.1.0")
    write(run, range(16, LAST + 1), resume_step=15)
    assert [path.name for path in former.iterdir()] == ["notes.txt"]


def test_the_header_search_is_the_checksum_of_the_format():
    """The vectorised search agrees with TensorBoard's own checksum at every place of a long random text."""
    noise = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()
    content = noise + record_of(Event(step=3).SerializeToString()) + noise
    piece = np.frombuffer(content, np.uint8)
    found = event_files._headers(piece)
    expected = [
        masked_crc32c(content[k : k + 8]) == struct.unpack_from("<I", content, k + 8)[0]
        for k in range(len(content) - 11)
    ]
    assert found.tolist() == expected
    assert np.flatnonzero(found).tolist() == [len(noise)]
