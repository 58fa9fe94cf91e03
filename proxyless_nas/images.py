"""Shows a set of images before it is used: what each class and part has, what is wrong, and some of the pictures."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from engine.config import ConfigFile
from engine.data import DataConfig, ImageSet, Item, Splits, open_images
from engine.data.folder import LAYOUTS, FolderImages
from engine.data.images import MAX_CORRUPT_SHARE
from engine.data.layout import holds_shards, undivided_layout
from engine.data.parts import Part, Parts
from engine.data.pictures import UnreadableError, read_picture
from engine.data.scan import class_folders, in_words
from engine.data.shards import ShardImages
from engine.data.survey import Place, Survey, survey
from engine.errors import ConfigError, one_line
from engine.files import as_path
from engine.nearest import nearest_path
from engine.progress import Report, silent
from engine.shipped import located
from engine.wording import shown
from proxyless_nas.views import Shown
from supernet import user_modules

MOST_NAMED = 20
"""The most unreadable files, and groups of copies, that are named one by one."""
MOST_ROWS, COLUMNS, SIDE = 20, 8, 96
"""The classes and the images of each in a picture, and the pixels of an image."""
IMBALANCED = 4
"""A set whose largest class has so many times the images of its smallest is said to be unbalanced."""
MODES = {
    "1": "black and white", "L": "grey", "LA": "grey, transparency", "P": "a palette", "PA": "a palette, transparency",
    "RGB": "colour", "RGBA": "colour, transparency", "CMYK": "printing colours", "I;16": "grey, 16 bits",
    "I": "grey, whole numbers", "F": "grey, floats",
}  # fmt: skip
"""Pillow's names of the kinds of pixels in words."""
USES = {"train": "trains", "validation": "selects the best epoch of a retraining", "test": "reports"}


class _DataFile(ConfigFile):
    """The section `data` of any configuration."""

    data: DataConfig
    """The images."""

    @classmethod
    def part_of(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in content.items() if key == "data"}


@dataclass(frozen=True)
class ShownImages(Shown):
    """What is known of a set of images. `print` shows the text, a notebook some of the pictures."""

    class_names: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    """The number of images of each class, by the use of their part: train, validation, test."""
    survey: Survey | None = field(default=None, repr=False)
    """What the files hold; None for a set in memory."""


def show_data(
    source: Path | str | Mapping[str, Any] | ConfigFile,
    *,
    quick: bool = False,
    overrides: Sequence[str] = (),
    report: Report = silent,
) -> ShownImages:
    """Shows a set of images: counts for each class and part, sizes, kinds of pixels, unreadable files, copies.

    source: a folder of images or shards, a CSV list, or a configuration with a section `data` (its file, its name or
    its content). overrides: changes of that section, such as `data.test=0.2`. quick: reads the headers of the files
    alone, so that damage further in and copies are not found. The picture has some images of each class. Raises
    ConfigError if a training could not use the data, except that a test part may be missing.
    """
    config, undivided = data_config(source, overrides)
    if config.module is None and config.name in LAYOUTS:
        parts = (LAYOUTS[config.name](config) if undivided is None else undivided_layout(undivided)).parts()
        return _of_files(config, parts, quick, report)
    splits = _opened(config)
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    packed = isinstance(splits.train, ShardImages)
    if isinstance(splits.train, FolderImages) and not packed:
        found = {
            use: Part(f"{use} images of {config.name}()", images.root, images.files, images.labels)
            for use, images in named.items()
            if isinstance(images, FolderImages)
        }
        parts = Parts(splits.class_names, found["train"], found.get("test"), found.get("validation"))
        return _of_files(config, parts, quick, report)
    sets = {use: images for use, images in named.items() if images is not None}
    counts = {use: np.bincount(i.labels, minlength=len(splits.class_names)).tolist() for use, i in sets.items()}
    where = "shards" if packed else "memory"
    lines = [f"{config.name}: {_total(counts)} images in {where}, {len(splits.class_names)} classes", ""]
    lines += [*_table(splits.class_names, counts), "", *_balance(splits.class_names, counts["train"], config)]
    png = _picture(splits.class_names, splits.train.labels, lambda i: _of_memory(splits.train, i))
    return ShownImages("\n".join(lines).rstrip(), png, splits.class_names, counts)


