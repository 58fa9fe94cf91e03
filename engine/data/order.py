"""Decides which images come when: splits, the order of an epoch and the share of a rank, as functions of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from engine.data.images import BALANCE, ORDER, SPLIT, STATISTICS, Item
from engine.errors import ConfigError
from engine.seeding import mix


def random_numbers(*key: int) -> np.random.Generator:
    """Returns a generator seeded by `mix(*key)`. It is PCG64 by name, because numpy may change `default_rng`."""
    return np.random.Generator(np.random.PCG64(mix(*key)))


def stratified_choice(labels: np.ndarray, amount: int, seed: int) -> np.ndarray:
    """Returns `amount` indices into `labels` (N,), sorted; each class gets its share by largest remainder."""
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    # amount * size / N in integers, hence exact; ties of the remainder go to the lower class
    quota, remainder = np.divmod(amount * sizes.astype(np.int64), labels.size)
    quota[np.argsort(-remainder, kind="stable")[: amount - quota.sum()]] += 1
    rng = random_numbers(seed, SPLIT)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:n] for label, n in zip(classes, quota.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def mixed_choice(labels: np.ndarray, amount: int, seed: int) -> np.ndarray:
    """Returns the indices of `stratified_choice` in a random order, so that neighbours are of mixed classes however the
    set is stored."""
    return random_numbers(seed, STATISTICS).permutation(stratified_choice(labels, amount, seed))


def stratified_split(labels: np.ndarray, validation: float | int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides a training set with labels (N,) into two parts: returns (training indices, validation indices), sorted.

    validation: a share in (0, 1), rounded to the nearest image, or a count >= 1. Every image is in exactly one part,
    and a class has its share of the validation part, exact by largest remainder. Raises ConfigError if a part would be
    empty or a class would have no training image.
    """
    labels = np.asarray(labels)
    total = labels.size
    amount = validation if isinstance(validation, int) else int(validation * total + 0.5)
    if not 1 <= amount < total:
        found = f"{validation} holds out {amount} of {total} training images"
        raise ConfigError("data.validation", found, f"1 to {total - 1}", "choose another share or count")
    held_out = stratified_choice(labels, amount, seed)
    kept = np.setdiff1d(np.arange(total), held_out, assume_unique=True)
    if gone := sorted(set(labels.tolist()) - set(labels[kept].tolist())):
        found = f"{validation} leaves no training image of class {gone[0]}"
        raise ConfigError("data.validation", found, "at least one of each class", "hold out fewer images")
    return kept, held_out


def epoch_order(total: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the global order of an epoch: a permutation (total,) of the indices, the same on every rank."""
    return random_numbers(seed, epoch, ORDER).permutation(total)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the global order of an epoch in which all C classes of labels (N,) have the same number of images, to
    one: indices (N,), and how often each of them has come before in this epoch, (N,).

    Class c, counted from 0 among the classes that there are, has had floor((N e + c) / C) places before epoch e; all
    classes together N e (Hermite's identity). It fills its places with one permutation of its images after the other.
    So the images of a class are used equally often, to one, over all epochs, and the order is a pure function of the
    labels, the seed and the epoch.
    """
    labels = np.asarray(labels)
    present = np.unique(labels).tolist()
    places, before = [], []
    for c, label in enumerate(present):
        own = np.flatnonzero(labels == label)
        begin, end = ((labels.size * e + c) // len(present) for e in (epoch, epoch + 1))
        rounds = range(begin // len(own), -(-end // len(own)))
        passes = [random_numbers(seed, number, label, BALANCE).permutation(own) for number in rounds]
        used = np.concatenate([own[:0], *passes])[begin - rounds.start * len(own) :][: end - begin]
        places.append(used)
        before.append(_earlier(used))
    order = epoch_order(labels.size, seed, epoch)
    return np.concatenate(places)[order], np.concatenate(before)[order]


def _earlier(values: np.ndarray) -> np.ndarray:
    """Returns how often each of the values (n,) occurs before its place, (n,)."""
    order = np.argsort(values, kind="stable")
    _, first, sizes = np.unique(values[order], return_index=True, return_counts=True)
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(first, sizes)
    return counts


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the weight of an image of each class, (classes,) float32: N / (classes * images of the class), so that
    the mean over all N images of labels (N,) is 1 and every class has the same sum. 0 for a class without images."""
    sizes = np.bincount(labels, minlength=classes)
    weights: np.ndarray = np.divide(len(labels), (sizes > 0).sum() * sizes, out=np.zeros(classes), where=sizes > 0)
    return weights.astype(np.float32)


def training_batches(
    total: int,
    batch_size: int,
    seed: int,
    *,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    balanced: np.ndarray | None = None,
) -> Iterator[list[Item]]:
    """Yields batches of one epoch after the other, without end, from batch number `start` on.

    The last images of an epoch are left out if they do not fill a batch. batch_size: images of all ranks together; rank
    r gets the r-th of `world_size` equal slices. balanced: the labels (total,) of the images if the order is that of
    `balanced_order`.
    """
    per_epoch, per_rank = total // batch_size, batch_size // world_size
    first_epoch, first_batch = divmod(start, per_epoch)
    for epoch in count(first_epoch):
        if balanced is None:
            order, again = epoch_order(total, seed, epoch), np.zeros(total, dtype=np.int64)
        else:
            order, again = balanced_order(balanced, seed, epoch)
        for b in range(first_batch, per_epoch):
            begin = b * batch_size + rank * per_rank
            part = slice(begin, begin + per_rank)
            numbers = zip(order[part].tolist(), again[part].tolist(), strict=True)
            yield [Item(seed, epoch, i, earlier) for i, earlier in numbers]
        first_batch = 0
