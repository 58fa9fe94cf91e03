"""Batches of an image set: an endless training stream that can be resumed, and one pass for evaluation."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine.data.images import Batch, ImageSet, Item
from engine.data.order import stratified_choice, training_batches
from engine.errors import ConfigError

_LIMIT_SEED = 0  # the images of a limited evaluation are the same in every run


class BatchStream(Iterator[Batch]):
    """Shuffled training batches without end, each rank its slice; an epoch's images that fill no batch are left out.

    The order is a pure function of (seed, epoch) over all ranks, and a batch of its place in it, so a stream with
    `start` = batches already consumed continues where the other one stopped, bit for bit, with any number of workers.
    `batch_size` counts the images of all ranks together. `workers` processes read ahead if the set is one of files;
    they start with the first batch and live until `close`. `pin_memory`: batches lie where a GPU can fetch them itself
    while the program goes on (`non_blocking`).

    ConfigError if there are fewer images than `batch_size` or it is not a multiple of `world_size`; while iterating,
    if more than 1 % of the set's files, or all files of a class, are unreadable (the stream is closed then). `key` is
    where the batch size is set.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augment: bool = True,
        pin_memory: bool = False,
        key: str = "batch_size",
    ):
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"{key}: got {batch_size}, expected a positive multiple of the {world_size} processes that share "
                f"a batch; change one of the two"
            )
        if len(images) < batch_size:
            raise ConfigError(
                f"{key}: got {batch_size}, but this part of the data has {len(images)} images; choose a smaller "
                f"batch (in a search, data.validation shares the images out)"
            )
        if start < 0 or not 0 <= rank < world_size:
            raise ValueError(f"start {start} or rank {rank} of {world_size} is out of range")
        self.batches_per_epoch = len(images) // batch_size
        self._images = images
        self._position = start
        items = training_batches(len(images), batch_size, seed, start=start, rank=rank, world_size=world_size)
        self._batches = _loaded(images, items, augment=augment, workers=workers, pin_memory=pin_memory)

    def __next__(self) -> Batch:
        batch = next(self._batches)
        try:
            self._images.corrupt.meet(batch.corrupt)
        except ConfigError:
            self.close()
            raise
        self._position += 1
        return batch

    @property
    def position(self) -> int:
        """Batches consumed since the beginning of training, what was read ahead not included."""
        return self._position

    @property
    def corrupt(self) -> frozenset[int]:
        """Indices of the set's files known to be unreadable, each named in a warning once. Settable from a checkpoint:
        the files in it are not named again. With several ranks each knows those that it met."""
        return frozenset(self._images.corrupt.indices)

    @corrupt.setter
    def corrupt(self, indices: Iterable[int]) -> None:
        self._images.corrupt.restore(indices)

    def close(self) -> None:
        """Stop the worker processes. The stream ends here; `position` and `corrupt` remain."""
        self._batches.close()


def evaluation_batches(
    images: ImageSet,
    batch_size: int,
    workers: int,
    limit: int | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every image once, in the order of the set, not augmented; the last batch may be smaller.

    `limit`: at most so many images, the same ones every time, each class with its share. `batch_size` counts all
    ranks, of which each gets its slice; of a small last batch a rank may get nothing. ConfigError while iterating if
    more than 1 % of the set's files, or all files of a class, are unreadable.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"expected batch_size >= 1 and limit >= 1, got {batch_size} and {limit}")
    if limit is None or limit >= len(images):
        indices = np.arange(len(images))
    else:
        indices = stratified_choice(images.labels, limit, _LIMIT_SEED)
    items = [Item(0, 0, i) for i in indices.tolist()]
    whole = (items[i : i + batch_size] for i in range(0, len(items), batch_size))
    shares = (batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size] for batch in whole)
    batches = (share for share in shares if share)

    def counted() -> Iterator[Batch]:
        for batch in _loaded(images, batches, augment=False, workers=workers):
            images.corrupt.meet(batch.corrupt)
            yield batch

    return counted()


def statistics_batches(
    images: ImageSet, batch_size: int, count: int, workers: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """At most `count` whole batches, not augmented, the same ones every time: what BN statistics are collected from.
    Each rank gets its slice of every batch.

    A last partial batch would weigh as much as a whole one, and a single image on a 1x1 map has no variance. A set
    smaller than one batch is one batch.
    """
    size = min(batch_size, len(images))
    limit = min(count, len(images) // size) * size
    return evaluation_batches(images, size, workers, limit, rank=rank, world_size=world_size)


def _loaded(
    images: ImageSet, batches: Iterable[list[Item]], *, augment: bool, workers: int, pin_memory: bool = False
) -> Generator[Batch]:
    """Load each list of items, in order. Processes start with the first batch and end with the generator."""
    if images.in_memory or workers == 0:
        for items in batches:
            batch = images.load(items, augment=augment)
            if pin_memory:
                batch = batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())
            yield batch
        return
    loader: DataLoader[Batch | ConfigError] = DataLoader(
        _InWorker(images, augment),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_loaded,
        worker_init_fn=_settle_in,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws a seed for its workers: from here, not from the global state
    )
    reader = iter(loader)
    try:
        for loaded in reader:
            if isinstance(loaded, ConfigError):
                raise loaded
            yield loaded
    finally:
        del reader  # ends the processes now; kept alive by a traceback, each would hang for seconds when collected


class _InWorker(Dataset[Batch | ConfigError]):
    """An image set as DataLoader wants it: a whole batch of items at a time."""

    def __init__(self, images: ImageSet, augment: bool):
        self._images = images
        self._augment = augment

    def __getitems__(self, items: Sequence[Item]) -> Batch | ConfigError:
        try:
            return self._images.load(items, augment=self._augment)
        except ConfigError as error:  # handed over as a value: DataLoader would wrap the sentence in a traceback
            return error


def _as_loaded(batch: Any) -> Any:
    """DataLoader's types expect a list of images to collate; `__getitems__` has done that."""
    return batch


def _settle_in(worker: int) -> None:
    torch.set_num_threads(1)  # the processes share the cores among themselves
    for number in (signal.SIGINT, signal.SIGTERM):  # go to all processes; the step being finished needs its batches
        signal.signal(number, signal.SIG_IGN)
