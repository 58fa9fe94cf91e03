"""`data.balance` makes classes of different sizes count alike, by weights of the loss or by the order of an epoch."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.data import BatchStream, Item, class_weights
from engine.data.memory import MemoryImages, Recipe
from engine.data.order import balanced_order, training_batches
from engine.training import cross_entropy
from tests.engine.image_folder import write_images
from tests.engine.test_data_parts import opened

LABELS = np.repeat([0, 1, 3], [3, 40, 14])  # class 2 has no image


def test_every_class_has_its_share_of_an_epoch_and_every_image_its_share_of_the_class():
    total, uses = np.zeros(4, dtype=int), np.zeros(len(LABELS), dtype=int)
    for epoch in range(7):
        order, _ = balanced_order(LABELS, seed=5, epoch=epoch)
        here = np.bincount(LABELS[order], minlength=4)
        assert here.sum() == len(LABELS)
        assert np.ptp(here[[0, 1, 3]]) <= 1
        total, uses = total + here, uses + np.bincount(order, minlength=len(LABELS))
        assert np.ptp(total[[0, 1, 3]]) <= 1  # over all epochs so far, too
        assert max(np.ptp(uses[label == LABELS]) for label in (0, 1, 3)) <= 1


def test_an_image_that_comes_again_is_numbered_within_the_epoch():
    order, again = balanced_order(LABELS, seed=5, epoch=2)
    assert {(i, n) for i, n in zip(order.tolist(), again.tolist(), strict=True)} == {
        (i, n) for i, count in Counter(order.tolist()).items() for n in range(count)
    }


def test_the_order_is_a_function_of_seed_and_epoch_fixed_for_ever():
    first, same, other = (balanced_order(LABELS, seed, 1)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert balanced_order(np.array([0, 0, 0, 0, 0, 1]), 3, 1)[0].tolist() == FIXED  # a change breaks resumed runs


FIXED = [4, 5, 5, 5, 4, 0]


@pytest.mark.parametrize("start", [0, 1, 5, 13])
def test_balanced_batches_resume_anywhere_and_the_slices_of_the_ranks_are_the_global_batch(start):
    whole = islice(training_batches(57, 6, seed=1, balanced=LABELS), start, start + 12)
    ranks = [training_batches(57, 6, 1, start=start, rank=r, world_size=2, balanced=LABELS) for r in range(2)]
    batches = list(whole)
    assert [[*next(ranks[0]), *next(ranks[1])] for _ in range(12)] == batches
    assert len({(item.turn, item.index) for batch in batches for item in batch}) == 12 * 6


def test_equal_classes_have_every_image_once():
    order, again = balanced_order(np.repeat([0, 1], 8), seed=0, epoch=4)
    assert sorted(order.tolist()) == list(range(16))
    assert not again.any()


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_an_image_that_comes_again_is_augmented_anew(kind, tmp_path):
    if kind == "memory":
        pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        recipe = Recipe((0.5,) * 3, (0.2,) * 3, flip=True)
        images = MemoryImages(pixels, np.zeros(4, dtype=np.int64), recipe, channels=3)
    else:
        images = opened(name="folder", root=write_images(tmp_path, 2, size=20)).train
    seen = images.load([Item(1, 2, 0, again) for again in (0, 1, 2, 0)], augment=True).images
    assert seen[0].equal(seen[3])
    assert len({image.numpy().tobytes() for image in seen}) == 3
    assert seen[0].equal(images.load([Item(1, 2, 0)], augment=True).images[0])


def test_a_stream_is_balanced_and_resumes():
    recipe = Recipe((0.5,), (0.2,), flip=False)
    images = MemoryImages(torch.arange(57, dtype=torch.uint8).view(57, 1, 1, 1), LABELS, recipe, channels=1)
    whole, rest = (
        BatchStream(images, batch_size=19, seed=3, workers=0, balanced=True, start=start) for start in (0, 2)
    )
    first = [next(whole) for _ in range(3)]
    assert np.bincount(torch.cat([batch.labels for batch in first])).tolist() == [19, 19, 0, 19]
    assert next(rest).images.equal(first[2].images)


def test_the_weighted_loss_is_the_mean_over_classes_of_the_mean_losses():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(LABELS), 4, dtype=torch.float64, generator=generator)
    labels, weights = torch.from_numpy(LABELS), torch.from_numpy(class_weights(LABELS, 4)).double()
    assert weights[2] == 0
    for smoothing in (0.0, 0.1):
        each = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        expected = torch.stack([each[labels == label].mean() for label in (0, 1, 3)]).mean()
        torch.testing.assert_close(cross_entropy(logits, labels, smoothing, weights), expected, rtol=1e-6, atol=0)
        hot = functional.one_hot(labels, 4).double()
        torch.testing.assert_close(cross_entropy(logits, hot, smoothing, weights), expected, rtol=1e-6, atol=0)
        half = [cross_entropy(logits[part], labels[part], smoothing, weights) for part in (slice(0, 28), slice(28, 56))]
        both = cross_entropy(logits[:56], labels[:56], smoothing, weights)
        torch.testing.assert_close(both, torch.stack(half).mean())  # as two processes share a batch
    assert cross_entropy(logits, labels, 0.1).equal(functional.cross_entropy(logits, labels, label_smoothing=0.1))
