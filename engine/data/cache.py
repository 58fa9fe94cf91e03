"""Keeps the decoded pictures of a set in one file that is mapped into memory, so that each is decoded once.

    {"format": ..., "images": N, "channels": C}     padded with spaces to _HEADER bytes
    heights, widths, places of the first pixels     int64, N of each; a height of 0: the picture is not kept
    one picture after the other                     uint8, (height, width, C) each

A file's name has a checksum of the names, sizes and times of the images, so another set has another file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.pictures import UnreadableError, whole_picture
from engine.errors import ConfigError
from engine.files import make_folder, remove_stale, replacing, writing
from engine.quantities import quantity

logger = logging.getLogger("engine.data")

RAM = Path("ram")
"""The value of `data.cache` for a cache that ends with the program."""
_FORMAT = "proxylessnas/pictures@2"  # changes with the pixels that files are decoded to
_HEADER = 4096
_MOST_OF_MEMORY = 0.8
"""The share of the free memory that a cache may take."""


class DecodedPictures:
    """The decoded pictures of N image files, as `whole_picture` gives them.

    place: RAM, or a folder. read: returns the bytes of the file at an index. identity: a text that changes with the
    files. most: a picture is not kept if its shorter side has twice as many pixels or more, since a training decodes
    such a file at a fraction of its size.
    """

    def __init__(
        self, place: Path, read: Callable[[int], bytes], total: int, *, channels: int, most: int, identity: str
    ):
        self._place, self._read, self._total, self._channels, self._most = place, read, total, channels, most
        key = hashlib.sha256(f"{_FORMAT} {total} {channels} {most} {identity}".encode()).hexdigest()
        self._name = f"pictures-{key[:32]}.bin"
        self._path: str | None = None
        self._descriptor: int | None = None
        self._mapped: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None, "_descriptor": None}  # another process maps the file itself

    def __del__(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def prepare(self) -> None:
        """Decodes the pictures, unless that has been done. Raises UserError if memory or disk do not suffice."""
        if self._path is not None:
            return
        if self._place == RAM:
            with writing("data.cache"):
                self._descriptor = os.memfd_create("pictures")  # without a name: it goes with the last that uses it
            self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
            self._write(Path(self._path))
        else:
            path = make_folder(self._place, "data.cache") / self._name
            with _one_at_a_time(self._place):
                remove_stale(self._place)
                if not path.exists():
                    with replacing(path) as new:
                        self._write(new)
            self._path = str(path)

    def get(self, index: int) -> np.ndarray | None:
        """Returns the picture at `index`, (height, width, C) uint8; None if it is not kept."""
        if self._path is None:
            return None
        if self._mapped is None:
            self._mapped = self._map(self._path)
        table, content = self._mapped
        height, width, begin = table[:, index].tolist()
        if height == 0:
            return None
        pixels: np.ndarray = content[begin : begin + height * width * self._channels]
        return pixels.reshape(height, width, self._channels)

    def _write(self, path: Path) -> None:
        where = "memory" if self._place == RAM else f"'{self._place}'"
        logger.info("data.cache: decoding %d pictures into %s", self._total, where)
        table = np.zeros((3, self._total), dtype=np.int64)
        most = _MOST_OF_MEMORY * _free_memory() if self._place == RAM else float("inf")
        with writing(f"data.cache: {path}"), path.open("r+b") as file:
            file.seek(_HEADER + table.nbytes)
            for i in range(self._total):
                pixels = self._picture(i)
                if pixels is not None:
                    table[:, i] = (*pixels.shape[:2], file.tell())
                    file.write(pixels.tobytes())
                    if file.tell() > most:
                        size = quantity(file.tell() * self._total / (i + 1), "bytes", 3)
                        found = f"the decoded pictures would take about {size} of memory, more than there is"
                        raise ConfigError("data.cache", found, remedy="name a folder, or remove it")
            end = file.tell()
            file.seek(0)
            header = {"format": _FORMAT, "images": self._total, "channels": self._channels, "bytes": end}
            file.write(json.dumps(header).encode().ljust(_HEADER))
            file.write(table.tobytes())

    def _picture(self, index: int) -> np.ndarray | None:
        """Decodes a picture; None if it is too large or cannot be read, which loading it will report."""
        try:
            picture = whole_picture(self._read(index), self._channels)
        except UnreadableError:
            return None
        if min(picture.size) // 2 >= self._most:
            return None
        return np.asarray(picture).reshape(picture.height, picture.width, self._channels)

    def _map(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the table (3, N) and the bytes of the whole file. Raises ConfigError if it is damaged."""
        content: np.ndarray = np.empty(0, dtype=np.uint8)
        with contextlib.suppress(OSError, ValueError):  # gone, or empty
            content = np.memmap(path, dtype=np.uint8, mode="c")  # "c": read-only, but torch accepts the arrays
        begin = _HEADER + 3 * 8 * self._total
        header = {"format": _FORMAT, "images": self._total, "channels": self._channels, "bytes": len(content)}
        if len(content) < begin or bytes(content[:_HEADER]).rstrip() != json.dumps(header).encode():
            raise ConfigError("data.cache", f"'{path}' is damaged", remedy="delete it; it is made anew")
        return np.array(content[_HEADER:begin]).view(np.int64).reshape(3, -1), content


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process after the other into the block, if the file system has locks."""
    with writing(f"data.cache {folder}"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _free_memory() -> int:
    """Returns the bytes of memory that programs may still take."""
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError), open("/proc/meminfo") as file:
        return int(next(line for line in file if line.startswith("MemAvailable:")).split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
