"""Curves: metrics.jsonl and TensorBoard files with the same scalars, and a resume that leaves no duplicate points."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from engine.files import fsync_folder, write_atomically


class MetricsLog:
    """Writes `metrics.jsonl` (one object a line: step and tags) and `tensorboard/` into a run folder.

    resume_step: continue from the checkpoint of that step; later points, which the resumed run will make again, are
    removed from both first. None begins anew.
    """

    def __init__(self, folder: Path, *, resume_step: int | None):
        jsonl, events = folder / "metrics.jsonl", folder / "tensorboard"
        if resume_step is not None:
            _truncate_jsonl(jsonl, resume_step)
            _truncate_events(events, resume_step)
        else:
            for path in events.glob("events.out.tfevents.*"):
                path.unlink()
        self._jsonl = jsonl.open("a" if resume_step is not None else "w", encoding="utf-8")
        self._writer = SummaryWriter(str(events))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point per tag. JSON has no NaN or infinity: they become null there."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self._jsonl.write(json.dumps({"step": step, **finite}) + "\n")
        self._jsonl.flush()
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """pixels (height, width, 3) uint8."""
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def text(self, tag: str, text: str) -> None:
        """Markdown for TensorBoard's text page, at step 0; a resume keeps it, so write it when a run begins."""
        self._writer.add_text(tag, text, 0)

    def flush(self) -> None:
        """Everything so far to the disk. Called before each checkpoint, so that a resume never lacks a point."""
        self._jsonl.flush()
        os.fsync(self._jsonl.fileno())
        self._writer.flush()

    def close(self) -> None:
        self._jsonl.close()
        self._writer.close()


def _truncate_jsonl(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # the half line of a killed process; nothing can follow it
        if record["step"] <= step:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def _truncate_events(folder: Path, step: int) -> None:
    """Rewrite all event files as one that ends at `step`.

    TensorBoard can hide points after a restart, but other readers of the files would still see them twice.
    """
    # Readers take the files in the order of their names, events.out.tfevents.<second>.<host>.<pid>.<count>: the zeros
    # sort before every writer of this process or a later one, whatever its clock, host and pid.
    kept = folder / "events.out.tfevents.0000000000.kept"
    old = sorted(folder.glob("events.out.tfevents.*"))
    if not old:
        return
    temporary = folder / ".kept.tmp"
    seen = set()
    with temporary.open("wb") as file:
        writer = RecordWriter(file)
        for path in old:
            for raw in RawEventFileLoader(str(path)).Load():  # up to the half record of a killed process
                # A record can be there twice if an earlier resume was killed between the two steps below
                if raw not in seen and Event.FromString(raw).step <= step:
                    writer.write(raw)
                    seen.add(raw)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, kept)
    fsync_folder(folder)
    for path in old:
        if path != kept:
            path.unlink()
