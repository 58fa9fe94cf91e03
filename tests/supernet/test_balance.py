"""Warm-up trains the candidates of an edge in their shares, independently of other edges."""

from __future__ import annotations

import torch

from supernet.balance import balanced_paths, training_slots


def test_candidates_that_are_not_spatial_get_half_a_share(load_space):
    ops = ["mbconv_k3_e3", "mbconv_k5_e6"]
    stages = [
        {"width": 16, "depth": 2, "stride": 2, "first": ["proj", *ops], "candidates": ["skip", *ops]},
        {"width": 16, "depth": 1, "candidates": ["conv_k1", "conv_k3", "sepconv_k3"]},
    ]
    space = load_space("small", stages=stages)
    assert training_slots(space).tolist() == [[0, 1, 1, 2, 2]] * 3


def test_candidates_get_equal_shares_if_all_or_none_are_spatial(load_space):
    space = load_space("imagenet")
    for edge, row in zip(space.searchable, training_slots(space).tolist(), strict=True):
        names = [edge.candidates[i] for i in row if i >= 0]
        if "skip" in edge.candidates:
            assert all(names.count(name) == 1 + (name != "skip") for name in edge.candidates)
        else:
            assert names == list(edge.candidates)


def test_balanced_paths_take_every_slot_equally_often_in_a_block_and_edges_are_independent():
    slots = torch.tensor([[0, 1, 2, 3], [0, 1, 1, -1], [0, 1, -1, -1]])
    counts = torch.zeros(3, 4)
    for block in range(600):
        paths = [balanced_paths(slots, torch.Generator().manual_seed(block), position) for position in range(4)]
        taken = torch.tensor(paths)
        counts += torch.stack([torch.bincount(taken[:, e], minlength=4) for e in range(3)])
        assert sorted(taken[:, 0].tolist()) == [0, 1, 2, 3]
        assert 1 <= taken[:, 1].tolist().count(0) <= 2
        assert taken[:, 2].tolist().count(0) == 2
    share = counts / counts.sum(dim=1, keepdim=True)  # of 2400 draws: a standard deviation of at most 0.01
    wanted = torch.tensor([[1 / 4] * 4, [1 / 3, 2 / 3, 0, 0], [1 / 2, 1 / 2, 0, 0]])
    torch.testing.assert_close(share, wanted, atol=0.04, rtol=0)
    pairs = [balanced_paths(slots, torch.Generator().manual_seed(s), 0)[:2] for s in range(2000)]
    wanted = {0: 1 / 12, 1: 2 / 12}
    assert all(abs(pairs.count((a, b)) / 2000 - wanted[b]) < 0.03 for a in range(4) for b in range(2))
