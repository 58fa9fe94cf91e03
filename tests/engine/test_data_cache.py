"""Pictures that are decoded once give the batches of their files."""

import os
import pickle
import time
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from engine.data import BatchStream, DataConfig, Item, evaluation_batches, open_images, stratified_split, subset
from engine.data import cache as module
from engine.data.augmentation import Augmentation, augmented
from engine.data.pictures import whole_picture
from engine.data.shards import pack
from engine.errors import ConfigError
from engine.files import WriteError
from tests.engine.image_folder import cut_off, write_images


def opened(root, cache=None, name="folder", channels=3):
    config = DataConfig(name=name, root=root, cache=cache)
    return open_images(config, input_size=12, channels=channels, classes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 small training images: one damaged, one turned by its tag, and one so large that crops are decoded at half of
    its size."""
    root = write_images(tmp_path_factory.mktemp("images"), per_class=100, size=18)
    cut_off(root / "train" / "class1" / "007.png")
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(root / "train" / "class0" / "003.png", "JPEG", exif=exif)
    large = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    large.save(root / "train" / "class0" / "004.png", "JPEG", quality=60)
    return root


def equal(first, second):
    return all(
        a.images.equal(b.images) and a.labels.equal(b.labels) and a.corrupt == b.corrupt
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["ram", "a folder", "ram, of shards"])
def test_a_cache_gives_the_batches_of_the_files(folder, place, workers, tmp_path):
    plain = opened(folder)
    if place == "ram, of shards":
        pack(plain, tmp_path / "shards")
        kept = opened(tmp_path / "shards", "ram", "shards")
    else:
        kept = opened(folder, "ram" if place == "ram" else tmp_path / "cache")
    batches = []
    for splits in (plain, kept):
        stream = BatchStream(splits.train, batch_size=32, seed=3, workers=workers)
        batches.append([*islice(stream, 9), *evaluation_batches(splits.train, 30, workers)])
        stream.close()
        batches[-1] += evaluation_batches(splits.test, 30, workers)
        splits.test.readers.close()
    assert equal(*batches)
    half = stratified_split(plain.train.labels, 0.4, seed=1)[1]
    items = [Item(0, epoch, i) for epoch in range(2) for i in range(0, len(half), 3)]
    assert equal(*([subset(splits.train, half).load(items, augment=True)] for splits in (plain, kept)))


def test_small_pictures_are_not_read_again(folder, monkeypatch):
    kept, items = opened(folder, "ram").train, [Item(0, 0, i) for i in range(200)]
    before = kept.load(items, augment=True)
    kept.prepare()
    read = []
    monkeypatch.setattr(kept, "_bytes", lambda i, real=kept._bytes: read.append(i) or real(i))
    assert equal([before], [kept.load(items, augment=True)])
    assert read == [4, 107]  # the large one, and the damaged one


def test_grey_pictures_are_kept_in_one_channel(folder):
    items = [Item(0, 0, i) for i in range(0, 200, 7)]
    plain, kept = opened(folder, channels=1).train, opened(folder, "ram", channels=1).train
    kept.prepare()
    assert kept.cache[0].get(0).shape == (18, 20, 1)
    assert all(equal([plain.load(items, augment=a)], [kept.load(items, augment=a)]) for a in (False, True))


def test_a_set_that_is_sent_to_another_process_finds_the_pictures(folder):
    """The set is pickled, as for processes that are not forked."""
    kept = opened(folder, "ram").train
    kept.prepare()
    sent = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(sent.cache[0].get(0), kept.cache[0].get(0))
    assert sent.cache[0].get(0) is not None


def test_a_later_run_decodes_nothing_unless_a_file_has_changed(tmp_path, monkeypatch):
    root, cache = write_images(tmp_path / "images", per_class=5), tmp_path / "cache"
    decoded = []

    def watched(content, channels):
        decoded.append(len(content))
        return whole_picture(content, channels)

    monkeypatch.setattr(module, "whole_picture", watched)
    for _ in range(2):
        opened(root, cache).train.prepare()
        assert len(decoded) == 10
    os.utime(root / "train" / "class0" / "000.png", (time.time(), 1))
    opened(root, cache).train.prepare()
    assert len(decoded) == 20
    assert sorted(path.suffix for path in cache.iterdir()) == [".bin", ".bin"]


def test_an_interrupted_decoding_leaves_nothing(tmp_path, monkeypatch):
    root, cache = write_images(tmp_path / "images", per_class=5), tmp_path / "cache"

    def interrupted(content, channels):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "whole_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(root, cache).train.prepare()
    assert not list(cache.iterdir())


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 9000), lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_one_line(damage, tmp_path):
    root, cache = write_images(tmp_path / "images", per_class=5), tmp_path / "cache"
    opened(root, cache).train.prepare()
    (path,) = cache.iterdir()
    damage(path)
    again = opened(root, cache).train
    again.prepare()
    with pytest.raises(ConfigError, match=rf"^data\.cache: '{path}' is damaged; delete it"):
        again.load([Item(0, 0, 0)], augment=False)


def test_memory_that_does_not_suffice_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(module, "_free_memory", lambda: 30_000)
    images = opened(folder, "ram").train
    with pytest.raises(ConfigError, match=r"^data\.cache: the decoded pictures would take about .* kB of memory, more"):
        list(evaluation_batches(images, 8, 0))


def test_a_set_in_memory_has_no_cache():
    with pytest.raises(ConfigError, match=r"^data\.cache: got 'ram', but the set is in memory anyway; remove it"):
        open_images(DataConfig(name="fake", cache="ram"), input_size=8, channels=3, classes=10)


def test_a_place_that_is_a_file_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    images = opened(folder, tmp_path / "file").train
    with pytest.raises(WriteError, match=r"^data\.cache .*file: is a file"):
        images.prepare()


def test_a_training_at_a_smaller_size_decodes_what_it_would_decode_without_a_cache(folder):
    """A training at 6 px decodes crops of a JPEG file of 20 x 30 pixels at half of its size or less."""
    small = Augmentation(sizes=(6,))
    plain, kept = (augmented(opened(folder, cache).train, small) for cache in (None, "ram"))
    kept.prepare()
    items = [Item(0, epoch, i) for epoch in range(20) for i in (2, 3)]
    assert kept.cache[0].get(3) is not None
    assert equal([plain.load(items, augment=True)], [kept.load(items, augment=True)])
