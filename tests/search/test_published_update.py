"""Compares the published settings, step by step, with a second implementation of the published update (arXiv
1812.00332, Eq. 3-6): alternating steps of weights and alpha, add_linear, argmax.

The second implementation shares the modules of ops and the draws with the package, and nothing else: it computes every
candidate with explicit gates, and has Nesterov's momentum, Adam and the rescaling of two_path written out.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.data import Batch
from engine.device import autocast
from engine.distributed import ALONE
from engine.seeding import generator
from search.derive.derivation import derive
from search.learn.gradient import weights_step
from search.limits.resolve import resolve
from search.plan import Plan
from search.state import ARCHITECTURE_PATHS, SearchState
from search.update import ArchitectureUpdate

LAMBDA, ARCH_LR, LR, MOMENTUM, DECAY, SMOOTHING = 0.7, 0.3, 0.05, 0.9, 4e-5, 0.1
PUBLISHED = {
    "epochs": 1,
    "optimizer": "sgd",
    "lr": LR,
    "momentum": MOMENTUM,
    "weight_decay": DECAY,
    "label_smoothing": SMOOTHING,
    "arch_lr": ARCH_LR,
    "arch_betas": (0.0, 0.999),
    "loss": {"form": "add_linear", "weight": LAMBDA},
    "derive": "argmax",
    "batch_size": 16,
}


def softmax(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    e = np.where(mask, np.exp(rows - rows.max(axis=1, keepdims=True)), 0.0)
    return e / e.sum(axis=1, keepdims=True)


@dataclass
class Reference:
    """The published search, written out. alpha (E, N) float64."""

    net: torch.nn.Module
    """Its modules stem, edges[e].ops[i], feature_mix and classifier are used, its forward is not."""
    mask: np.ndarray
    table: np.ndarray
    fixed: float
    bound: float
    alpha: np.ndarray
    second: np.ndarray
    """Adam's second moment; the first one is the gradient itself, as beta_1 is 0."""
    steps: int = 0
    velocity: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, images: Tensor, gates: Tensor) -> Tensor:
        x = self.net.stem(images)
        for row, edge in zip(gates, self.net.edges, strict=True):
            mixed = x if edge.residual else 0.0
            for gate, op in zip(row, edge.ops, strict=False):  # rows are padded
                if type(op).__name__ != "Zero":
                    mixed = mixed + gate * op(x)
            x = mixed
        return self.net.classifier(self.net.feature_mix(x))

    def gates(self, paths: tuple[int, ...]) -> Tensor:
        hot = torch.zeros(self.mask.shape)
        hot[range(len(paths)), list(paths)] = 1
        return hot.requires_grad_()

    def train(self, batch: Batch, paths: tuple[int, ...], lr: float) -> None:
        """SGD with Nesterov momentum and weight decay, of the sampled path alone."""
        log_p = self.logits(batch.images, self.gates(paths)).log_softmax(dim=1)
        own = log_p[range(len(batch.labels)), batch.labels]
        loss = -((1 - SMOOTHING) * own + SMOOTHING * log_p.mean(dim=1)).mean()
        used = {f"edges.{e}.ops.{i}." for e, i in enumerate(paths)}
        names = {
            name: w
            for name, w in self.net.named_parameters()
            if not name.startswith("edges.") or any(name.startswith(prefix) for prefix in used)
        }
        gradients = torch.autograd.grad(loss, list(names.values()))
        with torch.no_grad():
            for (name, w), gradient in zip(names.items(), gradients, strict=True):
                g = gradient + DECAY * w
                v = MOMENTUM * self.velocity.get(name, torch.zeros_like(w)) + g
                self.velocity[name] = v
                w -= lr * (g + MOMENTUM * v)

    def learn(self, batch: Batch, paths: tuple[int, ...], pairs: np.ndarray | None) -> None:
        """An architecture step: dL/dg_i = dCE/dg_i + lambda F_i / T through Eq. 4, over all candidates or a pair."""
        gates = self.gates(paths)
        log_p = self.logits(batch.images, gates).log_softmax(dim=1)
        (d_ce,) = torch.autograd.grad(-log_p[range(len(batch.labels)), batch.labels].mean(), [gates])
        d = d_ce.double().numpy() + LAMBDA / self.bound * self.table
        gradient = np.zeros_like(self.alpha)
        before = self.alpha.copy()
        for e, row in enumerate(self.alpha):
            some = np.flatnonzero(self.mask[e]) if pairs is None else pairs[e]
            p = np.exp(row[some] - row[some].max())
            p /= p.sum()
            for i in range(len(some)):
                gradient[e, some[i]] = sum(d[e, some[j]] * p[j] * ((i == j) - p[i]) for j in range(len(some)))
        self.steps += 1
        self.second = 0.999 * self.second + 0.001 * gradient**2
        corrected = self.second / (1 - 0.999**self.steps)
        self.alpha = before - ARCH_LR * gradient / (np.sqrt(corrected) + 1e-8)
        if pairs is not None:
            for e, (a, b) in enumerate(pairs):
                new, old = (math.log(math.exp(row[a]) + math.exp(row[b])) for row in (self.alpha[e], before[e]))
                self.alpha[e, [a, b]] -= new - old


