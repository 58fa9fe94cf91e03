"""Batches that a thread prepares: in order, not too far ahead, errors where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, islice

import pytest
import torch

from engine.data import Batch
from engine.data.ahead import beside_the_training, in_thread


def test_a_thread_computes_in_order_and_the_caller_takes_the_inputs():
    where: list[tuple[str, threading.Thread]] = []

    def inputs() -> Iterator[int]:
        for i in count():
            where.append(("input", threading.current_thread()))
            yield i

    def square(i: int) -> int:
        where.append(("function", threading.current_thread()))
        return i * i

    results = in_thread(square, inputs(), ahead=2)
    assert list(islice(results, 5)) == [0, 1, 4, 9, 16]
    results.close()
    assert {thread for kind, thread in where if kind == "input"} == {threading.main_thread()}
    (worker,) = {thread for kind, thread in where if kind == "function"}
    assert not worker.is_alive()
    assert sum(kind == "input" for kind, _ in where) == 5 + 2  # no further than asked for


def test_an_error_comes_when_its_result_is_due():
    results = in_thread(lambda i: 6 // (3 - i), range(5))
    assert list(islice(results, 3)) == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(in_thread(str, [])) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_is_finished_beside_a_step_and_not_overwritten_before_it_ends():
    """The step is slow; each batch has the memory of one that the caller has dropped."""
    device = torch.device("cuda")

    def finish(i: int) -> Batch:
        images = torch.full((64, 1, 64, 64), float(i)).pin_memory().to(device, non_blocking=True)
        return Batch(images.mul_(2), torch.full((64,), i, device=device))

    sums = []
    for batch in beside_the_training(finish, range(20), device):
        torch.cuda._sleep(3_000_000)
        sums.append(batch.images.mean())
        del batch
    assert torch.stack(sums).tolist() == [2.0 * i for i in range(20)]
