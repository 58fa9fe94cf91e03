"""Finds the images in a folder of classes, each real file once.

Every regular file is taken whose ending belongs to a format that is read, at any depth below its class folder; links
are followed. Other files, hidden files, files that operating systems put into folders, and links that lead to nothing,
to a folder above, or to a file that the class has already, are left out, and counted by kind.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.data.pictures import extensions
from engine.errors import ConfigError
from engine.files import reason_of

# Folders and files of network drives, archives, wastebaskets and previews, in lower case. Hidden ones begin with a dot.
_OF_THE_SYSTEM = {
    *("@eadir", "@tmp", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found", "$recycle.bin"),
    *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
_MOST_KINDS = 8
"""The most kinds of files left out that a warning names; further kinds are counted together."""


def class_folders(part: Path) -> dict[str, str]:
    """Returns the name of each class, sorted, and its folder's name in `part`.

    A class has its name in Unicode's composed form (NFC): macOS writes an accented letter as two characters, other
    systems as one. Bytes that are no UTF-8, as archives of other systems leave them, are escaped (`caf\\xe9`). Raises
    ConfigError if two folder names differ in nothing else.
    """
    folders: dict[str, str] = {}
    above = os.path.realpath(part)
    for entry in _entries(str(part)):
        if _is_foreign(entry.name) or not _leads_to(entry, folder=True):
            continue
        if entry.is_symlink() and _contains(os.path.realpath(entry.path), above):
            continue
        name = unicodedata.normalize("NFC", os.fsencode(entry.name).decode(errors="backslashreplace"))
        if name in folders:
            raise ConfigError(
                "data.root",
                f"the folders {folders[name]!a} and {entry.name!a} of '{part}' are the same name ('{name}') written "
                "with other characters",
                remedy="put their images into one",
            )
        folders[name] = entry.name
    return dict(sorted(folders.items()))


class Scanned(NamedTuple):
    """The images that were found: files (N,), bytes relative to the part; labels (N,) int64; and what was left out,
    counted by kind."""

    files: np.ndarray
    labels: np.ndarray
    left_out: Counter[str]


def image_files(part: Path, folders: Sequence[str]) -> Scanned:
    """Returns all images below each class folder, sorted by class, then by path.

    Raises ConfigError if a class has no image, if a file is of two classes through links, or if a folder cannot be
    read.
    """
    left_out = _beside(part, folders)
    classes = [_Class(str(part), folder) for folder in folders]
    for one in classes:
        one.walk()
        if not one.files:
            others = f" but other things: {in_words(one.left_out)}" if one.left_out else ""
            raise ConfigError(
                "data.root",
                f"class folder '{part / one.name}' has no image{others}",
                "files that end in .jpg, .png, .webp, .tif or as another format that Pillow decodes",
                "add or convert images, or remove the folder from every part",
            )
        left_out += one.left_out
    _refuse_shared(part, classes)
    files = [file for one in classes for file in sorted(map(os.fsencode, one.files))]
    labels = [label for label, one in enumerate(classes) for _ in one.files]
    return Scanned(np.array(files, dtype=bytes), np.array(labels, dtype=np.int64), left_out)


def all_image_files(part: Path) -> tuple[np.ndarray, Counter[str]]:
    """Returns all images below a folder whatever lies between, (N,) bytes relative to it, sorted, and what was left
    out, counted by kind. Raises ConfigError if a folder cannot be read."""
    whole = _Class(str(part), "")
    whole.walk()
    return np.array(sorted(map(os.fsencode, whole.files)), dtype=bytes), whole.left_out


@dataclass
class _Class:
    """The files of one class, which `walk` finds; paths are relative to the part."""

    part: str
    name: str
    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    real_folders: dict[str, str] = field(default_factory=dict)
    """The real path of each folder that was entered."""
    linked: dict[str, str] = field(default_factory=dict)
    """The real path of each file that is a link."""
    met_links: bool = False

    def walk(self) -> None:
        """Goes through plain folders first, since the target of a link may lie in one of them."""
        top = os.path.join(self.part, self.name)
        real_top = os.path.realpath(top)
        self.met_links = os.path.islink(top)
        entered, folders, links = {real_top}, [(self.name, real_top)], deque[tuple[str, str]]()
        taken: set[str] | None = None  # real paths, filled at the first link

        def take(file: str, real: str) -> None:
            ending = os.path.splitext(file)[1].lower()
            if ending not in extensions():
                self.left_out[f"files ending in {ending}" if ending else "files without an ending"] += 1
            elif taken is not None and real in taken:
                self.left_out["links to what the class has already"] += 1
            else:
                self.files.append(file)
                if taken is not None:
                    taken.add(real)

        while folders or links:
            if folders:
                folder, real = folders.pop()
                self.real_folders[folder] = real
                for entry in _entries(os.path.join(self.part, folder)):
                    path, inside = os.path.join(folder, entry.name), os.path.join(real, entry.name)
                    if _is_foreign(entry.name):
                        self.left_out[_kind_of_foreign(entry)] += 1
                    elif entry.is_symlink():
                        links.append((path, real))
                    elif _leads_to(entry, folder=True):
                        if inside not in entered:
                            entered.add(inside)
                            folders.append((path, inside))
                    elif _leads_to(entry, folder=False):
                        take(path, inside)
                    else:
                        self.left_out["devices, pipes or sockets"] += 1
                continue
            if taken is None:
                self.met_links, taken = True, set(self.real_paths())
            link, real = links.popleft()
            path = os.path.join(self.part, link)
            target = os.path.realpath(path)
            if os.path.isdir(path):
                if _contains(target, real_top) or _contains(target, real):
                    self.left_out["links to a folder above"] += 1
                elif target in entered:
                    self.left_out["links to what the class has already"] += 1
                else:
                    entered.add(target)
                    folders.append((link, target))
            elif os.path.isfile(path):
                self.linked[link] = target
                take(link, target)
            else:
                self.left_out["links to nothing"] += 1

    def real_paths(self) -> dict[str, str]:
        """Returns {real path: path} of the files."""
        return {self._real_path(file): file for file in self.files}

    def _real_path(self, file: str) -> str:
        folder, name = os.path.split(file)
        return self.linked.get(file) or os.path.join(self.real_folders[folder], name)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Returns what a folder holds, by name. Raises ConfigError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found = f"the folder '{folder}' cannot be read ({reason_of(error)})"
        raise ConfigError("data.root", found, remedy="make it readable, or remove it") from None


def _leads_to(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Returns whether an entry, or the target of a link, is a folder (`folder`) or a regular file."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:  # a loop of links
        return False


def _contains(folder: str, inside: str) -> bool:
    """Returns whether `inside` is `folder` or lies below it; both are real paths."""
    return inside == folder or inside.startswith(folder.rstrip(os.sep) + os.sep)


def _is_foreign(name: str) -> bool:
    """Returns whether a name is hidden, or one that operating systems give to folders and files of their own."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def _kind_of_foreign(entry: os.DirEntry[str]) -> str:
    """Returns the kind under which a foreign entry is counted in the warning."""
    if _leads_to(entry, folder=True):
        return f"folders called {entry.name}"
    return "hidden files" if entry.name.startswith(".") else "system files"


