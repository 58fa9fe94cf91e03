"""A batch is a pure function of its place in the stream, in memory and from files, with and without processes."""

import multiprocessing
import random
from itertools import islice

import numpy as np
import pytest
import torch

from engine.data import (
    BatchStream,
    DataConfig,
    Item,
    evaluation_batches,
    open_images,
    statistics_batches,
    stratified_split,
    subset,
)
from engine.data.memory import MemoryImages, Recipe
from engine.errors import ConfigError
from tests.engine.image_folder import write_images


@pytest.fixture(scope="module")
def in_memory():
    return open_images(DataConfig(name="fake", fake_images=50), input_size=8, channels=3, classes=10).train


@pytest.fixture(scope="module")
def in_files(tmp_path_factory):
    root = write_images(tmp_path_factory.mktemp("images"), per_class=15, classes=3)
    return open_images(DataConfig(name="folder", root=root), input_size=8, channels=3, classes=3).train


@pytest.fixture(params=["in_memory", "in_files"])
def images(request):
    return request.getfixturevalue(request.param)


def take(images, amount, **settings):
    stream = BatchStream(images, **{"batch_size": 8, "seed": 5, "workers": 0} | settings)
    batches = [next(stream) for _ in range(amount)]
    assert stream.position == settings.get("start", 0) + amount
    stream.close()
    return batches


