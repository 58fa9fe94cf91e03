"""Defines what is found of a set of image files before any is read: its parts, and a fixed choice of test images."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engine.data.scan import in_words
from engine.errors import ConfigError, one_line

logger = logging.getLogger("engine.data")
summary = logging.getLogger("engine.found")
"""Logs what all processes of a run find alike, so that the first one alone logs it."""
MOST_CLASSES = 20
"""The most classes of which the log has the number of images."""

_NUMBER = re.compile(r"0*([0-9]+)(?:\.0*)?")


@dataclass(frozen=True)
class Part:
    """The files of one part of a set."""

    name: str
    """The part in words, such as `train/`."""
    root: Path
    files: np.ndarray
    """Paths below `root`, or absolute ones, (N,) bytes, sorted by class, then by path."""
    labels: np.ndarray
    """The class of each file, (N,) int64."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What was left out, counted by kind."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        """Returns the path of the file at `index`."""
        return os.path.join(self.root, os.fsdecode(self.files[index]))

    def of(self, chosen: np.ndarray, name: str) -> Part:
        """Returns the part of the files at the indices `chosen`, sorted; what was left out stays with the whole."""
        return replace(self, name=name, files=self.files[chosen], labels=self.labels[chosen], left_out={})


@dataclass(frozen=True)
class Parts:
    """The parts of a set of image files."""

    class_names: tuple[str, ...]
    """The name of class i at position i."""
    train: Part
    test: Part | None
    """The part on which results are reported. None if the set has none and none is asked for."""
    validation: Part | None = None
    """The part on which a retraining selects its best epoch, if the set has one beside `test`."""
    notes: tuple[str, ...] = ()
    """What is left out beside the files in the parts, a sentence each."""

    @property
    def named(self) -> dict[str, Part]:
        """The parts that there are, by their use: train, validation, test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {use: part for use, part in parts.items() if part is not None}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and a sentence about classes that may be one, written in two ways."""
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.class_names:
            groups[_as_number(as_it_looks(name))].append(name)
        pairs = [group for group in groups.values() if len(group) > 1]
        if not pairs:
            return self.notes
        which = " and ".join(f"'{name}'" for name in pairs[0][:2])
        more = f" (and {len(pairs) - 1} others)" if len(pairs) > 1 else ""
        found = f"the classes {which}{more} differ in capitals, spaces or zeros alone"
        return (*self.notes, f"{self.train.root}: {found}; if they are one, give it one name")

    def in_words(self) -> list[str]:
        """Returns what each part is for, and how many images each class has: all classes, or the smallest and the
        largest if there are many."""
        uses = {"train": "to train", "validation": "to select", "test": "to test"}
        each = [
            f"{len(part)} image{'s' * (len(part) > 1)} {uses[use]} ({part.name})" for use, part in self.named.items()
        ]
        counts = {use: self.counts(use) for use in self.named}
        names = self.class_names
        if len(names) <= MOST_CLASSES:
            shown = [f"{name} {'+'.join(str(own[i]) for own in counts.values())}" for i, name in enumerate(names)]
            classes = ", ".join(shown)
        else:
            least, most = (int(choice(counts["train"])) for choice in (np.argmin, np.argmax))
            own = counts["train"]
            classes = f"{own[least]} ('{names[least]}') to {own[most]} ('{names[most]}') to train in each"
        return [", ".join(each), f"{len(names)} classes: {classes}"]

    def counts(self, use: str) -> np.ndarray:
        """Returns the number of images of each class in a part, (classes,)."""
        return np.bincount(self.named[use].labels, minlength=len(self.class_names))

    def log(self) -> None:
        """Logs what was found, and what was left out."""
        for line in self.in_words():
            summary.info("%s: %s", self.train.root, one_line(line))
        self.log_left_out()

    def log_left_out(self) -> None:
        """Logs a warning for each part of which files were left out, and one for each remark."""
        for part in self.named.values():
            if part.left_out:
                logger.warning("%s", one_line(f"{part.root}: left out {in_words(part.left_out)}"))
        for note in self.remarks:
            logger.warning("%s", one_line(note))


def as_it_looks(name: str) -> str:
    """Returns a form of a name that is equal for names that look the same."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _as_number(name: str) -> str:
    """Returns a name without zeros that do not change it if it is a number, such as 1 for 01 and 1.0."""
    number = _NUMBER.fullmatch(name)
    return number[1] if number else name


def held_out(part: Part, share: float, class_names: tuple[str, ...]) -> tuple[Part, Part]:
    """Divides a part into training and test images: returns (the rest, the part held out).

    Of each class with n images, round(share * n) are held out, at least one and at most n - 1: those whose names come
    first in the order of their SHA-256. So the choice depends on the share and on the names alone, on no seed and no
    machine, and a further image moves at most one other image of its class from one part to the other: the chosen k of
    a class become k or k + 1, the new image is one of them or not, and the order of the others stays. Raises
    ConfigError if a class has a single image.
    """
    ranks = np.array([_rank(name) for name in part.files.tolist()])
    chosen = []
    for label, name in enumerate(class_names):
        own = np.flatnonzero(part.labels == label)
        if len(own) < 2:
            found = f"class '{name}' has {len(own)} image in {part.name}"
            raise ConfigError("data.test", found, "at least 2, one to train on and one to test on", "add images")
        count = min(max(1, int(share * len(own) + 0.5)), len(own) - 1)
        chosen.append(own[np.argsort(ranks[own], kind="stable")[:count]])
    test = np.sort(np.concatenate(chosen))
    kept = np.setdiff1d(np.arange(len(part)), test, assume_unique=True)
    rest = replace(part.of(kept, f"{100 - 100 * share:.3g} % of {part.name}"), left_out=part.left_out)
    return rest, part.of(test, f"{100 * share:.3g} % of {part.name}")


def _rank(name: bytes) -> bytes:
    """Returns the key by which the files of a class are ordered. An accented letter counts the same however the system
    writes it (macOS: two characters)."""
    text = unicodedata.normalize("NFC", os.fsdecode(name).replace(os.sep, "/"))
    return hashlib.sha256(os.fsencode(text)).digest()
