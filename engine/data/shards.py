"""Packs image files into a few large files, and reads single images from them.

    index.json          the names of the classes, and of each part its images, its table and its shards
    train.npz           the table of a part: where each image lies, in the order of the set
    train-000000.tar    a shard: 000017.jpg, 000017.cls, 000003.jpg, 000003.cls, ...

The number in a name is the place of the image in the set, in order of class and path, as in a folder; the `.cls` beside
it has the number of its class. Within the shards the images are shuffled, always in the same way, so that readers that
go through a shard from its beginning, such as WebDataset, see mixed classes. The bytes of all files depend on the
images and on the size of a shard alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from pydantic import Field

from engine.config import Section, validate
from engine.data.config import DataConfig
from engine.data.folder import AUGMENTATION_VERSION, FolderImages, recipe_of_photographs
from engine.data.images import FileList, Splits
from engine.data.layout import SHARD_INDEX
from engine.data.order import random_numbers
from engine.data.pictures import UnreadableError, content_of
from engine.data.preprocessing import Preprocessing
from engine.data.sources import check_classes
from engine.errors import Action, ConfigError, UserError
from engine.files import in_home, read_bytes, read_json, reason_of, replacing_folder, writing
from engine.nearest import nearest_path
from engine.progress import Report, reported, silent

INDEX = SHARD_INDEX
FORMAT = "proxylessnas/shards@1"
SHARD_BYTES = 256 << 20
"""The size of a shard if none is asked for."""
_PACKING_SEED = 0  # the images of a set are packed in the same order every time
_MOST_TABLE_BYTES = 4 << 30
_BLOCK = tarfile.BLOCKSIZE
_AGAIN = Action("data pack", ("FOLDER", "--out", "SHARDS"))


class _Shard(Section):
    file: str = Field(pattern=r"^[\w.-]+$", max_length=200)
    """Its name."""
    bytes: int = Field(ge=0)
    """Its size."""


class _Part(Section):
    images: int = Field(ge=0)
    """How many there are."""
    table: str = Field(pattern=r"^[\w.-]+$", max_length=200)
    """The file of its table."""
    sha256: str
    """The checksum of that file."""
    shards: tuple[_Shard, ...]
    """Its shards, in order."""


class _Index(Section):
    format: str
    """FORMAT."""
    classes: tuple[str, ...]
    """The names of the classes."""
    parts: dict[str, _Part]
    """`train`, `test`, and `validation` if the set has such images."""


class Table(NamedTuple):
    """Where the N images of a part lie: arrays (N,)."""

    names: np.ndarray
    """The paths of the files that were packed, below the folder of the part, as bytes."""
    labels: np.ndarray
    """Their classes, int64."""
    shards: np.ndarray
    """The numbers of their shards, int64."""
    offsets: np.ndarray
    """Where their bytes begin, int64."""
    sizes: np.ndarray
    """The numbers of their bytes, int64."""
    checksums: np.ndarray
    """The CRC-32 of their bytes, int64."""


@dataclass(frozen=True)
class Packed:
    """What was packed."""

    folder: Path
    images: int
    shards: int
    bytes: int


def pack(images: Splits, out: Path, *, size: int = SHARD_BYTES, report: Report = silent) -> Packed:
    """Packs the image files of a set into shards of at most `size` bytes, each of at least one image.

    out: a folder that does not exist yet, or an empty one; it gets its name when all is written. Files are packed as
    they are; one that cannot be decoded stays a member of the set. Raises UserError if `out` has files, if a file
    cannot be read, or if the system refuses to write.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}", "exists and is not empty", "a folder that does not exist yet", "choose another")
    parts: dict[str, FolderImages] = {}
    for name, part in (("train", images.train), ("validation", images.validation), ("test", images.test)):
        if part is None:
            continue
        if not isinstance(part, FolderImages):
            raise ConfigError("data.name", "is a set that is kept in memory", "image files, which can be packed")
        parts[name] = part
    with writing(f"--out {out}"), replacing_folder(out) as new:
        described = {name: _pack_part(name, part, new, size, report) for name, part in parts.items()}
        index = {"format": FORMAT, "classes": list(images.class_names), "parts": described}
        (new / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    shards = [shard for part in described.values() for shard in part["shards"]]
    return Packed(out, sum(map(len, parts.values())), len(shards), sum(shard["bytes"] for shard in shards))


def _pack_part(name: str, images: FolderImages, folder: Path, size: int, report: Report) -> dict[str, Any]:
    """Writes the shards and the table of a part, and returns its entry in the index."""
    total = len(images)
    places = np.zeros((4, total), dtype=np.int64)
    shards: list[dict[str, Any]] = []
    digits = max(6, len(str(max(0, total - 1))))
    order = random_numbers(_PACKING_SEED, 0).permutation(total).tolist()
    file: BinaryIO | None = None
    try:
        for i in reported(order, f"pack {name}", total, report):
            content = _content(images.path(i))
            label = str(images.labels[i]).encode()
            key = f"{i:0{digits}d}"
            members = [(f"{key}{_ending(images.path(i))}", content), (f"{key}.cls", label)]
            needed = sum(_BLOCK + _padded(len(data)) for _, data in members)
            if file is None or (file.tell() and file.tell() + needed + 2 * _BLOCK > size):
                _end(file, shards)
                shards.append({"file": f"{name}-{len(shards):06d}.tar", "bytes": 0})
                file = (folder / shards[-1]["file"]).open("wb")
            places[:, i] = (len(shards) - 1, file.tell() + _BLOCK, len(content), zlib.crc32(content))
            for member, data in members:
                header = tarfile.TarInfo(member)
                header.size = len(data)
                file.write(header.tobuf(tarfile.USTAR_FORMAT))
                file.write(data + bytes(_padded(len(data)) - len(data)))
        _end(file, shards)
    finally:
        if file is not None:
            file.close()
    table = Table(images.files, images.labels, *places)
    raw = io.BytesIO()
    np.savez_compressed(raw, **table._asdict())
    (folder / f"{name}.npz").write_bytes(raw.getvalue())
    checksum = hashlib.sha256(raw.getvalue()).hexdigest()
    return {"images": total, "table": f"{name}.npz", "sha256": checksum, "shards": shards}


def _end(file: BinaryIO | None, shards: list[dict[str, Any]]) -> None:
    """Writes the end of a tar file and closes it."""
    if file is not None:
        file.write(bytes(2 * _BLOCK))
        shards[-1]["bytes"] = file.tell()
        file.close()


def _content(path: str) -> bytes:
    try:
        return content_of(path)
    except UnreadableError as error:
        raise ConfigError.of(error, path) from None


def _padded(size: int) -> int:
    """Returns the bytes that a content takes in a tar file."""
    return -(-size // _BLOCK) * _BLOCK


def _ending(path: str) -> str:
    """Returns the ending of a member's name; WebDataset decodes by it."""
    ending = os.path.splitext(path)[1].lower()
    return ".jpg" if ending in (".jpeg", ".jpe", ".jfif") else ending


class ShardImages(FolderImages):
    """A set of N images in shards, in the order of the folder that was packed: the same batches as from that folder."""

    def __init__(self, root: Path, shards: tuple[str, ...], table: Table, preprocessing: Preprocessing, *, flip: bool):
        super().__init__(root, table.names, table.labels, preprocessing, flip=flip)
        self.shards = shards
        self.table = table

    def path(self, index: int) -> str:
        """Returns the path of the shard and the name of the file that was packed."""
        return f"{self._shard(index)}: {os.fsdecode(self.files[index])}"

    def _chosen(self, indices: np.ndarray, labels: np.ndarray) -> Self:
        table = Table(*(column[indices] for column in self.table))._replace(labels=labels)
        return type(self)(self.root, self.shards, table, self.preprocessing, flip=self.flip)

    def content(self) -> dict[str, Any]:
        """Returns a checksum of the names and contents of the files, as the index has them, their list, and the
        version of the augmentation."""
        digest = hashlib.sha256()
        for name, size, checksum in zip(self.files.tolist(), self.table.sizes, self.table.checksums, strict=True):
            digest.update(b"%d %d %d " % (len(name), size, checksum))
            digest.update(name)
        files = FileList(self.files, self.table.sizes, self.labels)
        version = {"version of the augmentation": AUGMENTATION_VERSION}
        return {"packed files": digest.hexdigest(), "files": files} | version

    def _shard(self, index: int) -> str:
        return os.path.join(self.root, self.shards[self.table.shards[index]])

    def _identity(self) -> str:
        return str(self.content()["packed files"])

    def _bytes(self, index: int) -> bytes:
        """Returns the bytes of an image. Raises ConfigError if the shard no longer has them."""
        shard, size = self._shard(index), int(self.table.sizes[index])
        try:
            descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
            try:
                content = os.pread(descriptor, size, int(self.table.offsets[index]))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError("data.root", f"'{shard}' cannot be read ({reason_of(error)})") from None
        if len(content) != size or zlib.crc32(content) != self.table.checksums[index]:
            found = f"'{shard}' is damaged: it does not have the bytes of '{os.fsdecode(self.files[index])}' any more"
            raise ConfigError("data.root", found, remedy="copy it again, or pack the images again", action=_AGAIN)
        return content


def open_shards(config: DataConfig, *, input_size: int, channels: int, classes: int | None) -> Splits:
    """Opens the shards in `data.root`. Raises ConfigError if they are incomplete, damaged or changed, and as
    `engine.data.open_images` does."""
    assert config.root is not None  # DataConfig requires it
    root = in_home(config.root)
    index = _index(root)
    if missing := sorted({"train", "test"} - index.parts.keys()):
        raise ConfigError("data.root", f"'{root / INDEX}' has no part {missing[0]}", "train and test")
    check_classes(config, len(index.classes), classes)
    recipe = recipe_of_photographs(channels)
    preprocessing = Preprocessing.of_files(input_size, recipe.mean, recipe.std)

    def images(name: str) -> ShardImages:
        part = index.parts[name]
        table = _table(root, part, len(index.classes))
        names = tuple(shard.file for shard in part.shards)
        return ShardImages(root, names, table, preprocessing, flip=recipe.flip)

    selecting = images("validation") if "validation" in index.parts else None
    return Splits(images("train"), images("test"), index.classes, selecting)


def open_test_shards(root: Path, preprocessing: Preprocessing, classes: int) -> tuple[ShardImages, tuple[str, ...]]:
    """Returns the test images in a folder of shards and the names of their classes; see
    `engine.data.evaluated.open_test_images`. Raises ConfigError, whose place is the root's path."""
    with _placed_at(root):
        index = check_test_shards(root, classes)
        part = index.parts["test"]
        names = tuple(shard.file for shard in part.shards)
        return ShardImages(root, names, _table(root, part, classes), preprocessing, flip=False), index.classes


def check_test_shards(root: Path, classes: int) -> _Index:
    """Returns the index of a folder of shards with test images of so many classes. Raises ConfigError, whose place is
    the root's path, if there is none."""
    with _placed_at(root):
        index = _index(root)
        if len(index.classes) != classes:
            accepted = f"{classes}, one for each class of the network"
            raise ConfigError("data.root", f"has {len(index.classes)} classes", accepted)
        if "test" not in index.parts:
            raise ConfigError("data.root", "has no test images", "shards with a part test")
        return index


@contextlib.contextmanager
def _placed_at(root: Path) -> Iterator[None]:
    """Puts the folder's path in the place of `data.root` in a ConfigError, where no configuration names it."""
    try:
        yield
    except ConfigError as error:
        raise error if error.where != "data.root" else error.at(str(root)) from None


def _index(root: Path) -> _Index:
    """Reads the index of a folder of shards. Raises ConfigError."""
    if not (root / INDEX).is_file():
        near = "" if root.is_dir() else nearest_path(root)
        found = f"no {INDEX} in '{root}'" if root.is_dir() else f"no folder '{root}'"
        remedy = "correct it, or pack a folder of images"
        raise ConfigError("data.root", found, "a folder of shards", remedy, suggestion=near, action=_AGAIN)
    record = read_json(root / INDEX, "the index of a folder of shards")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = f"'{root / INDEX}' is no index of shards of the format {FORMAT}"
        raise ConfigError("data.root", found, remedy="pack the images again", action=_AGAIN)
    return validate(_Index, record, str(root / INDEX))


def _table(root: Path, part: _Part, classes: int) -> Table:
    """Reads the table of a part, and compares the sizes of its shards. Raises ConfigError if anything differs."""
    again = "copy the whole folder again, or pack the images again"
    for shard in part.shards:
        try:
            size = os.stat(root / shard.file).st_size
        except OSError as error:
            found = f"no shard '{root / shard.file}' ({reason_of(error)})"
            raise ConfigError("data.root", found, remedy=again, action=_AGAIN) from None
        if size != shard.bytes:
            found, accepted = f"'{root / shard.file}' has {size} bytes", f"{shard.bytes} by {INDEX}"
            raise ConfigError("data.root", found, accepted, again, action=_AGAIN)
    raw = read_bytes(root / part.table, "the table of a part", most=_MOST_TABLE_BYTES)
    if hashlib.sha256(raw).hexdigest() != part.sha256:
        found = f"'{root / part.table}' is not the table that {INDEX} was written with"
        raise ConfigError("data.root", found, remedy=again, action=_AGAIN)
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        table = Table(*(arrays[name] for name in Table._fields))
    fitting = all(column.shape == (part.images,) for column in table) and all(_consistent(table, part, classes))
    if not fitting:
        found = f"'{root / part.table}' does not describe the shards of {INDEX}"
        raise ConfigError("data.root", found, remedy=again, action=_AGAIN)
    return table


def _consistent(table: Table, part: _Part, classes: int) -> Iterator[bool]:
    """Yields whether the columns are sorted and in range."""
    yield bool((np.diff(table.labels) >= 0).all())
    yield bool(((table.labels >= 0) & (table.labels < classes)).all())
    yield bool(((table.shards >= 0) & (table.shards < len(part.shards))).all())
    ends = np.array([shard.bytes for shard in part.shards] or [0], dtype=np.int64)
    yield bool(((table.offsets >= 0) & (table.sizes >= 0)).all())
    yield bool((table.offsets + table.sizes <= ends[table.shards]).all() if part.images else True)
