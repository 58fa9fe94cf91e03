"""Finds the parts of a set that a CSV list names: a row for each image, with path, label and perhaps part."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.config import DataConfig
from engine.data.layout import VALIDATION_FOLDERS, Layout
from engine.data.parts import Part, Parts, held_out
from engine.errors import ConfigError
from engine.files import in_home, read_text
from engine.nearest import nearest
from engine.wording import in_a_row

MOST_BYTES = 1 << 30
SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(VALIDATION_FOLDERS, "validation")
"""The words of the column split, and the part that each means."""
_NUMBER = re.compile(r"\d{1,18}")


class _Rows:
    """The images of a list: for each its path below the root, its label, its part, and the line that names it."""

    def __init__(self, file: Path, root: Path):
        self.file, self.root = file, root
        self.by_path: dict[str, tuple[str, str, int]] = {}
        """Maps each path to (label, part, line)."""
        self.left_out: Counter[str] = Counter()
        self.absent: list[tuple[int, str]] = []
        self._real_root = os.path.realpath(root)
        self._real_folders: dict[str, str] = {}
        self._linked: dict[str, str] = {}
        """Maps the real path of each file that links lead to, as `_below` writes it, to the path that named it."""

    def add(self, line: int, path: str, label: str, part: str) -> None:
        """Takes a row. Raises ConfigError if another row gives the same file another label or part."""
        path = _below(path, self.root)
        real = path if path in self.by_path else self._real(path)
        other = path if path in self.by_path else self._linked.get(real, real)
        known = self.by_path.get(other)
        if known is not None:
            if known[:2] != (label, part):
                first, second = (f"'{label}' in {part}" for label, part in (known[:2], (label, part)))
                name = f"'{path}'" if other == path else f"one file, '{other}' and '{path}'"
                found = f"lines {known[2]} and {line} name {name}, as {first} and as {second}"
                raise ConfigError(str(self.file), found, "one label and one split for each file", "remove one of them")
            self.left_out["rows that repeat another"] += 1
            return
        self.by_path[path] = (label, part, line)
        if real != path:
            self._linked[real] = path
        if not os.path.isfile(os.path.join(self.root, path)):
            self.absent.append((line, path))

    def _real(self, path: str) -> str:
        """Returns the path of the file that `path` leads to, as `_below` writes it: itself unless links are on the
        way."""
        folder, name = os.path.split(os.path.join(self.root, path))
        if folder not in self._real_folders:  # once for each: a list names millions of files in few folders
            self._real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._real_folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return _below(real, Path(self._real_root))


def listed_layout(config: DataConfig) -> Layout:
    """Returns the layout of `csv`, a list of files. Raises ConfigError as `engine.data.open_images` does.

    The classes are the labels, sorted as numbers if all are whole numbers, else as text. Without a column split,
    `data.test` holds out a share of each class.
    """
    assert config.csv is not None  # DataConfig requires it
    file = in_home(config.csv)
    rows, has_splits = _read(file, in_home(config.root) if config.root else file.parent)
    labels = {label for label, _, _ in rows.by_path.values()}
    numbers = all(map(_NUMBER.fullmatch, labels))
    names = tuple(sorted(labels, key=lambda label: (int(label) if numbers else 0, label)))  # 01 and 1 are two labels
    found = {part for _, part, _ in rows.by_path.values()}
    if "train" not in found:
        raise ConfigError(str(file), "has no image whose split is train", "some to train on", "add them")
    if config.test is not None and "test" in found:
        remedy = "remove data.test" if has_splits else "remove it"
        raise ConfigError("data.test", f"got {config.test:g}, but '{file}' has test images", remedy=remedy)
    if config.test is None and found == {"train"}:
        lacks = "no image whose split is test or val" if has_splits else "no column split"
        remedy = "set data.test: 0.2, which holds out a fifth of each class, or add test images"
        raise ConfigError(str(file), f"has {lacks}", "test images", remedy)
    _refuse_classes_without_training(file, rows, names)

    def parts() -> Parts:
        by_use = {use: _part(rows, use, names) for use in ("train", "validation", "test") if use in found}
        train, test, validation = by_use["train"], by_use.get("test"), by_use.get("validation")
        if config.test is not None:
            train, test = held_out(train, config.test, names)
        elif test is None:
            test, validation = validation, None
        return Parts(names, train, test, validation)

    return Layout(names, parts)


def _read(file: Path, root: Path) -> tuple[_Rows, bool]:
    """Returns the rows of a list, and whether it has a column split. Raises ConfigError for whatever is wrong with it,
    with the line and the number of other lines with the same fault."""
    text = read_text(file, "a list of images: a CSV file with the columns path and label", most=MOST_BYTES)
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: _Rows | None = None
    columns: dict[str, int] = {}
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if rows is None:
                columns, rows = _columns(file, cells), _Rows(file, root)
                continue
            line = reader.line_num
            if len(cells) <= max(columns.values()):
                found = f"line {line} has {len(cells)} cells, too few for its columns {', '.join(columns)}"
                raise ConfigError(str(file), found, remedy="correct it")
            path, label = cells[columns["path"]], unicodedata.normalize("NFC", cells[columns["label"]])
            if not path or not label:
                found = f"line {line} has no {'label' if path else 'path'}"
                raise ConfigError(str(file), found, "both in every row", "add it, or remove the row")
            if "\0" in path:
                raise ConfigError(str(file), f"line {line}: the path has a NUL character, which no file name has")
            word = cells[columns["split"]].lower() if "split" in columns else "train"
            if word not in SPLITS:
                raise ConfigError(
                    str(file),
                    f"line {line}: got split '{word}'",
                    in_a_row([*SPLITS]),
                    suggestion=nearest(word, [*SPLITS]),
                )
            rows.add(line, path, label, SPLITS[word])
    except csv.Error as error:
        raise ConfigError(str(file), f"line {reader.line_num} is no row of a CSV file ({error})") from None
    if rows is None or not rows.by_path:
        raise ConfigError(str(file), "names no image", "a header, and a row for each image")
    if rows.absent:
        (line, path), count = rows.absent[0], len(rows.absent)
        found = f"{count} of {len(rows.by_path)} files do not exist (first: '{path}' of line {line})"
        remedy = "correct data.root or the list"
        raise ConfigError(str(file), found, f"paths below '{root}' or absolute ones", remedy)
    return rows, "split" in columns


def _columns(file: Path, cells: Sequence[str]) -> dict[str, int]:
    """Returns the place of each column that is read. Raises ConfigError if one is missing or there twice."""
    names = [cell.lower() for cell in cells]
    for name in ("path", "label"):
        if name not in names:
            found = f"has no column '{name}', only {', '.join(map(repr, cells[:10]))}"
            expected = "a header in the first line with path, label and perhaps split"
            raise ConfigError(str(file), found, expected, f"name the column '{name}'")
    wanted = [name for name in ("path", "label", "split") if name in names]
    for name in wanted:
        if names.count(name) > 1:
            raise ConfigError(str(file), f"has {names.count(name)} columns '{name}'", "one", "rename the others")
    return {name: names.index(name) for name in wanted}


def _below(path: str, root: Path) -> str:
    """Returns a path as it is kept: relative to `root` if it lies there, without dots and doubled slashes."""
    if os.sep == "/" and "\\" in path and not os.path.lexists(os.path.join(root, path)):
        path = path.replace("\\", "/")  # written on Windows
    path = os.path.normpath(path)
    if not path.isascii() and not os.path.lexists(os.path.join(root, path)):  # macOS writes accents as characters
        others = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
        path = next((other for other in others if os.path.lexists(os.path.join(root, other))), path)
    above = os.path.join(os.path.normpath(root), "")
    if os.path.isabs(path) and path.startswith(above):
        path = path[len(above) :]
    return path


def _refuse_classes_without_training(file: Path, rows: _Rows, names: Sequence[str]) -> None:
    """Raises ConfigError if a label has no training image, or if there is a single one."""
    trained = {label for label, part, _ in rows.by_path.values() if part == "train"}
    if lacking := [name for name in names if name not in trained]:
        line = next(line for label, _, line in rows.by_path.values() if label == lacking[0])
        found = f"{len(lacking)} of {len(names)} labels have no training image (first: '{lacking[0]}' of line {line})"
        raise ConfigError(str(file), found, remedy="add training images, or correct the label")


def _part(rows: _Rows, use: str, names: Sequence[str]) -> Part:
    """Returns the files of one part of the list, sorted by class, then by path."""
    place = {name: i for i, name in enumerate(names)}
    own = [(place[label], os.fsencode(path)) for path, (label, part, _) in rows.by_path.items() if part == use]
    own.sort()
    files = np.array([path for _, path in own], dtype=bytes)
    left_out = rows.left_out if use == "train" else {}  # of the whole list, counted once
    return Part(
        f"{use} of {rows.file.name}", rows.root, files, np.array([label for label, _ in own], dtype=np.int64), left_out
    )