def batch_of(plan: Plan, seed: int) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    c = plan.space.config
    images = torch.randn((16, c.input_channels, c.input_size, c.input_size), generator=draws)
    return Batch(images, torch.randint(c.classes, (16,), generator=draws))


@pytest.mark.parametrize("mode", ["full", "full_v2", "two_path"])
def test_three_rounds_of_the_published_search_equal_the_update_written_out(make_search_file, tmp_path, mode):
    """Weights and alpha are the same after three steps of each kind, and so is the derived network."""
    file = make_search_file([{"metric": "macs", "at": "30%"}], search=PUBLISHED | {"arch_update": mode})
    resolved = resolve(file, tmp_path / "search.yaml")
    plan = Plan(resolved.config, resolved.space, resolved.limits, torch.device("cpu"), range(48), range(48))
    settings, (limit,) = plan.config.search, plan.additive
    state = SearchState.fresh(plan.config, plan.space, plan.device)
    draws = torch.Generator().manual_seed(3)
    state.alpha.values.copy_(torch.randn(state.alpha.values.shape, generator=draws))
    update = ArchitectureUpdate(plan, ALONE)
    start = state.alpha.values.double().numpy().copy()
    own = Reference(
        copy.deepcopy(state.net), plan.space.mask, limit.cost.table, limit.cost.fixed, limit.bound, start,
        np.zeros(start.shape),
    )  # fmt: skip
    for i in range(3):
        paths = state.alpha.sample_paths(generator(7, i))
        lr = plan.lr(i)
        assert lr == pytest.approx(LR * 0.5 * (1 + math.cos(math.pi * i / plan.steps)))
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        batch = batch_of(plan, i)
        weights_step(
            state.net, batch, [paths], state.optimizer, SMOOTHING, lambda: autocast(plan.config.run, plan.device)
        )
        own.train(batch, paths, lr)

        again = generator(plan.config.run.seed, ARCHITECTURE_PATHS, i)
        if mode == "two_path":
            sample = state.alpha.sample_pairs(again)
            drawn, pairs = sample.paths, sample.pairs.numpy()
        else:
            drawn, pairs = state.alpha.sample_paths(again), None
        update.step(state, batch_of(plan, 10 + i))
        own.learn(batch_of(plan, 10 + i), drawn, pairs)

    real = torch.from_numpy(plan.space.mask)
    torch.testing.assert_close(state.alpha.values.double()[real], torch.from_numpy(own.alpha)[real], rtol=0, atol=1e-4)
    weights = dict(own.net.named_parameters())
    for name, w in state.net.named_parameters():
        torch.testing.assert_close(w, weights[name], rtol=1e-4, atol=1e-6)
    assert np.abs(own.alpha - start).max() > 0.3  # three steps have moved it
    p = softmax(own.alpha, plan.space.mask)
    assert derive(state.alpha, plan.additive, settings.derive).paths == tuple(p.argmax(axis=1).tolist())
