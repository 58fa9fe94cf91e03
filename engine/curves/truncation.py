"""Cuts curves back to a checkpoint's step, so that a resumed run, which writes the later points again, repeats none.

Every good line and record of a damaged file is kept. If more is lost than the last line or record, which a killed
process may leave half-written, the damaged file is kept too, as `.damaged`, and a warning gives the size of the loss.
"""

from __future__ import annotations

import codecs
import filecmp
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event

from engine.curves.event_files import PATTERN, Damage, events_of, record_of
from engine.errors import UserError
from engine.files import fsync_folder, opened, parsed_json, replacing, writing

log = logging.getLogger("engine")

MOST_LINE_BYTES = 1 << 20
"""The longest line that is parsed; a point of a space of a hundred limits has some 10 kB."""
# Readers take the files in the order of their names, events.out.tfevents.<second>.<host>.<pid>.<count>. The zeros sort
# before the file of any later writer, whatever its clock, host and pid.
KEPT = f"{PATTERN[:-1]}0000000000.kept"
FORMER_FOLDER = "tensorboard"
"""The folder of a run's event files in earlier versions."""


def event_paths(folder: Path) -> list[Path]:
    """Returns the event files of a run, in the order in which they were written."""
    return [*sorted((folder / FORMER_FOLDER).glob(PATTERN)), *sorted(folder.glob(PATTERN))]


def truncate_lines(path: Path, step: int) -> None:
    """Rewrites metrics.jsonl with its good lines up to `step`."""
    if not path.exists():
        return
    good, bad = 0, 0
    with replacing(path) as temporary:
        with writing(path), temporary.open("wb") as file:
            for line in _lines(path):
                record_step = _step_of(line)
                if record_step is None:
                    bad += not _is_torn(line)
                    continue
                good += 1
                if record_step <= step:
                    file.write(line.removeprefix(codecs.BOM_UTF8).strip() + b"\n")
        if bad:
            kept = keep_damaged(path)
            log.warning(
                "%s: %d of %d lines could not be read and are left out; the file as it was is kept as %s",
                path, bad, good + bad, kept.name,
            )  # fmt: skip


def truncate_events(folder: Path, step: int, of_the_end: Callable[[Event], bool]) -> None:
    """Rewrites all event files of a run as one file, and deletes the others.

    The new file keeps the records up to `step`, each once: an earlier resume that was killed may have left copies of a
    record in two files. It leaves out records for which `of_the_end` returns True: those that a run writes when it
    ends, such as its final figures, because the resumed run writes them again.

    TensorBoard can hide points that a restart repeats, but other readers of the files would read them twice.
    """
    old = event_paths(folder)
    if not old:
        return
    kept = folder / KEPT
    seen = set()
    # Half-written, it has a name that TensorBoard does not take for an event file.
    with replacing(kept, name="curves") as temporary, writing(kept), temporary.open("wb") as file:
        for path in old:
            damage, good = Damage(), 0
            for raw, event in events_of(path, damage):
                good += 1
                digest = hashlib.sha256(raw).digest()
                # A record can exist twice if an earlier resume was killed before it removed the old files
                if digest not in seen and event.step <= step and not of_the_end(event):
                    file.write(record_of(raw))
                    seen.add(digest)
            if damage:
                copy = keep_damaged(path)
                log.warning(
                    "%s: %s could not be read and %s left out, %d records are kept; the file as it was is kept as "
                    "%s", path, damage, "is" if damage.records + damage.stretches == 1 else "are", good, copy.name,
                )  # fmt: skip
    with writing(folder):
        for path in old:
            if path != kept:
                path.unlink()
        former = folder / FORMER_FOLDER
        if former.is_dir() and not any(former.iterdir()):
            former.rmdir()
        fsync_folder(folder)


def keep_damaged(path: Path) -> Path:
    """Copies a file to its own name with `.damaged`, and a number if another file has that name already."""
    # TensorBoard reads every file that has "tfevents" in its name
    name = path.name.replace("tfevents", "events")
    copy, number = path.with_name(f"{name}.damaged"), 1
    while copy.exists():
        if copy.is_file() and filecmp.cmp(path, copy, shallow=False):
            return copy  # a resume that was killed before it replaced the file has made this copy
        number += 1
        copy = path.with_name(f"{name}.{number}.damaged")
    with replacing(copy) as temporary, writing(copy):
        shutil.copyfile(path, temporary)
    return copy


def _lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file with their ends; a blank one in place of a line that is too long to be a point."""
    with opened(path, "the curves of a run") as file:
        while line := file.readline(MOST_LINE_BYTES):
            part = line
            while len(part) == MOST_LINE_BYTES and not part.endswith(b"\n"):
                line, part = b"\n", file.readline(MOST_LINE_BYTES)
            yield line


def _is_torn(line: bytes) -> bool:
    """Returns whether a killed process may have left this line: the beginning of a point, without its end."""
    return not line.endswith((b"\n", b"}")) and line[:9] == b'{"step": '[: len(line)]


def _step_of(line: bytes) -> int | None:
    """Returns the step of a point, which is a JSON object of `step`, a whole number, and of numbers or null; None if
    the line is no point."""
    try:
        record = parsed_json(line.decode("utf-8-sig"), "")
    except (UnicodeDecodeError, UserError):
        return None
    if not isinstance(record, dict):
        return None
    step = record.pop("step", None)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return None
    values = record.values()
    if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        return None
    return step
