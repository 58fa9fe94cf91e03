"""Tests the architecture step: exact Jacobians, equality of modes, and the values that must not change."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from engine.data import Batch
from search.learn.forms import AddLinear, MulLog, Projection
from search.learn.gradient import (
    architecture_step,
    of_pair,
    one_hot,
    pair_jacobian,
    second_order,
    share_of,
    softmax_jacobian,
    weights_step,
)
from search.learn.objective import Objective, expected_cost, expected_costs
from supernet.alpha import Alpha
from supernet.supernet import Supernet


def random_values(space, seed=0):
    return torch.randn(space.mask.shape, generator=torch.Generator().manual_seed(seed))


def test_softmax_jacobian_is_autograds(space):
    mask, alpha = torch.from_numpy(space.mask), random_values(space).double().requires_grad_()
    d_gates = torch.randn(mask.shape, dtype=torch.float64) * mask
    p = Alpha(alpha, mask).probabilities()
    (expected,) = torch.autograd.grad((p * d_gates).sum(), [alpha])
    torch.testing.assert_close(softmax_jacobian(d_gates, p.detach()), expected, rtol=1e-12, atol=1e-14)


def test_pair_jacobian_is_autograds_through_the_pairs_softmax(space):
    mask, alpha = torch.from_numpy(space.mask), random_values(space).double().requires_grad_()
    sample = Alpha(alpha, mask).sample_pairs(torch.Generator().manual_seed(1))
    d_gates = torch.randn(mask.shape, dtype=torch.float64) * mask
    q = alpha.gather(1, sample.pairs).softmax(dim=1)
    (expected,) = torch.autograd.grad((q * d_gates.gather(1, sample.pairs)).sum(), [alpha])
    torch.testing.assert_close(pair_jacobian(d_gates, sample), expected, rtol=1e-12, atol=1e-14)


class QuadraticLoss:
    """A loss quadratic in the gates of three edges together: curvature within an edge and between edges."""

    def __init__(self):
        draws = torch.Generator().manual_seed(7)
        self.mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
        self.alpha = Alpha(torch.randn(3, 3, dtype=torch.float64, generator=draws), self.mask)
        self.linear = torch.randn(9, dtype=torch.float64, generator=draws)
        half = torch.randn(9, 9, dtype=torch.float64, generator=draws)
        self.curvature = half @ half.T

    def at(self, gates):
        flat = gates.reshape(9)
        return self.linear @ flat + flat @ self.curvature @ flat / 2

    def expectation(self, p, estimate):
        """The estimate from dL/dg at a path, over all paths drawn from p (3, N); and the gradient of E[L] in p."""
        total, value, p = torch.zeros(3, 3, dtype=torch.float64), 0.0, p.detach().requires_grad_()
        for paths in product(*(torch.nonzero(row > 0)[:, 0].tolist() for row in p)):
            gates = one_hot(paths, 3, torch.device("cpu"), torch.float64)
            (d_gates,) = torch.autograd.grad(self.at(gates), [gates])
            chance = p.gather(1, torch.tensor(paths)[:, None]).prod()
            total += chance.detach() * estimate(d_gates * self.mask, torch.tensor(paths))
            value = value + chance * self.at(gates).detach()
        return total, torch.autograd.grad(value, [p])[0]


def test_second_order_is_the_exact_gradient_in_expectation_where_the_loss_is_quadratic():
    loss = QuadraticLoss()
    p = loss.alpha.probabilities()
    estimated, d_p = loss.expectation(p, lambda d_gates, active: second_order(d_gates, p, active))
    exact = softmax_jacobian(d_p * loss.mask, p)
    torch.testing.assert_close(estimated, exact, rtol=1e-10, atol=1e-12)
    first, _ = loss.expectation(p, lambda d_gates, active: softmax_jacobian(d_gates, p))
    assert (first - exact).abs().max() > 0.01 * exact.abs().max()  # what second_order is for


def test_second_order_of_a_pair_is_exact_in_expectation_over_which_of_them_runs():
    loss = QuadraticLoss()
    drawn = loss.alpha.sample_pairs(torch.Generator().manual_seed(0))
    q = torch.zeros(3, 3, dtype=torch.float64).scatter(1, drawn.pairs, drawn.q)

    def estimate(d_gates, active):
        return of_pair(second_order, d_gates, replace(drawn, paths=tuple(active.tolist())))

    estimated, d_q = loss.expectation(q, estimate)
    torch.testing.assert_close(estimated, softmax_jacobian(d_q, q), rtol=1e-10, atol=1e-12)
    assert not (estimated * (q == 0)).any()


def test_second_order_equals_reinmaxs_formula(space):
    mask = torch.from_numpy(space.mask)
    p = Alpha.of_space(space, random_values(space)).probabilities()
    active = torch.tensor(Alpha.of_space(space, random_values(space)).sample_paths(torch.Generator().manual_seed(2)))
    d_gates = torch.randn(mask.shape, dtype=torch.float64) * mask
    halfway = (p + F.one_hot(active, mask.shape[1])) / 2
    expected = 2 * softmax_jacobian(d_gates, halfway) - softmax_jacobian(d_gates, p) / 2
    torch.testing.assert_close(second_order(d_gates, p, active), expected, rtol=1e-12, atol=1e-14)


class Fixture:
    """A float64 supernet, a batch, and alpha with its optimizer; equal for equal seeds."""

    def __init__(self, space, values, betas=(0.0, 0.999)):
        self.net = Supernet(space, seed=3).double()
        draws = torch.Generator().manual_seed(5)
        images = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=draws)
        self.batch = Batch(images, torch.randint(0, 4, (6,), generator=draws))
        self.alpha = Alpha.of_space(space, values.clone())
        self.optimizer = torch.optim.Adam([self.alpha.values], lr=0.05, betas=betas)

    def step(self, mode, limits, loss, seed=0, ce_scale=1.0, gate_gradient="first_order"):
        """With ce_scale 0, every image is scored alike by a network whose classifier is zero: CE has no gradient."""
        if ce_scale == 0:
            torch.nn.init.zeros_(self.net.classifier.linear.weight)
        return architecture_step(
            self.net, self.batch, self.alpha, self.optimizer, mode, share_of(gate_gradient), Objective(limits, loss),
            torch.Generator().manual_seed(seed), contextlib.nullcontext,
        )  # fmt: skip


@pytest.mark.parametrize("loss", [AddLinear(weight=1.0), MulLog()], ids=str)
@pytest.mark.parametrize("mode", ["full", "full_v2", "two_path"])
def test_a_step_of_second_order_differs_from_the_published_one_in_ces_share_alone(
    space, make_cost, make_limit, mode, loss
):
    limit, alpha = make_limit(make_cost(space, 0), 0.3), Alpha.of_space(space, random_values(space).double())
    p, seed = alpha.probabilities(), 4
    pair = alpha.sample_pairs(torch.Generator().manual_seed(seed))
    paths = pair.paths if mode == "two_path" else alpha.sample_paths(torch.Generator().manual_seed(seed))
    fixture = Fixture(space, alpha.values)
    gates = one_hot(paths, p.shape[1], torch.device("cpu"))
    ce = F.cross_entropy(fixture.net(fixture.batch.images, paths, gates), fixture.batch.labels)
    d = torch.autograd.grad(ce, [gates])[0].double()
    if mode == "two_path":
        first, second = pair_jacobian(d, pair), of_pair(second_order, d, pair)
    else:
        first, second = softmax_jacobian(d, p), second_order(d, p, torch.tensor(paths))
    factor = loss.slopes(0.0, expected_costs(p, [limit])).ce

    steps = {}
    for order in ("first_order", "second_order"):
        fixture = Fixture(space, alpha.values)
        done = fixture.step(mode, [limit], loss, seed=seed, gate_gradient=order)
        steps[order] = (fixture.alpha.values.grad, done)
    difference = steps["second_order"][0] - steps["first_order"][0]
    torch.testing.assert_close(difference, factor * (second - first), rtol=1e-5, atol=1e-9)
    assert difference.abs().max() > 1e-4
    assert steps["second_order"][1].limits_gradient == steps["first_order"][1].limits_gradient > 0
    assert steps["second_order"][1].ce_gradient == pytest.approx(float((factor * second).norm()), rel=1e-5)
    assert steps["first_order"][1].ce_gradient == pytest.approx(float((factor * first).norm()), rel=1e-5)


@pytest.mark.parametrize("mode", ["full", "full_v2", "two_path"])
def test_under_projection_a_step_is_that_of_ce_alone(space, make_cost, make_limit, mode):
    ended = []
    for limits, loss in (([make_limit(make_cost(space, 0), 0.3)], Projection()), ([], AddLinear())):
        fixture = Fixture(space, random_values(space))
        done = fixture.step(mode, limits, loss)
        assert done.limits_gradient == 0
        ended.append((done.ce, done.ce_gradient, fixture.alpha.values.tolist()))
    assert ended[0] == ended[1]
    assert ended[0][2] != random_values(space).tolist()


def test_full_equals_full_v2(space, make_cost, make_limit):
    limit, loss = make_limit(make_cost(space, 0), 0.3), AddLinear(weight=1.0)
    gradients = []
    for mode in ("full", "full_v2"):
        fixture = Fixture(space, random_values(space))
        fixture.step(mode, [limit], loss)
        gradients.append(fixture.alpha.values.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("mode", ["full", "full_v2"])
def test_without_ce_the_full_modes_step_along_autograds_gradient_of_expected_cost(space, make_cost, make_limit, mode):
    limit = make_limit(make_cost(space, 0), 0.3)
    fixture = Fixture(space, random_values(space))
    reference = fixture.alpha.values.double().requires_grad_()
    E = expected_cost(fixture.alpha.with_values(reference).probabilities(), limit.cost)
    (expected,) = torch.autograd.grad(E / limit.bound, [reference])
    fixture.step(mode, [limit], AddLinear(weight=1.0), ce_scale=0)
    torch.testing.assert_close(fixture.alpha.values.grad.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(10))
def test_without_ce_a_two_path_step_lowers_the_slower_op_and_no_other_probability_moves(
    space, make_cost, make_limit, seed
):
    limit = make_limit(make_cost(space, seed), 0.3)
    fixture = Fixture(space, random_values(space, seed), betas=(0.9, 0.999))
    for step in range(3):  # later steps have momentum on entries that are no longer sampled
        before = fixture.alpha.values.clone()
        pair = fixture.alpha.with_values(before).sample_pairs(torch.Generator().manual_seed(step))
        # momentum may outvote one step's gradient, so the optimizer is fresh for what the step itself does to q
        fixture.optimizer = torch.optim.Adam([fixture.alpha.values], lr=0.05, betas=(0.9, 0.999))
        fixture.step("two_path", [limit], AddLinear(weight=1.0), seed=step, ce_scale=0)
        after = fixture.alpha.values
        costs = torch.from_numpy(limit.cost.table).gather(1, pair.pairs)
        slower = costs.argmax(dim=1, keepdim=True)
        q_after = after.double().gather(1, pair.pairs).softmax(dim=1)
        assert (q_after.gather(1, slower) < pair.q.gather(1, slower)).all()
        unsampled = fixture.alpha.mask & ~torch.zeros_like(fixture.alpha.mask).scatter(1, pair.pairs, True)
        assert torch.equal(after[unsampled], before[unsampled])
        p_before, p_after = (
            fixture.alpha.with_values(before).probabilities(),
            fixture.alpha.with_values(after).probabilities(),
        )
        torch.testing.assert_close(p_after[unsampled], p_before[unsampled], rtol=1e-6, atol=1e-9)


def test_momentum_does_not_move_unsampled_alphas(space, make_cost, make_limit):
    limit = make_limit(make_cost(space, 0), 0.3)
    fixture = Fixture(space, torch.zeros(space.mask.shape), betas=(0.9, 0.999))
    for step in range(8):
        before = fixture.alpha.values.clone()
        pair = fixture.alpha.with_values(before).sample_pairs(torch.Generator().manual_seed(step))
        fixture.step("two_path", [limit], AddLinear(), seed=step)
        unsampled = ~torch.zeros_like(fixture.alpha.mask).scatter(1, pair.pairs, True)
        assert torch.equal(fixture.alpha.values[unsampled], before[unsampled])
        assert not torch.equal(fixture.alpha.values[~unsampled], before[~unsampled])


@pytest.mark.parametrize("mode", ["full", "full_v2", "two_path"])
def test_an_architecture_step_leaves_no_trace_in_the_supernet(space, make_cost, make_limit, mode):
    fixture = Fixture(space, random_values(space))
    before = copy.deepcopy(fixture.net.state_dict())
    fixture.step(mode, [make_limit(make_cost(space, 0), 0.3)], AddLinear())
    after = fixture.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in fixture.net.parameters())


@pytest.mark.parametrize("mode", ["full", "full_v2", "two_path"])
def test_skip_gets_the_gradients_of_the_loss_and_of_latency(space, make_cost, make_limit, mode):
    """A skip's alpha moves by CE alone and by latency alone: neither is dropped for it."""
    skip = [(e, edge.candidates.index("skip")) for e, edge in enumerate(space.searchable) if "skip" in edge.candidates]
    limit, grads = make_limit(make_cost(space, 0), 0.3), {}
    for name, weight, ce_scale in (("latency", 1.0, 0), ("ce", 0.0, 1)):
        touched = torch.zeros(len(skip))
        for seed in range(12):  # two_path samples a pair of each edge, so skip takes part in some steps only
            fixture = Fixture(space, random_values(space))
            fixture.step(mode, [limit], AddLinear(weight=weight), seed=seed, ce_scale=ce_scale)
            touched += torch.tensor([fixture.alpha.values.grad[e, i].abs() for e, i in skip])
        grads[name] = touched
    assert (grads["latency"] > 0).all()
    assert (grads["ce"] > 0).all()


