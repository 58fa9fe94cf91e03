"""Sampling has the distribution it claims, at any magnitude of alpha."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from supernet.alpha import Alpha

ROWS = [  # alpha, its padding
    ([0.0, 0.0, 0.0, 0.0], 0),
    ([1.0, -0.5, 0.3, 2.0], 0),
    ([1.5, 0.0, 9.0, 9.0], 2),
    ([-1.0, 0.4, 0.2, 50.0], 1),
    ([30.0, 0.0, 15.0, 29.0], 0),
    ([0.0, -800.0, -801.0, 0.0], 1),  # the probabilities of the last two underflow, in pairs one is always drawn
    ([0.0, 1e4, -1e4, 1e30], 1),
]
N = 40_000


def table() -> Alpha:
    values = torch.tensor([row for row, _ in ROWS])
    mask = torch.tensor([[i < 4 - padding for i in range(4)] for _, padding in ROWS])
    return Alpha(values, mask)


def tiled() -> Alpha:
    """N copies of each row, one draw: a draw treats edges as independent, which is tested below."""
    alpha = table()
    return Alpha(alpha.values.repeat(N, 1), alpha.mask.repeat(N, 1))


def assert_frequencies(counts: Tensor, p: Tensor) -> None:
    """Each count within 5 standard deviations of its binomial; what cannot happen never happened."""
    n = counts.sum()
    sigma = (n * p * (1 - p)).sqrt()
    assert ((counts - n * p).abs() <= 5 * sigma + 1e-3).all(), (counts / n, p)


def softmax(values: list[float]) -> Tensor:
    """Written out, in Python's floats."""
    weights = [math.exp(v - max(values)) for v in values]
    return torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)


def test_probabilities_are_the_softmax_of_each_row():
    alpha = table()
    p = alpha.probabilities()
    assert p.dtype == torch.float64
    for e, (row, padding) in enumerate(ROWS):
        real = 4 - padding
        torch.testing.assert_close(p[e, :real], softmax(row[:real]))
        assert (p[e, real:] == 0).all()
    assert torch.equal(alpha.log_probabilities().isinf(), ~alpha.mask)


def test_path_frequencies_match_p():
    alpha = tiled()
    paths = torch.tensor(alpha.sample_paths(torch.Generator().manual_seed(0))).view(N, len(ROWS))
    for e, (row, padding) in enumerate(ROWS):
        counts = torch.bincount(paths[:, e], minlength=4)
        assert counts[4 - padding :].sum() == 0
        assert_frequencies(counts[: 4 - padding].double(), softmax(row[: 4 - padding]))


def test_edges_are_drawn_independently():
    values = torch.zeros(2, 3).repeat(N, 1)
    paths = torch.tensor(Alpha(values, values == 0).sample_paths(torch.Generator().manual_seed(1))).view(N, 2)
    joint = torch.bincount(3 * paths[:, 0] + paths[:, 1], minlength=9)
    assert_frequencies(joint.double(), torch.full((9,), 1 / 9, dtype=torch.float64))


def test_pair_frequencies_match_enumeration():
    """Drawn without replacement, P(a then b) = p_a p_b / (1 - p_a)."""
    alpha = tiled()
    drawn = alpha.sample_pairs(torch.Generator().manual_seed(2)).pairs.view(N, len(ROWS), 2)
    for e, (row, padding) in enumerate(ROWS):
        values = row[: 4 - padding]
        assert (drawn[:, e] < len(values)).all()
        assert (drawn[:, e, 0] != drawn[:, e, 1]).all()
        p = softmax(values)
        for a, b in permutations(range(len(values)), 2):
            others = [v for i, v in enumerate(values) if i != a]
            given_a = softmax(others)[b - (b > a)]  # p_b / (1 - p_a), also where 1 - p_a rounds to 0
            count = ((drawn[:, e, 0] == a) & (drawn[:, e, 1] == b)).sum().double()
            expected = p[a] * given_a
            sigma = (N * expected * (1 - expected)).sqrt()
            assert (count - N * expected).abs() <= 5 * sigma + 1e-3, (row, a, b, count / N, expected)