def same(first, second):
    return len(first) == len(second) and all(
        a.images.equal(b.images) and a.labels.equal(b.labels) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_equals_an_uninterrupted_one(images, workers):
    whole = take(images, 14)
    assert same(whole[9:], take(images, 5, start=9, workers=workers))
    assert same(whole, take(images, 14, workers=workers))
    assert whole[0].images.shape == (8, 3, 8, 8)
    assert (whole[0].images.dtype, whole[0].labels.dtype) == (torch.float32, torch.int64)


def test_another_epoch_or_seed_gives_other_batches(images):
    per_epoch = BatchStream(images, batch_size=8, seed=5, workers=0).batches_per_epoch
    assert per_epoch == len(images) // 8
    batches = take(images, per_epoch + 1)
    assert not same(batches[:1], batches[per_epoch:])
    assert not same(batches[:1], take(images, 1, seed=6))


def test_augmentation_depends_on_the_item_alone(images):
    items = [Item(2, 1, 4), Item(9, 1, 4), Item(2, 0, 4), Item(2, 1, 11), Item(2, 1, 4)]
    together = images.load(items, augment=True).images
    torch.manual_seed(123)
    alone = torch.cat([images.load([item], augment=True).images for item in reversed(items)]).flip(0)
    assert together.equal(alone)
    assert together[0].equal(together[4])
    assert len({tuple(image.flatten().tolist()) for image in together}) == 4  # seed, epoch and index all matter


def test_an_image_looks_different_in_every_epoch(images):
    views = images.load([Item(0, epoch, 3) for epoch in range(20)], augment=True).images
    assert len({tuple(view.flatten().tolist()) for view in views}) >= 10
    plain = images.load([Item(0, epoch, 3) for epoch in range(20)], augment=False).images
    assert (plain == plain[0]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_slices_of_the_ranks_are_the_global_batch(images, workers):
    ranks = [take(images, 7, rank=r, world_size=2, workers=workers) for r in range(2)]
    for whole, *parts in zip(take(images, 7), *ranks, strict=True):
        assert whole.images.equal(torch.cat([part.images for part in parts]))
        assert whole.labels.equal(torch.cat([part.labels for part in parts]))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_neither_used_nor_changed(images, workers):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    first = take(images, 3, workers=workers)
    list(evaluation_batches(images, 16, workers))
    assert states() == before
    torch.manual_seed(99)
    assert same(first, take(images, 3, workers=workers))


def test_loading_does_not_reseed_gpus(in_files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were reseeded"))
    take(in_files, 1)


def test_processes_belong_to_file_sets_and_end_with_the_stream(in_memory, in_files):
    for images, expected in ((in_memory, 0), (in_files, 2)):
        stream = BatchStream(images, batch_size=8, seed=0, workers=2)
        assert not multiprocessing.active_children()  # none before the first batch
        next(stream)
        assert len(multiprocessing.active_children()) == expected
        stream.close()
        assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(images, workers):
    batches = list(evaluation_batches(images, 16, workers))
    assert [len(batch.labels) for batch in batches] == [16] * (len(images) // 16) + [len(images) % 16]
    assert np.array_equal(torch.cat([batch.labels for batch in batches]).numpy(), images.labels)
    everything = images.load([Item(0, 0, i) for i in range(len(images))], augment=False).images
    assert torch.cat([batch.images for batch in batches]).equal(everything)


def test_limited_evaluation_keeps_the_shares_of_the_classes(images):
    batches = list(evaluation_batches(images, 16, 0, limit=len(images) * 2 // 5))
    labels = torch.cat([batch.labels for batch in batches])
    assert len(labels) == len(images) * 2 // 5
    assert len(set(torch.bincount(labels).tolist())) == 1
    assert sum(len(b.labels) for b in evaluation_batches(images, 16, 0, limit=10**6)) == len(images)


def stored(order):
    """80 images of four classes, each of one grey value 0..79 (20 a class), stored in this order."""
    pixels = torch.arange(80, dtype=torch.uint8)[order].view(80, 1, 1, 1).expand(80, 1, 2, 2)
    recipe = Recipe(mean=(0.0,), std=(1 / 255,), flip=False)
    return MemoryImages(pixels, np.arange(80)[order] // 20, recipe, channels=1)


@pytest.mark.parametrize("count", [3, 5, 100])
def test_batches_of_statistics_are_of_mixed_classes_in_whatever_order_a_set_is_stored(count):
    """The set is sorted by class, shuffled or interleaved. The variance within batches is near that of all images, 533,
    and far from that within a class, 33."""
    for order in (np.arange(80), np.random.default_rng(1).permutation(80), np.arange(80).reshape(4, 20).T.ravel()):
        images = stored(order)
        batches = list(statistics_batches(images, 16, count, 0))
        assert [len(batch.labels) for batch in batches] == [16] * min(count, 5)
        seen = torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).round().int().tolist()
        assert len(set(seen)) == len(seen)
        labels = torch.cat([batch.labels for batch in batches])
        assert np.ptp(np.bincount(labels)) == 0  # each class has its share of the images
        assert all(len(batch.labels.unique()) >= 3 for batch in batches)
        within = torch.stack([batch.images[:, 0, 0, 0].var() for batch in batches]).mean()
        assert 450 < within < 620
        again = list(statistics_batches(images, 16, count, 0))
        assert same(batches, again)


def test_batches_of_statistics_have_256_images_at_most_and_as_many_images_in_all():
    """A batch that eight processes share does not have to fit into the memory of one."""
    images = open_images(DataConfig(name="fake", fake_images=1100), input_size=2, channels=1, classes=10).train
    assert [len(b.labels) for b in statistics_batches(images, 512, 2, 0)] == [256] * 4
    assert [len(b.labels) for b in statistics_batches(images, 1024, 2, 0)] == [256] * 4
    assert [len(b.labels) for b in statistics_batches(images, 2048, 1, 0)] == [256] * 4
    assert [len(b.labels) for b in statistics_batches(subset(images, np.arange(7)), 8, 2, 0)] == [7]


def test_a_subset_is_numbered_from_zero(images):
    kept, held_out = stratified_split(images.labels, 0.4, seed=1)
    part = subset(images, held_out)
    assert np.array_equal(part.labels, images.labels[held_out])
    mine = part.load([Item(0, 0, 3)], augment=False).images
    assert mine.equal(images.load([Item(0, 0, int(held_out[3]))], augment=False).images)
    assert not set(kept) & set(held_out)
    for wrong in ([1, 1], [2, 1], [-1, 0], [len(images)]):
        with pytest.raises(ValueError, match="strictly increasing"):
            subset(images, np.array(wrong))


def test_a_stream_without_augmentation_shows_the_evaluation_images(images):
    batch = take(images, 1, augment=False)[0]
    plain = images.load([Item(0, 0, i) for i in range(len(images))], augment=False).images
    assert all((plain == image).flatten(1).all(1).any() for image in batch.images)


def test_a_batch_size_rank_or_limit_that_does_not_fit_is_refused(in_memory):
    with pytest.raises(ConfigError, match="batch_size: got 51, but this part of the data has 50 images"):
        BatchStream(in_memory, batch_size=51, seed=0, workers=0)
    with pytest.raises(ConfigError, match="batch_size: got 10, expected a positive multiple of the 4 processes"):
        BatchStream(in_memory, batch_size=10, seed=0, workers=0, world_size=4)
    with pytest.raises(ValueError, match="out of range"):
        BatchStream(in_memory, batch_size=10, seed=0, workers=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="limit"):
        evaluation_batches(in_memory, 8, 0, limit=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_on_the_cpu(images, workers):
    there = take(images, 7, workers=workers, device=torch.device("cuda"))
    assert all(batch.images.is_cuda and batch.labels.is_cuda for batch in there)
    for one, other in zip(there, take(images, 7), strict=True):
        torch.testing.assert_close(one.images.cpu(), other.images, rtol=0, atol=1e-6)
        assert one.labels.cpu().equal(other.labels)


def test_a_stream_is_an_iterator(in_memory):
    stream = BatchStream(in_memory, batch_size=10, seed=0, workers=0)
    assert [len(batch.labels) for batch in islice(stream, 6)] == [10] * 6