def data_config(source: object, overrides: Sequence[str]) -> tuple[DataConfig, Path | None]:
    """Returns the section `data` that a source stands for; and the folder of class folders if it is one without a test
    part."""
    if not isinstance(source, Path | str):
        if not isinstance(source, Mapping | ConfigFile):
            raise ConfigError("source", f"got {shown(source)}", "a folder, a CSV list or a configuration")
        content = dict(source) if isinstance(source, ConfigFile) else source
        return _DataFile.read(content, overrides).data, None
    path = as_path(source, "source")
    if holds_shards(path):
        return _DataFile.read({"data": {"name": "shards", "root": str(path)}}, overrides).data, None
    if path.is_dir():
        config = _DataFile.read({"data": {"name": "folder", "root": str(path)}}, overrides).data
        return config, _without_test(path) if config.name == "folder" and config.test is None else None
    if path.suffix.lower() == ".csv":
        return _DataFile.read({"data": {"name": "csv", "csv": str(path)}}, overrides).data, None
    if not path.exists() and (near := nearest_path(path)):
        expected = "a folder of images, a CSV list, or a configuration"
        raise ConfigError(str(path), "no such folder or file", expected, suggestion=near)
    return _DataFile.read(located(path), overrides).data, None


def _without_test(root: Path) -> Path | None:
    """Returns the folder of class folders in `root` if there are no test images; None if there are, or no classes."""
    folders = class_folders(root)
    if not {"train", "test", "val", "valid", "validation"} & folders.keys():
        return root if folders else None
    train = root / "train"
    return train if folders.keys() == {"train"} and class_folders(train) else None