def test_active_candidate_is_drawn_from_q():
    alpha = tiled()
    sample = alpha.sample_pairs(torch.Generator().manual_seed(3))
    paths = torch.tensor(sample.paths)
    assert (paths[:, None] == sample.pairs).sum(dim=1).eq(1).all()
    a, b = alpha.values.double().gather(1, sample.pairs).unbind(1)
    q_first = torch.sigmoid(a - b)  # softmax of two
    torch.testing.assert_close(sample.q, torch.stack([q_first, torch.sigmoid(b - a)], dim=1))
    first = (paths == sample.pairs[:, 0]).double()
    for e in range(len(ROWS)):
        rows = slice(e, None, len(ROWS))
        q, drawn = q_first[rows], first[rows]
        sigma = (q * (1 - q)).sum().sqrt()
        assert (drawn.sum() - q.sum()).abs() <= 5 * sigma + 1e-3
        lower = sample.pairs[rows, 0] == 0  # also given which pair it is, not only on average
        assert (drawn[lower].sum() - q[lower].sum()).abs() <= 5 * (q * (1 - q))[lower].sum().sqrt() + 1e-3


@pytest.mark.parametrize("sample", [Alpha.sample_paths, Alpha.sample_pairs])
def test_a_draw_is_a_function_of_the_generators_seed(sample):
    alpha = table()
    alpha = Alpha(alpha.values[:5].repeat(20, 1), alpha.mask[:5].repeat(20, 1))

    def paths(seed: int) -> tuple[int, ...]:
        drawn = sample(alpha, torch.Generator().manual_seed(seed))
        return drawn if sample is Alpha.sample_paths else drawn.paths

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = paths(5)
    torch.manual_seed(9)
    assert paths(5) == first
    assert paths(6) != first
    torch.manual_seed(0)
    paths(7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not drawn from


def test_sampling_ignores_autograd_and_leaves_alpha_alone():
    alpha = table()
    alpha.values.requires_grad_()
    before = alpha.values.detach().clone()
    alpha.sample_paths(torch.Generator())
    assert not alpha.sample_pairs(torch.Generator()).q.requires_grad
    assert torch.equal(alpha.values.detach(), before)


def test_padding_never_reaches_probabilities_or_their_gradient():
    alpha = table()
    alpha.values.requires_grad_()
    p = alpha.probabilities()
    (gradient,) = torch.autograd.grad((p * torch.arange(4.0)).sum(), [alpha.values])
    assert gradient.isfinite().all()
    assert (gradient[~alpha.mask] == 0).all()
    other = alpha.with_values(torch.where(alpha.mask, alpha.values.detach(), 123.0))
    assert torch.equal(other.probabilities(), p.detach())


def test_entropy_is_the_mean_over_edges_and_ignores_padding():
    """log N where uniform, 0 where decided, the mean over edges; padding does not count."""
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    uniform = torch.zeros(2, 4)
    assert Alpha(uniform, mask).entropy().item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    decided = torch.tensor([[900.0, 0, 0, 0], [0, 900.0, 0, 0]])
    assert Alpha(decided, mask).entropy().item() == 0
    p = softmax([1.0, -0.5, 0.3, 2.0])
    values = torch.tensor([[1.0, -0.5, 0.3, 2.0]])
    assert Alpha(values, mask[:1]).entropy().item() == pytest.approx(-(p * p.log()).sum().item())


def test_the_alpha_of_a_space_is_uniform_and_has_its_names(load_space):
    space = load_space("imagenet")
    alpha = Alpha.of_space(space)
    assert (alpha.values.dtype, alpha.values.device.type) == (torch.float32, "cpu")
    p = alpha.probabilities()
    for e, edge in enumerate(space.searchable):
        n = len(edge.candidates)
        torch.testing.assert_close(p[e, :n], torch.full((n,), 1 / n, dtype=torch.float64))
    first = space.searchable[0]
    assert list(alpha.named_probabilities()) == [edge.name for edge in space.searchable]
    assert alpha.named_probabilities()[first.name] == dict(zip(first.candidates, p[0].tolist(), strict=False))
