"""Writes TensorBoard's event files record by record, without a thread, and reads them back past damaged records.

A record is: uint64 length, uint32 checksum of these 8 bytes, the content (a serialized Event), uint32 checksum of the
content; all little-endian, checksums are masked CRC-32C.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE, masked_crc32c

from engine.files import opened, writing

PATTERN = "events.out.tfevents.*"
"""A pattern of the names of event files: TensorBoard reads every file that has "tfevents" in its name."""
HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
SEARCHED_AT_ONCE = 1 << 20  # bytes


class EventFile:
    """Writes an event file. The system has each record when `write` returns. Raises WriteError if it refuses one.

    TensorBoard's own writer passes records to a thread, whose errors surface late, in another call, or never.
    """

    def __init__(self, folder: Path):
        second, host = int(time.time()), socket.gethostname().replace("/", "_")
        for number in count():
            self.path = folder / f"{PATTERN[:-1]}{second:010d}.{host}.{os.getpid()}.{number}"
            with writing(self.path), contextlib.suppress(FileExistsError):
                self._file = self.path.open("xb", buffering=0)
                break
        writer = SourceMetadata(writer="engine.event_files")
        self.write(Event(file_version="brain.Event:2", source_metadata=writer))

    def write(self, event: Event, step: int = 0) -> None:
        """Appends an event with the current time and this step."""
        event.wall_time, event.step = time.time(), step
        with writing(self.path):
            write_all(self._file.fileno(), record_of(event.SerializeToString()))

    def flush(self) -> None:
        """Forces everything written so far to the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def write_all(descriptor: int, content: bytes) -> None:
    """Writes every byte or raises OSError. A single call of os.write may write only a part."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def record_of(content: bytes) -> bytes:
    """Returns a serialized Event as a record of a file."""
    length = struct.pack("<Q", len(content))
    return b"".join((length, FOOTER.pack(masked_crc32c(length)), content, FOOTER.pack(masked_crc32c(content))))


@dataclass
class Damage:
    """Counts what could not be read of a file."""

    records: int = 0
    """The number of whole records with a wrong content."""
    stretches: int = 0
    """The number of stretches of bytes that hold no record."""
    bytes: int = 0
    """The length of all of these together."""

    def __bool__(self) -> bool:
        return self.bytes > 0

    def __str__(self) -> str:
        counts = ((self.records, "record", "records"), (self.stretches, "unreadable stretch", "unreadable stretches"))
        parts = [f"{number} {one if number == 1 else several}" for number, one, several in counts if number]
        return f"{' and '.join(parts)} ({self.bytes} bytes)"


def events_of(path: Path, damage: Damage) -> Iterator[tuple[bytes, Event]]:
    """Yields each good record of an event file, serialized and parsed; `damage` counts what is skipped.

    A record that the end of the file cuts off is no damage: a killed process leaves such a record.
    """
    with opened(path, "an event file of TensorBoard") as file:
        records = _Records(file)
        at = 0
        while at + HEADER.size <= records.size:
            end = records.end_of(at)
            if end is None:
                following = records.next(at + 1)
                damage.stretches += 1
                damage.bytes += following - at
                at = following
                continue
            if end > records.size:
                return
            event = records.event(at, end)
            if event is None:
                damage.records += 1
                damage.bytes += end - at
            else:
                yield event
            at = end


class _Records:
    """Reads the records of an open file, given the offset at which one begins."""

    def __init__(self, file: BinaryIO):
        self.descriptor = file.fileno()
        self.size = os.fstat(self.descriptor).st_size

    def piece(self, begin: int, end: int) -> bytes:
        return os.pread(self.descriptor, end - begin, begin)

    def end_of(self, at: int) -> int | None:
        """Returns where the record that begins at `at` ends, perhaps beyond the file; None if none begins there."""
        header = self.piece(at, at + HEADER.size)
        if len(header) < HEADER.size:
            return None
        length, checksum = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            return None
        return at + HEADER.size + int(length) + FOOTER.size

    def event(self, at: int, end: int) -> tuple[bytes, Event] | None:
        """Returns the content of a whole record, or None if it is wrong."""
        raw = self.piece(at + HEADER.size, end - FOOTER.size)
        if FOOTER.pack(masked_crc32c(raw)) != self.piece(end - FOOTER.size, end):
            return None
        try:
            return raw, Event.FromString(raw)
        except DecodeError:
            return None

    def next(self, start: int) -> int:
        """Returns where the first record at or after `start` begins; the file's end if there is none.

        By chance a header's checksum fits at one of 2^32 places, and then hardly ever with a length that fits.
        """
        for at in range(start, self.size, SEARCHED_AT_ONCE):
            piece = np.frombuffer(self.piece(at, at + SEARCHED_AT_ONCE + HEADER.size - 1), np.uint8)
            for offset in np.flatnonzero(_headers(piece)):
                begin = at + int(offset)
                end = self.end_of(begin)
                if end is not None and end <= self.size:
                    return begin
        return self.size


def _headers(piece: np.ndarray) -> np.ndarray:
    """Returns where the checksum of a header is right: one bool for each place of `(bytes,)` at which a header fits."""
    places = max(0, len(piece) - HEADER.size + 1)
    table = np.array(CRC_TABLE, np.uint32)
    crc = np.full(places, 0xFFFFFFFF, np.uint32)
    for k in range(8):
        crc = table[(crc ^ piece[k : k + places]) & 0xFF] ^ (crc >> np.uint32(8))
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    stored = np.zeros(places, np.uint32)
    for k in range(4):
        stored |= piece[8 + k : 8 + k + places].astype(np.uint32) << np.uint32(8 * k)
    return np.asarray(masked == stored)