def test_a_weights_step_leaves_alpha_and_unsampled_weights_alone(space):
    net = Supernet(space, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    draws = torch.Generator().manual_seed(0)
    for step in range(6):
        paths = Alpha.of_space(space).sample_paths(torch.Generator().manual_seed(step))
        before = copy.deepcopy(net.state_dict())
        images, labels = torch.randn(4, 1, 8, 8, generator=draws), torch.randint(0, 4, (4,), generator=draws)
        weights_step(net, Batch(images, labels), [paths], optimizer, 0.1, contextlib.nullcontext)
        searchable = [e for e, edge in enumerate(space.edges) if edge.searchable]
        for name, value in net.state_dict().items():
            if name.startswith("edges."):
                _, e, _, i = name.split(".")[:4]
                sampled = paths[searchable.index(int(e))] == int(i)
                assert torch.equal(value, before[name]) is not sampled, name


@pytest.mark.parametrize("networks", [[(0, 1, 0, 1), (2, 0, 1, 2)], [(1, 1, 1, 1), (0, 2, 0, 0), (1, 1, 1, 1)]])
def test_networks_that_share_a_batch_learn_from_the_mean_loss_of_all_images(space, networks):
    """The gradient is the sum of what each network has from its part, weighted by the part's share."""
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randn(10, 1, 8, 8, generator=draws), torch.randint(0, 4, (10,), generator=draws)
    net, twin = Supernet(space, seed=0).double(), Supernet(space, seed=0).double()
    batch = Batch(images.double(), labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    loss, logits = weights_step(net, batch, networks, optimizer, 0.1, contextlib.nullcontext)
    count, wanted, at = len(networks), torch.zeros((), dtype=torch.float64), 0
    for i, paths in enumerate(networks):
        size = 10 // count + (i < 10 % count)
        part = slice(at, at + size)
        own = twin(batch.images[part], paths)
        torch.testing.assert_close(logits[part], own)
        wanted = wanted + size / 10 * F.cross_entropy(own, labels[part], label_smoothing=0.1)
        at += size
    wanted.backward()
    assert at == 10
    torch.testing.assert_close(loss, wanted.detach())
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_gates_are_one_leaf_of_one_hot_rows():
    gates = one_hot((2, 0), 3, torch.device("cpu"))
    assert gates.is_leaf
    assert gates.requires_grad
    assert gates.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_batch_that_is_not_finite_changes_nothing(space, make_cost, make_limit):
    fixture = Fixture(space, random_values(space))
    fixture.batch.images[0] = float("nan")
    before = fixture.alpha.values.clone()
    done = fixture.step("two_path", [make_limit(make_cost(space, 0), 0.3)], AddLinear())
    assert math.isnan(done.ce)
    assert torch.equal(fixture.alpha.values, before)
    assert math.isnan(done.ce_gradient)
    assert math.isnan(done.limits_gradient)


def test_label_smoothing_is_in_the_weights_loss_only(space, make_cost, make_limit):
    fixture, paths = Fixture(space, random_values(space)), (0, 0, 0, 0)
    logits = fixture.net(fixture.batch.images, paths).detach()
    optimizer = torch.optim.SGD(fixture.net.parameters(), lr=0.0)
    loss, _ = weights_step(fixture.net, fixture.batch, [paths], optimizer, 0.1, contextlib.nullcontext)
    torch.testing.assert_close(loss, F.cross_entropy(logits, fixture.batch.labels, label_smoothing=0.1))
    sampled = fixture.alpha.sample_pairs(torch.Generator().manual_seed(0)).paths
    plain = F.cross_entropy(fixture.net(fixture.batch.images, sampled), fixture.batch.labels)
    done = fixture.step("two_path", [make_limit(make_cost(space, 0), 0.3)], AddLinear())
    assert done.ce == pytest.approx(plain.item(), rel=1e-6)
