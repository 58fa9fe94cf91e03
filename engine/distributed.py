"""Describes the processes that share a run, as a value that is passed around, and exchanges data between them."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypedDict, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.config import differences
from engine.errors import ConfigError, UserError

T = TypeVar("T")

WAIT = timedelta(hours=24)
"""The longest wait for a process that works alone, e.g. times a network. A process that ends is noticed at once, since
its connections close; the others wait so long only if it hangs."""
STEP_WAIT = timedelta(minutes=30)
"""The longest wait for what every step sends. It is short, because NCCL does not notice that a process on another
machine has ended."""


class Slice(TypedDict):
    """The part of each batch that a process gets, as arguments of a stream of batches."""

    rank: int
    world_size: int


class LostPeerError(UserError):
    """Another process of the job has ended, or cannot be reached."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them.

    All processes call the methods in the same order. With one process the methods cost nothing.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The number of this process among those of its machine, and of the GPU that it uses."""
    host: dist.ProcessGroup | None = None
    """The connection for objects and for long waits (WAIT): gloo, on CPUs."""
    steps: dist.ProcessGroup | None = None
    """The connection for training steps (STEP_WAIT), which `on` opens: NCCL between GPUs, gloo between CPUs."""

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes and prints for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether the run has one process."""
        return self.world_size == 1

    @property
    def slice(self) -> Slice:
        """The rank and the number of processes, as arguments of a stream of batches."""
        return {"rank": self.rank, "world_size": self.world_size}

    def on(self, device: torch.device) -> Group:
        """Returns the group with a connection for results on `device`. Raises ConfigError for GPUs without NCCL."""
        if self.alone:
            return self
        gpu = device.type == "cuda"
        if gpu and not dist.is_nccl_available():
            found = "got 'cuda' in several processes, but this torch has no NCCL, which connects GPUs"
            raise ConfigError("run.device", found, remedy="install torch for Linux with CUDA, or start one process")
        with _connected():
            steps = dist.new_group(
                backend="nccl" if gpu else "gloo", timeout=STEP_WAIT, device_id=device if gpu else None
            )
        assert isinstance(steps, dist.ProcessGroup)  # torch's other answer is for processes left out of a group
        return replace(self, steps=steps)

    def share_of(self, batch_size: int, key: str, parts: int = 1) -> int:
        """Returns how many images of a batch this process has.

        parts: the networks among which it divides them. Raises ConfigError, which begins with `key`, if the processes
        cannot share the batch.
        """
        n = self.world_size
        least = 2 * n * parts
        if batch_size % n or batch_size < least:
            why = "in each process" if parts == 1 else f"for each of the {parts} networks in each process"
            raise ConfigError(
                key,
                f"got {batch_size}, which {n} processes share",
                f"a multiple of {n}, {least} or more (BN needs 2 images {why})",
                "change it, or the number of processes",
            )
        return batch_size // n

    def mean_of(self, values: Tensor) -> Tensor:
        """Returns the mean over processes, the same bits in each. values: on the device that `on` was called with."""
        if self.alone:
            return values
        total = values.detach().clone()
        with _connected():
            dist.all_reduce(total, group=self.steps)  # a sum: gloo has no mean
        return total.div_(self.world_size)

    def sum_of(self, values: Tensor) -> Tensor:
        """Returns the sum over processes of values on the CPU. Processes may call it hours apart (WAIT)."""
        if self.alone:
            return values
        total = values.detach().clone()
        with _connected():
            dist.all_reduce(total, group=self.host)
        return total

    def largest(self, value: int) -> Callable[[], int]:
        """Starts to compute the largest of all processes' values and returns a function that waits for it.

        Meanwhile the processes may compute and exchange other tensors.
        """
        if self.alone:
            return lambda: value
        maximum = torch.tensor([value])
        with _connected():
            work = dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=self.host, async_op=True)
        assert work is not None

        def wait() -> int:
            with _connected():
                work.wait()
            return int(maximum)

        return wait

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copies process 0's values into the tensors of all processes, in place.

        tensors: float32, on the device that `on` was called with.
        """
        if self.alone:
            return
        with torch.no_grad():
            views = [in_storage_order(tensor) for tensor in tensors]
            flat = torch.cat(views)
            with _connected():
                dist.broadcast(flat, src=0, group=self.steps)
            for view, values in zip(views, flat.split([view.numel() for view in views]), strict=True):
                view.copy_(values)

    def average_statistics(self, module: nn.Module) -> None:
        """Replaces BN's running statistics by their means over the processes, each of which had its own batches."""
        if self.alone:
            return
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]  # whole numbers count batches
        if buffers:
            means = self.mean_of(torch.cat([buffer.flatten() for buffer in buffers]))
            for buffer, values in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))

    def from_first(self, make: Callable[[], T]) -> T:
        """Calls `make` in process 0 and returns the result in all processes. If it raises, the job ends."""
        if self.alone:
            return make()
        made: list[Any] = [make() if self.first else None]
        with _connected():
            dist.broadcast_object_list(made, src=0, group=self.host)
        received: T = made[0]
        return received

    def gathered(self, value: T) -> list[T]:
        """Returns the values of all processes, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _connected():
            dist.all_gather_object(values, value, group=self.host)
        return values

    def check_same(self, value: Any, what: str) -> None:
        """Raises UserError in every process if one of them has another value than process 0.

        The error shows how the value of the first such process differs. what: the name of the value.
        """
        if self.alone:
            return
        digests = self.gathered(zlib.crc32(repr(value).encode()))
        if len(set(digests)) == 1:
            return
        values = self.gathered(value)
        odd = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        changes = "; ".join(differences(values[0], values[odd])[:3])
        raise UserError(
            what,
            f"process {odd} has another than process 0{f' ({changes})' if changes else ''}",
            remedy="give all machines the same files, the same versions and CPUs of one kind",
        )

    def barrier(self) -> None:
        """Waits until all processes have called it."""
        if not self.alone:
            with _connected():
                dist.barrier(group=self.host)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Runs the block in process 0, then in the first process of each other machine, then in the rest.

        So each process finds the files that an earlier one has downloaded.
        """
        turn = 0 if self.first else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.barrier()
        yield
        for _ in range(2 - turn):
            self.barrier()


