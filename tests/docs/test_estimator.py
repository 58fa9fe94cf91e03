"""docs/extending/estimator.md: the example's error is half that of the published estimate, and searches run with it."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from engine.errors import UserError
from search.learn.gradient import of_pair, own_estimate, second_order, softmax_jacobian
from search.own import with_permitted_modules
from supernet.alpha import Alpha

EXAMPLE = "docs/examples/own_estimator.py:halfway"


def expectation(estimate, p, slope, curvature):
    """The estimate's mean over all paths, for the loss slope.g + g'Cg/2 of one edge, and the gradient it estimates."""
    losses = slope + torch.diagonal(curvature) / 2
    mean = sum(p[0, a] * estimate((slope + curvature[a])[None], p, torch.tensor([a])) for a in range(p.shape[1]))
    return mean, softmax_jacobian(losses[None], p)


def test_the_examples_error_is_half_that_of_the_published_estimate():
    draws = torch.Generator().manual_seed(0)
    slope, half = (torch.randn(size, dtype=torch.float64, generator=draws) for size in ((3,), (3, 3)))
    p = torch.randn(1, 3, dtype=torch.float64, generator=draws).softmax(dim=1)
    curvature = half @ half.T
    mean, exact = expectation(own_estimate(EXAMPLE), p, slope, curvature)
    published, _ = expectation(lambda d, p, _: softmax_jacobian(d, p), p, slope, curvature)
    assert (published - exact).abs().max() > 0.05
    torch.testing.assert_close(mean - exact, (published - exact) / 2, rtol=1e-10, atol=1e-12)


def test_a_function_is_used_on_the_pairs_of_two_path_alone(space_of, tiny_search):
    space = space_of(tiny_search["space"])
    draws = torch.Generator().manual_seed(0)
    alpha = Alpha.of_space(space, torch.randn(space.mask.shape, generator=draws))
    sample = alpha.sample_pairs(draws)
    d_gates = torch.randn(space.mask.shape, dtype=torch.float64, generator=draws)
    got = of_pair(own_estimate(EXAMPLE), d_gates, sample)
    for e, i in product(range(got.shape[0]), range(got.shape[1])):
        assert (got[e, i] != 0) == (i in sample.pairs[e].tolist())
    active = (sample.pairs == torch.tensor(sample.paths)[:, None]).long().argmax(dim=1)
    d = d_gates.gather(1, sample.pairs)
    by_hand = (softmax_jacobian(d, sample.q) + second_order(d, sample.q, active)) / 2
    torch.testing.assert_close(got.gather(1, sample.pairs), by_hand)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("p.sum()", "returned a tensor () of float64 on cpu, expected finite numbers, a float tensor (2, 3)"),
        ("None", "returned a value of type NoneType, expected finite numbers"),
        ("p / 0", "returned numbers that are not finite, expected finite numbers"),
        ("q", "mine() failed: own.py, line 2: NameError: name 'q' is not defined"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, returned, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(f"def mine(d_gates, p, active):\n    return {returned}\n")
    with pytest.raises(UserError, match=r"^search.gate_gradient: ") as error:
        own_estimate("own.py:mine")(torch.ones(2, 3).double(), torch.ones(2, 3).double(), torch.zeros(2).long())
    assert message in str(error.value)


def test_a_run_from_elsewhere_may_not_call_a_function_unasked():
    config = {"search": {"gate_gradient": "theirs.py:mine"}}
    with pytest.raises(ValueError, match=r"would run 'theirs.py'"):
        with_permitted_modules(config, [])
