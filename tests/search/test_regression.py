"""Tests alpha by regression: ridge, marginal likelihood, fading, and its relation to REINFORCE."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from engine.data import Batch
from search.learn.regression import (
    CORRELATIONS,
    RATIOS,
    Evidence,
    choices,
    fit,
    network_losses,
    regression_step,
    restored,
)
from search.learn.reinforce import policy_gradient
from supernet.alpha import Alpha
from supernet.supernet import Supernet

EDGES, CANDIDATES = 3, 3
MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
COUNTS = MASK.sum(dim=1).tolist()


def drawn(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    return [tuple(int(rng.integers(n)) for n in COUNTS) for _ in range(count)]


def additive(effects: torch.Tensor, networks: list[tuple[int, ...]]) -> torch.Tensor:
    return (choices(networks, CANDIDATES) @ effects.flatten()).double()


@pytest.fixture
def effects():
    made = torch.from_numpy(np.random.default_rng(0).normal(size=MASK.shape)).masked_fill(~MASK, 0.0)
    return made - made.sum(dim=1, keepdim=True) / MASK.sum(dim=1, keepdim=True) * MASK


def evidence_of(effects, batches, noise, seed=1, shift=5.0):
    rng = np.random.default_rng(seed)
    evidence = Evidence.none(EDGES, CANDIDATES)
    for _ in range(batches):
        networks = drawn(6, rng)
        losses = additive(effects, networks) + shift * rng.normal() + noise * torch.from_numpy(rng.normal(size=6))
        evidence = evidence.with_batch(networks, losses, CANDIDATES)
    return evidence


def test_effects_are_recovered_whatever_batches_add(effects):
    estimated = fit(evidence_of(effects, 200, 0.1), MASK)
    assert float((estimated.mean - effects).abs().max()) < 0.05
    assert estimated.noise == pytest.approx(0.1, rel=0.1)
    assert (estimated.mean[~MASK] == 0).all()


def test_the_error_is_that_of_differences_over_repetitions(effects):
    """The root mean square of (estimated - true difference), over 200 sets of evaluations."""
    misses, predicted = [], []
    for seed in range(200):
        estimated = fit(evidence_of(effects, 10, 0.5, seed), MASK)
        predicted.append(estimated.error**2)
        for e, n in enumerate(COUNTS):
            for i in range(n):
                misses += [
                    float(estimated.mean[e, i] - estimated.mean[e, j] - effects[e, i] + effects[e, j]) ** 2
                    for j in range(i)
                ]
    assert np.mean(misses) == pytest.approx(np.mean(predicted), rel=0.15)


def contrasts_of(effects, batches, noise, seed):
    """Batches of four networks, and all independent contrasts within them: their designs (rows, EN) and losses."""
    rng = np.random.default_rng(seed)
    designs, losses = [], []
    evidence = Evidence.none(EDGES, CANDIDATES)
    for _ in range(batches):
        networks = drawn(4, rng)
        y = 0.3 * additive(effects, networks) + noise * torch.from_numpy(rng.normal(size=4))
        evidence = evidence.with_batch(networks, y, CANDIDATES)
        contrasts = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3].T  # orthonormal, each sums to 0
        designs.append(contrasts @ choices(networks, CANDIDATES).numpy())
        losses.append(contrasts @ y.numpy())
    return evidence, np.concatenate(designs), np.concatenate(losses)


def test_variances_maximise_the_marginal_likelihood_of_centred_losses(effects):
    """The likelihood of all contrasts within batches, by the density of a normal distribution."""
    evidence, X, y = contrasts_of(effects, 6, 0.2, seed=3)

    def log_likelihood(a, d):
        return multivariate_normal.logpdf(y, cov=a**2 * X @ X.T + d**2 * np.eye(len(y)))

    estimated = fit(evidence, MASK)
    best = log_likelihood(estimated.effect, estimated.noise)
    for a, d in product((0.8, 0.95, 1.0, 1.05, 1.25), repeat=2):
        assert log_likelihood(a * estimated.effect, d * estimated.noise) <= best + 1e-6


@pytest.mark.parametrize("seed", [21, 258, 270, 278])
def test_few_evaluations_are_explained_by_effects_though_no_effect_is_a_maximum_too(seed):
    """12 networks over 6 edges of 3 candidates, with little noise: the likelihood has two maxima, of which the fit is
    at the higher one."""
    rng = np.random.default_rng(seed)
    made, noise, X, y = rng.normal(size=18), 0.01, [], []
    evidence, mask = Evidence.none(6, 3), torch.ones(6, 3, dtype=torch.bool)
    contrasts = np.linalg.svd(np.eye(6) - 1 / 6)[0][:, :5].T  # orthonormal, each sums to 0
    for _ in range(2):
        networks = [tuple(paths) for paths in rng.integers(0, 3, (6, 6)).tolist()]
        h = choices(networks, 3).numpy()
        losses = h @ made + noise * rng.normal(size=6)
        evidence = evidence.with_batch(networks, torch.from_numpy(losses), 3)
        X.append(contrasts @ h)
        y.append(contrasts @ losses)

    def log_likelihood(a, d):
        design, target = np.concatenate(X), np.concatenate(y)
        return multivariate_normal.logpdf(target, cov=a**2 * design @ design.T + d**2 * np.eye(len(target)))

    estimated = fit(evidence, mask)
    best = log_likelihood(estimated.effect, estimated.noise)
    assert estimated.effect > 5 * estimated.noise
    for a, d in product(np.logspace(-2, 1, 10), np.logspace(-3, 1, 10)):
        assert d**2 / a**2 < RATIOS[0] or log_likelihood(a, d) <= best + 1e-3


def test_the_mean_is_the_ridge_regression_of_its_own_ratio(effects):
    evidence = evidence_of(effects, 5, 0.3)
    estimated = fit(evidence, MASK)
    ridge = estimated.noise**2 / estimated.effect**2
    plain = torch.linalg.solve(evidence.squares + ridge * torch.eye(EDGES * CANDIDATES), evidence.products)
    plain = plain.reshape(MASK.shape)
    plain = torch.where(MASK, plain - (plain * MASK).sum(1, keepdim=True) / MASK.sum(1, keepdim=True), 0.0)
    torch.testing.assert_close(estimated.mean, plain, rtol=1e-6, atol=1e-9)


ALIKE = (0, 1, 0)
"""The first and the last edge have the same layers."""


def prior(correlation):
    """K (EN, EN): `correlation` between the same candidate of the first and the last edge."""
    K = np.eye(EDGES * CANDIDATES)
    for i in range(CANDIDATES):
        K[i, 2 * CANDIDATES + i] = K[2 * CANDIDATES + i, i] = correlation
    return K


@pytest.mark.parametrize("deviation", [0.0, 1.0])
def test_the_correlation_of_alike_edges_is_the_likeliest(effects, deviation):
    """The references are the density of a normal distribution and, for the mean of the posterior, the solution of its
    equations."""
    effects[2] = effects[0] + deviation * (effects[2] - effects[0])  # the same effects, or independent ones
    evidence, X, y = contrasts_of(effects, 8, 0.1, seed=4)
    estimated = fit(evidence, MASK, ALIKE)
    ratio = estimated.noise**2 / estimated.effect**2

    def log_likelihood(a, d, correlation):
        return multivariate_normal.logpdf(y, cov=a**2 * X @ prior(correlation) @ X.T + d**2 * np.eye(len(y)))

    def mean(correlation):
        inverse = torch.from_numpy(np.linalg.inv(prior(correlation)))
        c = torch.linalg.solve(evidence.squares + ratio * inverse, evidence.products).reshape(MASK.shape)
        return torch.where(MASK, c - (c * MASK).sum(1, keepdim=True) / MASK.sum(1, keepdim=True), 0.0)

    (chosen,) = [k for k in CORRELATIONS if torch.allclose(mean(k), estimated.mean, rtol=1e-6, atol=1e-9)]
    assert (chosen >= 0.9) == (deviation == 0)
    best = log_likelihood(estimated.effect, estimated.noise, chosen)
    for a, d, k in product((0.8, 1.0, 1.25), (0.8, 1.0, 1.25), CORRELATIONS):
        assert log_likelihood(a * estimated.effect, d * estimated.noise, k) <= best + 1e-6


def test_alike_edges_with_equal_effects_are_estimated_with_smaller_errors(effects):
    effects[2] = effects[0]
    misses = {(): 0.0, ALIKE: 0.0}
    for seed in range(20):
        evidence = evidence_of(effects, 4, 0.5, seed)
        for alike in misses:
            misses[alike] += float((fit(evidence, MASK, alike).mean - effects).square().sum())
    assert misses[ALIKE] < 0.9 * misses[()]


def test_edges_that_differ_in_their_layers_are_not_alike(space):
    alpha = Alpha.of_space(space)
    alike = alpha.alike
    assert len(alike) == len(space.searchable)
    for e, one in enumerate(space.searchable):
        for f, other in enumerate(space.searchable):
            assert (alike[e] == alike[f]) == (one.layers == other.layers)


def test_noise_alone_gives_no_effects():
    """alpha keeps equal probabilities, within what 300 networks can feign."""
    estimated = fit(evidence_of(torch.zeros(MASK.shape, dtype=torch.float64), 50, 1.0), MASK)
    assert float(estimated.alpha().abs().max()) < 3.0
    assert estimated.effect < 0.1


def test_one_batch_of_equal_losses_gives_no_effects():
    evidence = Evidence.none(EDGES, CANDIDATES).with_batch(
        drawn(4, np.random.default_rng(0)), torch.ones(4).double(), 3
    )
    assert (fit(evidence, MASK).alpha() == 0).all()
    assert (fit(Evidence.none(EDGES, CANDIDATES), MASK).alpha() == 0).all()


def test_faded_evidence_equals_a_sum_with_fading_weights(effects):
    """Evidence faded by 0.5 once a batch is that of the weighted sums."""
    rng = np.random.default_rng(5)
    batches = [drawn(4, rng) for _ in range(3)]
    losses = [additive(effects, networks) for networks in batches]
    faded = Evidence.none(EDGES, CANDIDATES)
    for networks, y in zip(batches, losses, strict=True):
        faded = faded.faded(0.5).with_batch(networks, y, CANDIDATES)
    squares = torch.zeros_like(faded.squares)
    for weight, networks in zip((0.25, 0.5, 1.0), batches, strict=True):
        h = choices(networks, CANDIDATES)
        h = h - h.mean(dim=0)
        squares += weight * h.T @ h
    torch.testing.assert_close(faded.squares, squares)
    assert faded.freedom == pytest.approx(3 * 1.75)


def test_the_expected_products_are_the_gradient_of_reinforce():
    """If the reward is minus the loss, E over networks of `products` / (M - 1) is dE_p[L]/dalpha, whatever the losses
    are. Both are enumerated: over all pairs of networks of a small space, and over all networks."""
    rng = np.random.default_rng(2)
    alpha = torch.from_numpy(rng.normal(size=MASK.shape))
    p = Alpha(alpha, MASK).probabilities()
    networks = list(product(*(range(n) for n in COUNTS)))
    chance = torch.tensor([float(torch.prod(p[range(EDGES), list(x)])) for x in networks], dtype=torch.float64)
    losses = torch.from_numpy(rng.normal(size=len(networks)))
    gradient = sum(
        (policy_gradient(p, [x], -losses[i : i + 1]) * chance[i] for i, x in enumerate(networks)),
        torch.zeros(MASK.shape, dtype=torch.float64),
    )
    expected = torch.zeros(EDGES * CANDIDATES, dtype=torch.float64)
    for i, x in enumerate(networks):
        for j, y in enumerate(networks):
            pair = Evidence.none(EDGES, CANDIDATES).with_batch([x, y], losses[[i, j]], CANDIDATES)
            expected += chance[i] * chance[j] * pair.products
    torch.testing.assert_close(expected.reshape(MASK.shape), gradient, rtol=1e-9, atol=1e-12)


def test_a_step_evaluates_drawn_networks_and_leaves_the_supernet_alone(space):
    net = Supernet(space)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = Batch(torch.randn(8, 1, 8, 8), torch.arange(8) % 4)
    alpha = Alpha.of_space(space)

    def step():
        return regression_step(
            net, batch, alpha, Evidence.none(*alpha.mask.shape), 5,
            torch.Generator().manual_seed(0), nullcontext,
        )  # fmt: skip

    once, again = step(), step()
    assert once.ce == again.ce > 0
    assert once.evidence.freedom == 4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_network_losses_are_those_of_one_network_after_the_other(space):
    net = Supernet(space)
    batch = Batch(torch.randn(8, 1, 8, 8), torch.arange(8) % 4)
    networks = [(0, 0, 0, 0), (2, 1, 1, 2)]
    each = [torch.nn.functional.cross_entropy(net(batch.images, paths), batch.labels) for paths in networks]
    torch.testing.assert_close(network_losses(net, batch, networks, nullcontext), torch.stack(each).detach())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"energy": float("nan")}, "evidence.energy"),
        ({"freedom": -1.0}, "evidence.freedom"),
        ({"squares": torch.zeros(2, 2, dtype=torch.float64)}, "evidence.squares"),
        ({"more": 1}, "evidence"),
    ],
)
def test_forged_evidence_is_refused(effects, change, says):
    like = Evidence.none(EDGES, CANDIDATES)
    kept = asdict(evidence_of(effects, 2, 0.1))
    assert asdict(restored(kept, like)).keys() == kept.keys()
    with pytest.raises(ValueError, match=says):
        restored(kept | change, like)
    with pytest.raises(ValueError, match="no evidence"):
        restored(None, like)
    assert restored(None, None) is None