ALONE = Group()
"""The group of a run of one process."""


_DEVICE = re.compile(r"(?:cuda|hip) (?:error|failure)|device-side assert", re.IGNORECASE)
_LOST = re.compile(
    r"(?:closed|reset) by (?:remote )?peer|broken pipe|connection refused|no route to host|network is unreachable"
    r"|timed out|timeout|pair closure|ncclRemoteError|remote process exited|communicator was aborted",
    re.IGNORECASE,
)
"""Matches the messages of gloo and NCCL about a peer that has ended or does not answer. NCCL's general text for a
failed system call is left out: it mentions a peer, but appears for a full /dev/shm too."""


def tells_of_a_lost_peer(error: RuntimeError) -> bool:
    """Returns whether the error of a collective means that another process has ended or cannot be reached, rather than
    that this process is at fault, with its GPU, its memory or the tensors that it sent."""
    if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError) or _DEVICE.search(str(error)):
        return False
    return isinstance(error, dist.DistNetworkError) or _LOST.search(str(error)) is not None


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raises LostPeerError if a message cannot be sent or received because a peer has ended; other errors pass
    unchanged."""
    try:
        yield
    except RuntimeError as error:  # "[.../pair.cc:561] Connection closed by peer [10.0.0.1]:6038. This is typically..."
        if not tells_of_a_lost_peer(error):
            raise
        found = f"another process of this job has ended, or cannot be reached ({detail_of(error)})"
        raise LostPeerError(found=found, remedy="continue with --resume") from error


def detail_of(error: BaseException) -> str:
    """Returns the first sentence of torch's message, without the place in torch's source."""
    return str(error).split("\n")[0].split("] ", 1)[-1].split(". ")[0]


def in_storage_order(tensor: Tensor) -> Tensor:
    """Returns a flat view (numel,) of a dense tensor of any memory format."""
    return tensor.as_strided((tensor.numel(),), (1,))


BUCKET_BYTES = 8 << 20
"""The size of a message with gradients: large enough that the cost of a message itself does not count, and small enough
that most are sent while backward still runs."""


class GradientReduction(contextlib.AbstractContextManager[None]):
    """Replaces the gradients that backward makes by their means over the processes: `with reduction: loss.backward()`.

    They travel in flat buckets as they get ready, while backward goes on. Parameters without a gradient are not sent
    and stay without one. All processes must run the same graph: gradients then get ready in the same order everywhere.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: Group):
        self._group = group
        self._inside = False
        self._ready: list[nn.Parameter] = []
        self._bytes = 0
        self._sent: list[tuple[Tensor, dist.Work]] = []
        for p in parameters:
            p.register_post_accumulate_grad_hook(self._collect)

    def __enter__(self) -> None:
        self._inside, self._ready, self._bytes, self._sent = True, [], 0, []

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._inside = False
        if error is not None:
            return
        if self._ready:
            self._send()
        for bucket, work in self._sent:
            with _connected():
                work.wait()
            bucket.div_(self._group.world_size)  # gloo has no mean
        self._sent = []

    def _collect(self, p: Tensor) -> None:
        assert isinstance(p, nn.Parameter)
        assert p.grad is not None
        if not self._inside:
            return
        if self._ready and self._ready[0].grad is not None and self._ready[0].grad.dtype != p.grad.dtype:
            self._send()
        self._ready.append(p)
        self._bytes += p.grad.nbytes
        if self._bytes >= BUCKET_BYTES:
            self._send()

    def _send(self) -> None:
        grads = [p.grad for p in self._ready if p.grad is not None]
        bucket = torch.cat([in_storage_order(grad) for grad in grads])
        begin = 0
        for p, grad in zip(self._ready, grads, strict=True):  # parts of the bucket from now on: nothing is copied back
            p.grad = bucket.as_strided(grad.shape, grad.stride(), begin)
            begin += grad.numel()
        with _connected():
            work = dist.all_reduce(bucket, group=self._group.steps, async_op=True)
        assert work is not None
        self._sent.append((bucket, work))
        self._ready, self._bytes = [], 0


def reduce_gradients(parameters: Sequence[nn.Parameter], group: Group) -> contextlib.AbstractContextManager[None]:
    """Returns the context for the backward passes of a run: a GradientReduction, or one that does nothing for a process
    alone."""
    return contextlib.nullcontext() if group.alone else GradientReduction(parameters, group)
