"""Yields batches of an image set: an endless training stream that can be resumed, and one pass for evaluation."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch

from engine.data.ahead import beside_the_training, in_thread
from engine.data.folder import FolderImages
from engine.data.images import Batch, ImageSet, Item, RawBatch
from engine.data.on_gpu import check_decoder, decoded
from engine.data.order import mixed_choice, stratified_choice, training_batches
from engine.data.preprocessing import CPU
from engine.data.readers import pinned, worker_count
from engine.errors import ConfigError

_LIMIT_SEED = 0  # the images of a limited evaluation are the same in every run
MOST_STATISTICS_IMAGES = 256
"""The largest batch that BN statistics are collected from."""


class BatchStream(Iterator[Batch]):
    """Yields shuffled training batches without end, to each rank its slice; images of an epoch that fill no batch are
    left out.

    The order over all ranks is a pure function of (seed, epoch), and a batch is one of its place in that order. So a
    stream with `start` = batches already consumed continues where another one stopped, bit for bit, with any number of
    workers.

    batch_size: images of all ranks together. workers: the processes that read ahead if the set is one of files (None:
    see worker_count); they belong to the set, start with its first batch and end with `close`. balanced: whether all
    classes have the same number of images in an epoch (engine/data/order.py: balanced_order). device: where
    batches are finished and lie; a GPU fetches their bytes from pinned memory while the program goes on. layout: the
    memory format of their images. key: where the batch size is set, for errors.

    Raises ConfigError if there are fewer images than `batch_size`, or if it is not a multiple of `world_size`; while
    iterating, if more than 1 % of the set's files, or all files of a class, are unreadable (the stream is closed then).
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int,
        workers: int | None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augment: bool = True,
        balanced: bool = False,
        device: torch.device = CPU,
        layout: torch.memory_format = torch.contiguous_format,
        key: str = "batch_size",
    ):
        if batch_size < 1 or batch_size % world_size:
            accepted = f"a positive multiple of the {world_size} processes that share a batch"
            raise ConfigError(key, f"got {batch_size}", accepted, "change one of the two")
        if len(images) < batch_size:
            found = f"got {batch_size}, but this part of the data has {len(images)} images"
            remedy = "choose a smaller batch (in a search, data.validation shares the images out)"
            raise ConfigError(key, found, remedy=remedy)
        if augment and isinstance(images, FolderImages) and images.on_gpu:
            check_decoder(device)
        if start < 0 or not 0 <= rank < world_size:
            raise ValueError(f"start {start} or rank {rank} of {world_size} is out of range")
        self.batches_per_epoch = len(images) // batch_size
        self._images = images
        self._position = start
        labels = images.labels if balanced else None
        items = training_batches(
            len(images), batch_size, seed, start=start, rank=rank, world_size=world_size, balanced=labels
        )
        self._batches = _loaded(images, items, augment=augment, workers=workers, device=device, layout=layout)

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._position += 1
        return batch

    @property
    def position(self) -> int:
        """The number of batches consumed since the beginning of training; batches read ahead do not count."""
        return self._position

    @property
    def corrupt(self) -> frozenset[int]:
        """The indices of the set's files that were found to be unreadable; each is named in a warning once.

        Set it from a checkpoint, so that the files in it are not named again. With several ranks each has the files
        that it found itself.
        """
        return frozenset(self._images.corrupt.indices)

    @corrupt.setter
    def corrupt(self, indices: Iterable[int]) -> None:
        self._images.corrupt.restore(indices)

    def close(self) -> None:
        """Ends the stream and the set's processes; `position` and `corrupt` can still be read."""
        self._batches.close()
        _end_processes(self._images)