def _beside(part: Path, folders: Sequence[str]) -> Counter[str]:
    """Counts what lies in `part` beside its class folders."""
    left_out: Counter[str] = Counter()
    for entry in _entries(str(part)):
        if _is_foreign(entry.name):
            left_out[_kind_of_foreign(entry)] += 1
        elif entry.name not in folders:
            is_folder = _leads_to(entry, folder=True)  # this folder is a link: other folders are classes
            left_out["links to a folder above" if is_folder else "files outside the class folders"] += 1
    return left_out


def _refuse_shared(part: Path, classes: Sequence[_Class]) -> None:
    """Raises ConfigError if a file belongs to two classes, which only a link can cause."""
    if not any(one.met_links for one in classes):
        return
    owners: dict[str, str] = {}
    for one in classes:
        for real, file in one.real_paths().items():
            if real in owners:
                found = f"'{part / owners[real]}' and '{part / file}' are one file in two classes, through a link"
                raise ConfigError("data.root", found, remedy="remove the link")
            owners[real] = file


def in_words(left_out: Mapping[str, int]) -> str:
    """Returns the kinds with their numbers, the most frequent ones first."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{kind} ({count})" for kind, count in kinds[:_MOST_KINDS]]
    if more := kinds[_MOST_KINDS:]:
        words.append(f"other kinds ({sum(count for _, count in more)})")
    return ", ".join(words)
