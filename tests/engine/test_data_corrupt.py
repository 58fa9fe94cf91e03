"""An unreadable file is named once and replaced by one of its class and part; too many of them are an error."""

import logging
import multiprocessing
from itertools import islice

import numpy as np
import pytest

from engine.data import BatchStream, DataConfig, Item, evaluation_batches, open_images, stratified_split, subset
from engine.errors import ConfigError
from tests.engine.image_folder import cut_off, write_images

PER_CLASS = 110  # two classes: 2 files of 220 are within 1 %, 3 are not


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path, PER_CLASS, size=6)


def train_part(root, **settings):
    config = DataConfig(name="folder", root=root, **settings)
    return open_images(config, input_size=6, channels=3, classes=2).train


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "engine.data"]


def plain(images, index):
    return images.load([Item(0, 0, index)], augment=False).images


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named_once_and_replaced_by_the_next_of_its_class(root, caplog, workers):
    bad = cut_off(root / "train" / "class0" / f"{PER_CLASS - 1:03d}.png")  # the last: its successor is the first
    images = train_part(root)
    with caplog.at_level(logging.WARNING):
        stream = BatchStream(images, batch_size=20, seed=0, workers=workers)
        batches = [next(stream) for _ in range(3 * stream.batches_per_epoch)]
        list(evaluation_batches(images, 20, workers))
    stream.close()
    assert all(len(batch.images) == 20 for batch in batches)
    assert sum(list(batch.corrupt) == [PER_CLASS - 1] for batch in batches) == 3
    assert stream.corrupt == {PER_CLASS - 1}
    (warning,) = warnings_of(caplog)
    assert str(bad) in warning
    assert "\n" not in warning
    assert plain(images, PER_CLASS - 1).equal(plain(images, 0))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"P6 1 x 255 ab"])
def test_a_file_with_any_unreadable_content_is_replaced(root, content):
    (root / "train" / "class1" / "000.png").write_bytes(content)
    batch = train_part(root).load([Item(0, 0, PER_CLASS)], augment=False)
    assert set(batch.corrupt) == {PER_CLASS}
    assert batch.labels.tolist() == [1]


def test_runs_of_unreadable_files_are_skipped_and_all_reported(root):
    for n in (3, 4):
        cut_off(root / "train" / "class1" / f"{n:03d}.png")
    images = train_part(root)
    batch = images.load([Item(0, 0, PER_CLASS + 3)], augment=False)
    assert list(batch.corrupt) == [PER_CLASS + 3, PER_CLASS + 4]
    assert batch.images.equal(plain(images, PER_CLASS + 5))


def test_replacement_keeps_the_item_of_the_place_it_fills(root):
    cut_off(root / "train" / "class0" / "005.png")
    images = train_part(root)
    (root / "train" / "class0" / "006.png").write_bytes((root / "train" / "class0" / "007.png").read_bytes())
    replaced, own = (images.load([Item(1, 2, i)], augment=True).images for i in (5, 6))
    assert not replaced.equal(own)  # the same pixels, seen with another key
    cut_off(root / "train" / "class0" / "006.png")
    assert replaced.equal(images.load([Item(1, 2, 5)], augment=True).images)  # from 007, the same pixels and key


def test_replacement_stays_in_the_part_that_the_file_belongs_to(root):
    images = train_part(root)
    kept, held_out = stratified_split(images.labels, 0.5, seed=3)
    for name, indices in (("training", kept), ("validation", held_out)):
        part = subset(images, indices)
        victim = next(i for i in range(40) if indices[i + 1] != indices[i] + 1)  # the full set's next is elsewhere
        path = root / "train" / "class0" / f"{indices[victim]:03d}.png"
        whole = path.read_bytes()
        cut_off(path)
        batch = part.load([Item(0, 0, victim)], augment=False)
        assert list(batch.corrupt) == [victim], name
        assert batch.images.equal(plain(images, int(indices[victim + 1]))), name
        path.write_bytes(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_percent_of_unreadable_files_stops_the_run(root, workers):
    for n in (10, 20, 30):
        cut_off(root / "train" / "class0" / f"{n:03d}.png")
    images = train_part(root)
    message = r"^data\.root: 3 of 220 image files are unreadable, expected at most 1 %; the first is .*class0/010\.png"
    stream = BatchStream(images, batch_size=20, seed=0, workers=workers)
    with pytest.raises(ConfigError, match=message) as caught:
        list(islice(stream, stream.batches_per_epoch))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    with pytest.raises(ConfigError, match=message):
        list(evaluation_batches(train_part(root), 20, workers))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_without_readable_image_stops_the_run(tmp_path, workers):
    root = write_images(tmp_path, 3, size=6)
    for n in range(3):
        cut_off(root / "train" / "class1" / f"{n:03d}.png")
    stream = BatchStream(train_part(root), batch_size=6, seed=0, workers=workers)
    with pytest.raises(ConfigError, match=r"^data\.root: none of the 3 files of the class of .*class1") as caught:
        next(stream)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_resumed_run_neither_warns_again_nor_counts_twice(root, caplog):
    for n in (10, 20):
        cut_off(root / "train" / "class0" / f"{n:03d}.png")
    stream = BatchStream(train_part(root), batch_size=20, seed=0, workers=0)
    first = [next(stream) for _ in range(2 * stream.batches_per_epoch)]
    caplog.clear()
    resumed = BatchStream(train_part(root), batch_size=20, seed=0, workers=0, start=stream.batches_per_epoch)
    resumed.corrupt = sorted(stream.corrupt)
    assert all(next(resumed).images.equal(batch.images) for batch in first[stream.batches_per_epoch :])
    assert resumed.corrupt == stream.corrupt == {10, 20}
    assert warnings_of(caplog) == []
    with pytest.raises(ValueError, match="corrupt file 220"):
        resumed.corrupt = [220]


def test_a_bug_in_a_transform_is_no_corrupt_file(root, monkeypatch):
    images = train_part(root)

    def broken(height, width):
        raise ValueError("bug")

    monkeypatch.setattr(images, "_part", broken)
    with pytest.raises(ValueError, match="bug"):
        images.load([Item(0, 0, 0)], augment=True)
    assert np.array_equal(images.labels, np.repeat([0, 1], PER_CLASS))
