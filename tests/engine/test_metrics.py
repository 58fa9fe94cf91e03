"""Both files of curves hold the same points, and a resume neither loses nor repeats one."""

from __future__ import annotations

import io
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.curves.metrics import MetricsLog
from tests.curves import curves_in
from tests.processes import Python

WRITER = """
import sys
from pathlib import Path
import numpy as np
from engine.curves.metrics import MetricsLog

folder, start, checkpoint = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
metrics = MetricsLog(folder, resume_step=start or None)
step = start
while True:
    step += 1
    metrics.scalars(step, {"loss": 1 / step, "lr": 0.1 * step})
    if step % 2 == 0:
        metrics.scalars(step, {"top1": float(step)})
    if step % 5 == 0:
        metrics.image(step, "net", np.full((4, 6, 3), step % 256, np.uint8))
    if step == checkpoint:
        metrics.flush()
        print("flushed", flush=True)
"""


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of metrics.jsonl by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for tag, value in record.items():
            if tag != "step":
                found.setdefault(tag, []).append((record["step"], value))
    return found


def event_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return curves_in(folder).scalars


def assert_same_points(folder: Path) -> None:
    lines, curves = points(folder), event_points(folder)
    assert lines.keys() == curves.keys()
    for tag in lines:
        assert [step for step, _ in lines[tag]] == [step for step, _ in curves[tag]]
        np.testing.assert_allclose([v for _, v in lines[tag]], [v for _, v in curves[tag]], rtol=1e-6)


def log(folder: Path, steps: range, resume_step: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    metrics = MetricsLog(folder, resume_step=resume_step)
    for step in steps:
        metrics.scalars(step, {"loss": 1 / step, "lr": 0.1 * step})
    metrics.close()


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*tfevents*"))


def steps_of(folder: Path, tag: str = "loss") -> list[int]:
    return [step for step, _ in event_points(folder)[tag]]


def test_both_files_hold_the_same_points_from_step_1(tmp_path):
    log(tmp_path, range(1, 31))
    assert points(tmp_path)["loss"] == [(step, 1 / step) for step in range(1, 31)]
    assert_same_points(tmp_path)


def test_points_are_in_the_lines_at_once_and_in_both_files_after_flush(tmp_path):
    metrics = MetricsLog(tmp_path, resume_step=None)
    metrics.scalars(1, {"loss": 2.0})
    assert points(tmp_path) == {"loss": [(1, 2.0)]}
    metrics.flush()
    assert_same_points(tmp_path)
    metrics.close()


def test_killed_writers_and_resumes_leave_one_point_a_step(tmp_path):
    start = 0
    for checkpoint in (13, 47):
        writer = Python("-c", WRITER, tmp_path, start, checkpoint)
        assert writer.stdout.readline() == "flushed\n"
        while len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 3 * checkpoint:
            time.sleep(0.01)  # let it go on beyond the checkpoint
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        start = checkpoint
    log(tmp_path, range(48, 60), resume_step=47)
    assert steps_of(tmp_path) == list(range(1, 60))
    assert steps_of(tmp_path, "top1") == list(range(2, 47, 2))
    assert points(tmp_path)["loss"] == [(step, 1 / step) for step in range(1, 60)]
    assert_same_points(tmp_path)
    images = curves_in(tmp_path).of("images")["net"]
    assert [step for step, _ in images] == list(range(5, 47, 5))
    for step, (width, height, content) in images:
        picture = Image.open(io.BytesIO(content))
        assert (int(width), int(height), picture.size) == (6, 4, (6, 4))
        assert picture.convert("RGB").getpixel((0, 0)) == (step % 256,) * 3


def test_a_resume_right_after_the_start_keeps_the_order(tmp_path):
    """Writers of one second have names that differ in host, pid and count only; none of these says who was first."""
    log(tmp_path, range(1, 11))
    for late in ("9999999999.zzz.99999.9", "1000000000.a.1.0"):  # of a machine whose clock is ahead, or behind
        newest = max(event_files(tmp_path))
        newest.rename(newest.with_name(f"events.out.tfevents.{late}"))
        log(tmp_path, range(6, 11), resume_step=5)
        assert steps_of(tmp_path) == list(range(1, 11))
        names = [path.name for path in event_files(tmp_path)]
        assert len(names) == 2
        assert names[0].endswith(".kept")


def test_many_resumes_within_a_second_keep_the_order(tmp_path):
    log(tmp_path, range(1, 6))
    for start in range(5, 50, 5):
        log(tmp_path, range(start + 1, start + 8), resume_step=start)
    assert steps_of(tmp_path) == list(range(1, 53))
    assert_same_points(tmp_path)


def test_a_resume_killed_before_it_removed_the_old_files_repeats_nothing(tmp_path):
    log(tmp_path, range(1, 11))
    (first,) = event_files(tmp_path)
    content = first.read_bytes()
    MetricsLog(tmp_path, resume_step=8).close()
    first.write_bytes(content)  # as if it had not been removed yet
    log(tmp_path, range(8, 11), resume_step=7)
    assert steps_of(tmp_path) == list(range(1, 11))


def test_a_half_written_line_is_dropped(tmp_path):
    log(tmp_path, range(1, 6))
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        file.write_bytes(whole[:-cut])
        MetricsLog(tmp_path, resume_step=5).close()
        found = [step for step, _ in points(tmp_path)["loss"]]
        assert found == ([1, 2, 3, 4] if cut > 1 else [1, 2, 3, 4, 5])  # cut 1: only the end of the line


def test_a_half_written_event_does_not_break_a_resume(tmp_path):
    log(tmp_path, range(1, 6))
    (first,) = event_files(tmp_path)
    whole = first.read_bytes()
    folder = tmp_path / "again"
    folder.mkdir()
    for cut in [*range(1, 60), len(whole) - 3, len(whole)]:
        for path in event_files(folder):
            path.unlink()
        (folder / first.name).write_bytes(whole[:-cut])
        log(folder, range(4, 8), resume_step=3)
        if cut < 60:
            assert steps_of(folder) == [1, 2, 3, 4, 5, 6, 7]
        else:
            assert steps_of(folder) == [4, 5, 6, 7]


def test_garbage_after_the_last_event_does_not_break_a_resume(tmp_path):
    log(tmp_path, range(1, 6))
    (first,) = event_files(tmp_path)
    first.write_bytes(first.read_bytes() + b"\x00" * 100)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\x00\xff" * 20)
    log(tmp_path, range(6, 8), resume_step=5)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert_same_points(tmp_path)


def test_nan_and_infinity_are_null_in_the_lines(tmp_path):
    metrics = MetricsLog(tmp_path, resume_step=None)
    metrics.scalars(1, {"loss": math.nan, "lr": math.inf, "top1": 1.5})
    metrics.close()

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": None, "lr": None, "top1": 1.5}
    assert math.isnan(event_points(tmp_path)["loss"][0][1])


def test_a_new_start_drops_the_points_of_a_run_killed_before_its_first_checkpoint(tmp_path):
    log(tmp_path, range(1, 8))
    log(tmp_path, range(1, 4))
    assert steps_of(tmp_path) == [1, 2, 3]
    assert_same_points(tmp_path)


def test_a_resume_without_files_begins_them(tmp_path):
    log(tmp_path, range(4, 6), resume_step=3)
    assert steps_of(tmp_path) == [4, 5]
    assert_same_points(tmp_path)