def _opened(config: DataConfig) -> Splits:
    """Opens a set that is no list of files, at a size that is good to look at."""
    shape: dict[str, Any] = {"input_size": SIDE // 3, "classes": None, "call": user_modules.call}
    try:
        return open_images(config, channels=3, **shape)
    except ConfigError as error:
        if error.where != "space.input_channels":
            raise
    return open_images(config, channels=1, **shape)


def _of_files(config: DataConfig, parts: Parts, quick: bool, report: Report) -> ShownImages:
    found = survey(parts, whole=not quick, workers=config.workers, report=report)
    counts = {use: parts.counts(use).tolist() for use in parts.named}
    place = config.csv or (config.root if parts.test is not None else None) or parts.train.root
    lines = [f"{place}: {_total(counts)} images, {len(parts.class_names)} classes"]
    lines += [f"{use}: {part.name}, {len(part)} images; {USES[use]}" for use, part in parts.named.items()]
    if parts.test is None:
        lines.append("test: none; set data.test: 0.2 to hold out a fifth of each class, or make a folder test/")
    after = _balance(parts.class_names, counts["train"], config)
    after += [f"left out of {part.root}: {in_words(part.left_out)}" for part in parts.named.values() if part.left_out]
    after += [*parts.remarks, *_contents(found)]
    lines = [*map(one_line, lines), "", *_table(parts.class_names, counts), "", *map(one_line, after)]
    lines += _unreadable(found)
    lines += _copies(found) if found.whole else ["headers alone were read: damaged files and copies are not known"]
    faulty = {index for (use, index), _ in found.unreadable if use == "train"}
    png = _picture(
        parts.class_names,
        parts.train.labels,
        lambda index: None if index in faulty else _of_file(parts.train.path(index)),
    )
    return ShownImages("\n".join(lines), png, parts.class_names, counts, found)


def _total(counts: Mapping[str, Sequence[int]]) -> int:
    return sum(map(sum, counts.values()))


def _table(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Returns a line for each class with its images in each part, and the sums."""
    rows = [["class", *counts]]
    rows += [[one_line(name, 40), *(str(own[i]) for own in counts.values())] for i, name in enumerate(names)]
    sums = ["sum", *(str(sum(own)) for own in counts.values())]
    widths = [max(map(len, column)) for column in zip(*rows, sums, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:], ["-" * width for width in widths], sums]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _balance(names: Sequence[str], counts: Sequence[int], config: DataConfig) -> list[str]:
    """Returns a line about classes of different sizes, if they are."""
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    if counts[most] < IMBALANCED * counts[least]:
        return []
    remedy = f"data.balance is {config.balance}" if config.balance else "data.balance makes them count alike"
    several = f"'{names[most]}' has {counts[most]} training images, '{names[least]}' {counts[least]}"
    return [f"classes of different sizes: {several}; {remedy}"]


def _contents(found: Survey) -> list[str]:
    """Returns what the readable files hold, in lines."""
    if not found.sizes:
        return []
    lines = []
    widths, heights = zip(*found.sizes, strict=True)
    spans = [f"{min(s)} to {max(s)} (median {median(s):g})" for s in (widths, heights)]
    lines.append(f"pixels: width {spans[0]}, height {spans[1]}")
    lines.append(f"formats: {_counted(found.formats)}")
    modes = Counter({f"{mode} ({MODES[mode]})" if mode in MODES else mode: n for mode, n in found.modes.items()})
    lines.append(f"kinds of pixels: {_counted(modes)}")
    if found.turned:
        lines.append(f"turned by an orientation tag: {found.turned}")
    if found.with_frames:
        lines.append(f"several frames, of which the first is used: {found.with_frames}")
    return lines


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _name(found: Survey, place: Place) -> str:
    """Returns the path of a file, with the folder of its part."""
    use, index = place
    part = found.parts.named[use]
    return os.path.join(part.root.name, os.fsdecode(part.files[index]))


def _unreadable(found: Survey) -> list[str]:
    faults = found.unreadable
    if not faults:
        return ["unreadable files: none"]
    lines = [f"unreadable files: {len(faults)}"]
    lines += [f"  {one_line(_name(found, place))}: {fault}" for place, fault in faults[:MOST_NAMED]]
    lines += [f"  and {len(faults) - MOST_NAMED} more"] if len(faults) > MOST_NAMED else []
    for use, part in found.parts.named.items():
        count = sum(of == use for (of, _), _ in faults)
        if count > MAX_CORRUPT_SHARE * len(part):
            lines.append(f"  {one_line(part.name)} has more than the 1 % that a run accepts: repair or delete them")
    return lines


def _copies(found: Survey) -> list[str]:
    """Returns lines about files of the same content."""
    groups = found.copies
    if not groups:
        return ["files of the same content: none"]
    spare = sum(len(group) - 1 for group in groups)
    spare = sum(len(group) - 1 for group in groups)
    lines = [f"files of the same content: {spare} of {sum(map(len, found.facts.values()))} are copies of another"]
    across = [group for group in groups if len(found.parts_of(group)) > 1]
    leaked = sum(use == "test" for group in across for use, _ in group if "train" in found.parts_of(group))
    if across:
        lines.append(f"  pictures in several parts: {len(across)}")
    if leaked:
        lines.append(f"  test images that are trained on: {leaked}; they make the accuracy look better than it is")
    if clashing := sum(len(found.classes_of(group)) > 1 for group in groups):
        lines.append(f"  pictures in several classes: {clashing}; one of their labels is wrong")
    for group in groups[:MOST_NAMED]:
        lines.append(f"  {one_line(' = '.join(_name(found, place) for place in group[:4]))}"
                     f"{f' = {len(group) - 4} more' if len(group) > 4 else ''}")  # fmt: skip
    lines += [f"  and {len(groups) - MOST_NAMED} more pictures"] if len(groups) > MOST_NAMED else []
    return lines


def _of_file(path: str) -> Image.Image | None:
    try:
        return read_picture(path, 3)
    except UnreadableError:
        return None


def _of_memory(images: ImageSet, index: int) -> Image.Image:
    """Returns an image of a set in memory, from the input that a network gets."""
    preprocessing = images.preprocessing
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = images.load([Item(0, 0, index)], augment=False).images[0] * std + mean  # (C, S, S)
    colours = (255 * pixels).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    picture = Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _picture(names: Sequence[str], labels: np.ndarray, read: Callable[[int], Image.Image | None]) -> bytes:
    """Returns a PNG with a row of images for each class, at most MOST_ROWS, evenly from its sorted files.

    read: returns the image at an index of the set, None if it cannot be read.
    """
    rows = min(len(names), MOST_ROWS)
    canvas = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
    for row in range(rows):
        own = np.flatnonzero(labels == row).tolist()
        wanted = sorted({len(own) * i // COLUMNS for i in range(COLUMNS)}) if own else []
        for column, place in enumerate(wanted):
            picture = read(own[place])
            if picture is not None:
                small = picture.convert("RGB")
                small.thumbnail((SIDE - 4, SIDE - 4))
                left, top = ((SIDE - length) // 2 for length in small.size)
                canvas.paste(small, (column * SIDE + left, row * SIDE + top))
    figure = Figure(figsize=(COLUMNS + 2, rows + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.asarray(canvas))
    axes.set_xticks([])
    labelled = [one_line(name, 24).replace("$", r"\$") for name in names[:rows]]
    axes.set_yticks([SIDE * (row + 0.5) for row in range(rows)], labelled)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if rows < len(names):
        axes.set_title(f"the first {rows} of {len(names)} classes")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font lacks letters of a class name
        figure.savefig(content, format="png", dpi=SIDE)
    return content.getvalue()
