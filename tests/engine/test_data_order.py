"""A split has the exact shares, and splits and orders are pure functions of a seed."""

import numpy as np
import pytest

from engine.data import stratified_split
from engine.data.order import epoch_order, stratified_choice, training_batches
from engine.errors import ConfigError
from engine.seeding import generator, mix

LABELS = np.random.default_rng(0).choice(4, size=203, p=[0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("validation", [0.5, 0.1, 0.31, 1, 57, 180])
def test_split_is_a_partition_with_exact_shares(validation):
    kept, held_out = stratified_split(LABELS, validation, seed=7)
    amount = validation if isinstance(validation, int) else round(validation * len(LABELS) + 1e-9)
    assert len(held_out) == amount
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(LABELS)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    exact = amount * np.bincount(LABELS) / len(LABELS)
    assert (np.abs(np.bincount(LABELS[held_out], minlength=4) - exact) < 1).all()


def test_the_last_images_of_a_split_go_to_the_classes_with_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [41, 34, 25])  # of 10: 4.1, 3.4, 2.5
    assert np.bincount(labels[stratified_choice(labels, 10, seed=0)]).tolist() == [4, 3, 3]


def test_split_depends_on_the_seed_alone():
    first, again, other = (stratified_split(LABELS, 0.5, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("validation", "part"), [(203, "203 of 203"), (500, "500 of 203"), (0.001, "0 of 203")])
def test_split_refuses_an_empty_part(validation, part):
    with pytest.raises(ConfigError, match=rf"data\.validation: .* holds out {part} .* expected 1 to 202"):
        stratified_split(LABELS, validation, seed=0)


def test_split_refuses_a_class_without_training_image():
    with pytest.raises(ConfigError, match=r"data\.validation: .* no training image of class 1"):
        stratified_split(np.array([0] * 9 + [1]), 9, seed=0)


def test_an_epoch_is_a_permutation_fixed_for_ever():
    assert sorted(epoch_order(50, 3, 1)) == list(range(50))
    assert not np.array_equal(epoch_order(50, 3, 1), epoch_order(50, 3, 2))
    assert epoch_order(8, 3, 1).tolist() == [5, 3, 2, 7, 4, 6, 0, 1]  # a change here breaks every resumed run


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_an_order_resumed_at_any_step_gives_the_batches_of_a_whole_one(start):
    whole, resumed = training_batches(23, 5, seed=1), training_batches(23, 5, seed=1, start=start)
    for _ in range(start):
        next(whole)
    assert [next(whole) for _ in range(9)] == [next(resumed) for _ in range(9)]


def test_slices_of_the_ranks_are_the_global_batch():
    whole = training_batches(23, 6, seed=1)
    ranks = [training_batches(23, 6, seed=1, rank=r, world_size=3) for r in range(3)]
    for _ in range(8):
        assert next(whole) == [item for rank in ranks for item in next(rank)]


def test_keys_of_different_shape_give_different_seeds():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32, 0), (1, 2), (2, 1)]
    seeds = [mix(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert generator(1, 2).initial_seed() == mix(1, 2)
    with pytest.raises(ValueError, match="integer in"):
        mix(-1)
