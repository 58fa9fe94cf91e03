"""Shards give the batches of the folder that they were made of, or one clear line."""

import fcntl
import gc
import hashlib
import json
import os
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.data import BatchStream, DataConfig, Item, evaluation_batches, open_images, stratified_split, subset
from engine.data import shards as module
from engine.data.evaluated import check_test_images, open_test_images
from engine.data.preprocessing import Preprocessing
from engine.data.shards import INDEX, pack
from engine.errors import ConfigError, UserError
from tests.engine.image_folder import cut_off, write_images

SIZE = 1 << 14  # a few images


def opened(name, root):
    return open_images(DataConfig(name=name, root=root), input_size=8, channels=3, classes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 training images, one of them damaged, and two endings."""
    root = write_images(tmp_path_factory.mktemp("images"), per_class=60)
    cut_off(root / "train" / "class1" / "007.png")
    (root / "train" / "class0" / "003.png").rename(root / "train" / "class0" / "003.JPEG")
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(opened("folder", folder), out, size=SIZE)
    return out


@pytest.fixture
def copied(packed, tmp_path):
    """Shards to damage."""
    out = tmp_path / "shards"
    out.mkdir()
    for path in packed.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def equal(first, second):
    return all(
        a.images.equal(b.images) and a.labels.equal(b.labels) and a.corrupt == b.corrupt
        for a, b in zip(first, second, strict=True)
    )


def test_a_network_without_a_configuration_is_evaluated_on_shards_as_on_their_folder(folder, packed, copied):
    """The images are opened as `evaluate --path`, `compare --path` and `export --images` open them."""
    preprocessing = Preprocessing.of_files(8, (0.4,) * 3, (0.2,) * 3)
    (ours, names), (theirs, same) = (open_test_images(root, preprocessing, 2) for root in (packed, folder))
    assert names == same == ("class0", "class1")
    assert equal(evaluation_batches(ours, 7, 0), evaluation_batches(theirs, 7, 0))
    with pytest.raises(ConfigError, match=r"shards: has 2 classes, expected 3, one for each class of the network"):
        check_test_images(packed, 3)
    index = json.loads((copied / INDEX).read_text())
    del index["parts"]["test"]
    (copied / INDEX).write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"shards: has no test images"):
        check_test_images(copied, 2)
    (copied / INDEX).write_text("{}")
    with pytest.raises(ConfigError, match=r"index.json' is no index of shards"):
        open_test_images(copied, preprocessing, 2)


@pytest.mark.parametrize("own", [("class1", "class0"), ("class0", "other"), None])
def test_labels_follow_the_order_of_a_networks_classes(own, folder, packed, caplog):
    """If they are the same classes; otherwise they stay, and whoever evaluates compares the names."""
    preprocessing = Preprocessing.of_files(8, (0.4,) * 3, (0.2,) * 3)
    for root in (folder, packed):
        plain, _ = open_test_images(root, preprocessing, 2)
        images, names = open_test_images(root, preprocessing, 2, own)
        same = own == ("class1", "class0")
        assert names == (own if same else ("class0", "class1"))
        assert (np.diff(images.labels) >= 0).all()
        counts = {images.path(i): names[label] for i, label in enumerate(images.labels)}
        assert counts == {plain.path(i): f"class{label}" for i, label in enumerate(plain.labels)}
        item = [Item(0, 0, 0)]
        assert same != images.load(item, augment=False).images.equal(plain.load(item, augment=False).images)
    assert caplog.text.count("does not say how its classes are called") == (4 if own is None else 2)


def test_class_folders_that_are_numbers_are_in_the_order_of_numbers(tmp_path, caplog):
    """A network of 11 classes that are not named has class 2 third, not after 10."""
    write_images(tmp_path, 1, classes=11, parts=["val"])
    for i in range(11):
        (tmp_path / "val" / f"class{i}").rename(tmp_path / "val" / str(i))
    images, names = open_test_images(tmp_path, Preprocessing.of_files(8, (0.4,) * 3, (0.2,) * 3), 11)
    assert names == tuple(map(str, range(11)))
    assert [Path(images.path(i)).parent.name for i in range(11)] == [*names]
    assert images.labels.tolist() == [*range(11)]
    assert not caplog.text


def test_shards_in_the_place_of_a_folder_are_named(packed):
    with pytest.raises(ConfigError, match=r"data.name: got 'folder', but '.*' holds shards, expected shards"):
        opened("folder", packed)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_batches_of_their_folder(folder, packed, workers):
    """The test compares training batches over more than an epoch, from any step on, in each of two processes; those of
    an evaluation; and those of a part of the set."""
    ours, theirs = opened("shards", packed), opened("folder", folder)
    assert ours.class_names == theirs.class_names
    for settings in ({}, {"start": 13}, {"rank": 1, "world_size": 2}):
        streams = [
            BatchStream(splits.train, batch_size=16, seed=3, workers=workers, **settings) for splits in (ours, theirs)
        ]
        batches = [list(islice(stream, 12)) for stream in streams]
        assert equal(*batches)
        assert streams[0].corrupt == streams[1].corrupt
        for stream in streams:
            stream.close()
    for part in ("train", "test"):
        assert equal(*(evaluation_batches(getattr(splits, part), 7, workers) for splits in (ours, theirs)))
    kept, _ = stratified_split(theirs.train.labels, 0.4, seed=1)
    halves = [subset(splits.train, kept) for splits in (ours, theirs)]
    assert equal(*(evaluation_batches(half, 16, 0) for half in halves))
    for splits in (ours, theirs):
        splits.train.readers.close()
        splits.test.readers.close()


def test_a_shard_is_read_by_any_reader_of_tar_files(folder, packed):
    """WebDataset's way of reading gives what was packed: neighbours of one name, mixed classes, the content of each
    file and its class."""
    index = json.loads((packed / INDEX).read_text())
    assert index["classes"] == ["class0", "class1"]
    shards = index["parts"]["train"]["shards"]
    assert len(shards) > 5
    files = sorted((folder / "train").rglob("*.*"))
    assert len(files) == 120
    seen, labels = [], []
    for shard in shards:
        path = packed / shard["file"]
        assert path.stat().st_size == shard["bytes"] <= SIZE
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
            for image, label in zip(members[::2], members[1::2], strict=True):
                key, ending = image.name.split(".")
                assert label.name == f"{key}.cls"
                path = files[int(key)]
                assert tar.extractfile(image).read() == path.read_bytes()
                assert ending == ("jpg" if path.suffix == ".JPEG" else "png")
                labels.append(int(tar.extractfile(label).read()))
                assert path.parent.name == f"class{labels[-1]}"
                seen.append(int(key))
    assert sorted(seen) == list(range(120))
    assert 20 < np.abs(np.diff(labels)).sum() < 100  # of 119 neighbours, half are of the other class


def test_the_same_images_give_the_same_bytes(folder, packed, tmp_path):
    def sums(root):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}

    for path in folder.rglob("*.png"):
        os.utime(path, (1, 1))
    pack(opened("folder", folder), tmp_path / "again", size=SIZE)
    assert sums(tmp_path / "again") == sums(packed)


def test_an_image_larger_than_a_shard_has_one_of_its_own(folder, tmp_path):
    packed = pack(opened("folder", folder), tmp_path / "out", size=1)
    assert packed.shards == packed.images == 240
    assert len(opened("shards", tmp_path / "out").train) == 120


def test_an_interrupted_packing_leaves_nothing(folder, tmp_path, monkeypatch):
    images = opened("folder", folder)
    calls = []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 50:
            raise KeyboardInterrupt
        return b""

    monkeypatch.setattr(module, "content_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(images, tmp_path / "out", size=SIZE)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_packing_has_left_is_deleted_by_the_next_one(folder, tmp_path):
    """What another process is writing at the moment is not deleted, nor is anything else."""
    for name in (".out.0123456789abcdef.tmp", ".out.fedcba9876543210.tmp", ".other.0123456789abcdef.tmp", "out.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-000000.tar").write_bytes(b"half")
    descriptor = os.open(tmp_path / ".out.fedcba9876543210.tmp", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as the process that writes there holds it
    try:
        pack(opened("folder", folder), tmp_path / "out", size=SIZE)
    finally:
        os.close(descriptor)
    expected = [".other.0123456789abcdef.tmp", ".out.fedcba9876543210.tmp", "out", "out.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_folder_that_is_not_empty_is_left_as_it_is(folder, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"^--out .* exists and is not empty"):
        pack(opened("folder", folder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_set_in_memory_is_not_packed(tmp_path):
    images = open_images(DataConfig(name="fake"), input_size=8, channels=3, classes=10)
    with pytest.raises(ConfigError, match=r"^data\.name: is a set that is kept in memory, expected image files"):
        pack(images, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def first_shard(root):
    return root / "train-000000.tar"


DAMAGES = {
    "no index": (lambda root: (root / INDEX).unlink(), "no index.json in '{root}', expected a folder of shards"),
    "no folder": (lambda root: root.rename(root.parent / "elsewhere"), "no folder '{root}'"),
    "another index": (lambda root: (root / INDEX).write_text("{}"), "is no index of shards of the format"),
    "a shard is gone": (lambda root: first_shard(root).unlink(), "no shard '{root}/train-000000.tar' (No such file"),
    "a shard is cut": (lambda root: os.truncate(first_shard(root), 1000), "train-000000.tar' has 1000 bytes, expected"),
    "a table is gone": (lambda root: (root / "test.npz").unlink(), "test.npz: no such file"),
    "another table": (
        lambda root: (root / "train.npz").write_bytes((root / "test.npz").read_bytes()),
        "train.npz' is not the table that index.json was written with",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_shards_that_are_incomplete_or_changed_are_refused_in_one_line(damage, copied):
    change, words = DAMAGES[damage]
    change(copied)
    with pytest.raises(ConfigError) as caught:
        opened("shards", copied)
    assert words.format(root=copied) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_bytes_of_an_image_are_refused_when_it_is_read(copied, workers):
    images = opened("shards", copied).train
    images.load([], augment=False)
    shard = first_shard(copied)
    with shard.open("r+b") as file:
        file.seek(520)  # in the first image
        file.write(b"changed")
    stream = BatchStream(images, batch_size=40, seed=0, workers=workers)
    with pytest.raises(ConfigError, match=r"^data\.root: '.*train-000000\.tar' is damaged: it does not have the bytes"):
        list(islice(stream, 3))
    stream.close()


def test_an_index_is_not_trusted(copied):
    """An index with names outside of its folder, or with tables that point outside of their shard, is refused."""
    record = json.loads((copied / INDEX).read_text())
    record["parts"]["train"]["shards"][0]["file"] = "../../etc/passwd"
    (copied / INDEX).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"parts\.train\.shards.*passwd"):
        opened("shards", copied)


@pytest.mark.parametrize(("column", "value"), [("offsets", 10**9), ("labels", 7), ("shards", 99), ("sizes", -1)])
def test_a_table_that_points_outside_is_refused(column, value, copied):
    record = json.loads((copied / INDEX).read_text())
    with np.load(copied / "train.npz") as arrays:
        columns = dict(arrays)
    columns[column][-1] = value
    np.savez(copied / "train.npz", **columns)
    record["parts"]["train"]["sha256"] = hashlib.sha256((copied / "train.npz").read_bytes()).hexdigest()
    (copied / INDEX).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"train\.npz' does not describe the shards"):
        opened("shards", copied)


def test_the_record_of_a_run_follows_the_content(packed, folder, tmp_path):
    def record(root):
        content = opened("shards", root).train.content()
        return {name: value for name, value in content.items() if name != "files"}

    before = record(packed)
    pack(opened("folder", folder), tmp_path / "larger", size=10**6)  # other shards of the same files
    assert record(tmp_path / "larger") == before
    other = write_images(tmp_path / "other", per_class=60)
    pack(opened("folder", other), tmp_path / "changed", size=SIZE)
    assert record(tmp_path / "changed") != before


def test_another_number_of_classes_is_refused_as_for_a_folder(packed):
    with pytest.raises(ConfigError, match=r"space\.classes: got 3, but data\.name 'shards' has 2 classes"):
        open_images(DataConfig(name="shards", root=packed), input_size=8, channels=3, classes=3)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(packed):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    index = json.loads((packed / INDEX).read_text())
    urls = [str(packed / shard["file"]) for shard in index["parts"]["test"]["shards"]]
    images = webdataset.WebDataset(urls, shardshuffle=False).decode("torchrgb8").to_tuple("png", "cls")
    found = list(images)
    gc.collect()  # it leaves its files to Python to close
    assert len(found) == 120
    assert all(image.dtype == torch.uint8 and image.shape == (3, 12, 14) for image, _ in found)
    assert sorted(label for _, label in found) == [0] * 60 + [1] * 60
