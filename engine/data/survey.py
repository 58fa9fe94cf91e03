"""Reads every image file of a set once and says what is in it: sizes, modes, unreadable files, copies."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from engine.data.parts import Parts
from engine.data.pictures import MOST_FILE_BYTES, UnreadableError, faults, formats, read_picture
from engine.data.readers import worker_count
from engine.errors import one_line
from engine.files import read_bytes
from engine.progress import Report, silent

_AHEAD = 4  # files for each thread that are begun before the first of them is needed
_TURNED = range(2, 9)  # orientations of the EXIF tag by which a picture is not upright
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file holds."""

    size: int
    """In bytes."""
    width: int = 0
    """In pixels, as stored: before an orientation tag is followed. 0 if the file cannot be read."""
    height: int = 0
    format: str = ""
    """Pillow's name of the format, such as JPEG."""
    mode: str = ""
    """Pillow's name of the kind of pixels, such as RGB, L or CMYK."""
    turned: bool = False
    """Whether an orientation tag turns or mirrors the picture."""
    frames: bool = False
    """Whether there is more than one frame or page, of which the first is read."""
    digest: bytes = b""
    """A checksum of the content; empty if it was not read."""
    fault: str = ""
    """Why the file cannot be read; empty if it can."""


Place = tuple[str, int]
"""A file: the use of its part (train, validation, test), and its index there."""


@dataclass(frozen=True)
class Survey:
    """What the files of a set hold."""

    parts: Parts
    facts: dict[str, list[FileFacts]] = field(repr=False)
    """The facts of each file, by the use of its part."""
    whole: bool
    """Whether the files were read to their end, and not their headers alone."""

    @property
    def unreadable(self) -> list[tuple[Place, str]]:
        """The files that cannot be read, each with the reason."""
        return [(place, facts.fault) for place, facts in self._each() if facts.fault]

    @property
    def modes(self) -> Counter[str]:
        """The number of files of each mode."""
        return Counter(facts.mode for _, facts in self._each() if not facts.fault)

    @property
    def formats(self) -> Counter[str]:
        """The number of files of each format."""
        return Counter(facts.format for _, facts in self._each() if not facts.fault)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height in pixels of each readable file."""
        return [(facts.width, facts.height) for _, facts in self._each() if not facts.fault]

    @property
    def turned(self) -> int:
        """The number of files with an orientation tag that turns or mirrors them."""
        return sum(facts.turned for _, facts in self._each())

    @property
    def with_frames(self) -> int:
        """The number of files with several frames or pages."""
        return sum(facts.frames for _, facts in self._each())

    @property
    def copies(self) -> list[list[Place]]:
        """The groups of files with the same content, those across parts first, then those across classes."""
        groups: defaultdict[bytes, list[Place]] = defaultdict(list)
        for place, facts in self._each():
            if facts.digest:
                groups[facts.digest].append(place)
        several = [group for group in groups.values() if len(group) > 1]
        return sorted(several, key=lambda group: (-len(self.parts_of(group)), -len(self.classes_of(group))))

    def parts_of(self, group: list[Place]) -> set[str]:
        """Returns the uses of the parts that files are in."""
        return {use for use, _ in group}

    def classes_of(self, group: list[Place]) -> set[int]:
        """Returns the classes of files."""
        return {int(self.parts.named[use].labels[index]) for use, index in group}

    def _each(self) -> Iterator[tuple[Place, FileFacts]]:
        for use, facts in self.facts.items():
            for index, one in enumerate(facts):
                yield (use, index), one


def survey(parts: Parts, *, whole: bool = True, workers: int | None = None, report: Report = silent) -> Survey:
    """Reads the files of all parts and returns what they hold.

    whole: reads and decodes each file to its end, as a training does; if False, only the headers are read, so that
    damage further in and copies are not found. workers: threads that read; None for as many as there are cores, at most
    16.
    """
    total = sum(map(len, parts.named.values()))
    threads = max(1, worker_count(workers))
    facts: dict[str, list[FileFacts]] = {}
    done = 0
    report("reading images", 0, total)
    # filters of warnings are global to the threads: what they leave behind is put back here
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        try:
            for use, part in parts.named.items():
                facts[use] = []
                paths = (part.path(index) for index in range(len(part)))
                waiting = [pool.submit(facts_of, path, whole=whole) for path in islice(paths, _AHEAD * threads)]
                while waiting:
                    facts[use].append(waiting.pop(0).result())
                    waiting += [pool.submit(facts_of, path, whole=whole) for path in islice(paths, 1)]
                    done += 1
                    report("reading images", done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Survey(parts, facts, whole)


def facts_of(path: str, *, whole: bool = True) -> FileFacts:
    """Returns what a file holds. whole: as in `survey`. Raises UserError if the system can open no further file."""
    size, digest = -1, b""
    try:
        size = os.stat(path).st_size
        if size == 0:
            return FileFacts(size, fault="is empty")
        source: str | io.BytesIO = path
        if whole:
            content = read_bytes(Path(path), "an image", UnreadableError, MOST_FILE_BYTES)
            digest, source = hashlib.blake2b(content, digest_size=16).digest(), io.BytesIO(content)
            read_picture(path, 3)
        with faults(), Image.open(source, formats=formats()) as image:
            turned = frames = False
            with contextlib.suppress(Exception):  # the metadata are damaged, but the picture is whole
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                frames = getattr(image, "is_animated", False) and image.format != "MPO"  # two views of one picture
            return FileFacts(size, *image.size, image.format or "", image.mode, turned, frames, digest)
    except UnreadableError as error:
        fault = str(UnreadableError(found=error.found, expected=error.expected))
    except OSError as error:
        fault = one_line(str(error), 200)
    return FileFacts(size, digest=digest, fault=fault)
