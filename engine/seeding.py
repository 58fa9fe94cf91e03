"""Derives seeds for independent random draws from a key such as (seed, epoch, stream)."""

from __future__ import annotations

import numpy as np
import torch

_WORD = 1 << 32


def mix(*key: int) -> int:
    """Returns a seed in [0, 2**63), a pure function of `key`; different keys give unrelated seeds.

    Raises ValueError unless each part of the key is an integer in [0, 2**64).
    """
    words = [len(key)]
    for part in key:
        if not 0 <= part < _WORD * _WORD:
            raise ValueError(f"a seed is an integer in [0, 2**64), got {part}")
        # SeedSequence pads with zeros and cuts integers into as many 32-bit words as they need, so (1,) and (1, 0), or
        # (2**32,) and (0, 1), would be the same entropy: the length and two words for each part keep keys apart.
        words += divmod(int(part), _WORD)
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # torch and int64 tensors hold 63 bits


def generator(*key: int) -> torch.Generator:
    """Returns a CPU generator seeded by `mix(*key)`; torch's global generator stays as it is."""
    return torch.Generator(device="cpu").manual_seed(mix(*key))