def evaluation_batches(
    images: ImageSet,
    batch_size: int,
    workers: int | None,
    limit: int | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yields every image once, in the order of the set, not augmented; the last batch may be smaller.

    limit: the most images; they are the same ones every time, each class with its share. batch_size: images of all
    ranks together, of which each gets its slice; a rank may get none of a small last batch. device: where the batches
    lie. While iterating, raises ConfigError if more than 1 % of the set's files, or all files of a class, are
    unreadable.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"expected batch_size >= 1 and limit >= 1, got {batch_size} and {limit}")
    if limit is None or limit >= len(images):
        indices = np.arange(len(images))
    else:
        indices = stratified_choice(images.labels, limit, _LIMIT_SEED)
    items = _unseeded(indices)
    whole = (items[i : i + batch_size] for i in range(0, len(items), batch_size))
    shares = (batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size] for batch in whole)
    return _loaded(images, (share for share in shares if share), augment=False, workers=workers, device=device)


def statistics_batches(
    images: ImageSet,
    batch_size: int,
    count: int,
    workers: int | None,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Yields whole batches, not augmented, for BN statistics: at most `count` times `batch_size` images.

    The images are always the same, each class with its share, in a shuffled order: a set is often stored by class, and
    the variance within a batch of one class is not that of the data. Neither the images nor the batches depend on the
    number of processes. The ranks take whole batches in turn. A batch has at most MOST_STATISTICS_IMAGES images,
    because a rank's memory may suffice only for its slice of `batch_size`.

    There is no smaller last batch: it would weigh as much as a whole one, and a single image on a 1x1 map has no
    variance. A set smaller than one batch is one batch. Raises ConfigError as `evaluation_batches` does.
    """
    size = min(batch_size, MOST_STATISTICS_IMAGES, len(images))
    amount = min(count * batch_size, len(images)) // size * size
    indices = mixed_choice(images.labels, amount, _LIMIT_SEED).reshape(-1, size)
    batches = (_unseeded(indices[b]) for b in range(rank, len(indices), world_size))
    return _loaded(images, batches, augment=False, workers=workers, device=device)


def _unseeded(indices: np.ndarray) -> list[Item]:
    """Returns items to load that are not augmented."""
    return [Item(0, 0, i) for i in indices.tolist()]


def _loaded(
    images: ImageSet,
    batches: Iterable[list[Item]],
    *,
    augment: bool,
    workers: int | None,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Generator[Batch]:
    """Loads each list of items, in order. Raises ConfigError if too many files are unreadable.

    Processes read files; a thread reads what is in memory, which is a matter of copies. Without workers the program
    itself reads, between two steps.
    """
    images.prepare()
    count, gpu = worker_count(workers), device.type == "cuda"

    def read(items: list[Item]) -> RawBatch:
        raw = images.read(items, augment=augment)
        return pinned(raw) if gpu else raw

    def finished(raw: RawBatch) -> Batch:
        if raw.encoded is not None:
            assert isinstance(images, FolderImages)
            size = images.augmentation.size_at(raw.encoded.items[0].epoch, images.preprocessing.input_size)
            raw = decoded(raw, size, device, images.read_here)
        batch = images.preprocessing.finished(raw, device)
        return batch._replace(images=batch.images.contiguous(memory_format=layout))

    in_memory = images.readers is None and count > 0
    if images.readers is not None and count > 0:
        raws: Iterable[RawBatch] = images.readers.read(images, batches, augment=augment, workers=count, pin_memory=gpu)
    elif gpu and in_memory:
        raws = in_thread(read, batches, ahead=2)
    else:
        raws = map(read, batches)
    if gpu:
        ready: Iterable[Batch] = beside_the_training(finished, raws, device)
    elif in_memory:
        ready = in_thread(lambda items: finished(read(items)), batches)
    else:
        ready = map(finished, raws)
    for batch in ready:
        try:
            images.corrupt.add(batch.corrupt)
        except ConfigError:
            _end_processes(images)
            raise
        yield batch


def _end_processes(images: ImageSet) -> None:
    """Ends the processes that read the files of a set, if it has any."""
    if images.readers is not None:
        images.readers.close()
