"""Turns failed allocations into errors that name what the user can change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import UserError

_GPU = ("CUDA out of memory", "CUDA error: out of memory", "HIP out of memory", "_STATUS_ALLOC_FAILED")
_HOST = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turns an allocation that failed inside, on a GPU or on the host, into a UserError that names the ways out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _GPU):
            place = "the GPU's memory"
            ways = "run.amp=bf16, more GPUs that share the batch (docs/cluster.md), or a GPU that nothing else uses"
        elif isinstance(error, MemoryError) or any(sign in text for sign in _HOST):
            place, ways = "the memory of this machine", "fewer data.workers, or end other programs"
        else:
            raise
        detail = " ".join(text.split())[:200] or "an allocation failed"
        remedy = f"choose a smaller batch_size, {ways}"
        raise UserError(found=f"{place} does not suffice ({detail})", remedy=remedy) from error
