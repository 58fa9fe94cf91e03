"""A seed is a pure function of its key, and different keys have unrelated seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from engine.seeding import generator, mix


def test_different_keys_give_different_seeds():
    parts = (0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
    keys = [key for length in range(4) for key in itertools.product(parts, repeat=length)]
    assert len({mix(*key) for key in keys}) == len(keys)


def test_a_seed_is_a_pure_function_of_its_key_in_63_bits():
    seeds = [mix(seed, epoch) for seed in range(40) for epoch in range(50)]
    assert seeds == [mix(seed, epoch) for seed in range(40) for epoch in range(50)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used
    assert mix(np.int64(7), 1) == mix(7, 1)


@pytest.mark.parametrize("part", [-1, 2**64])
def test_a_part_outside_64_bits_is_refused(part):
    with pytest.raises(ValueError, match="a seed is an integer"):
        mix(0, part)


def test_a_generator_repeats_and_leaves_the_global_one_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what is looked at
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = torch.rand(5, generator=generator(1, 2))
    assert torch.equal(first, torch.rand(5, generator=generator(1, 2)))
    assert not torch.equal(first, torch.rand(5, generator=generator(2, 1)))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002
