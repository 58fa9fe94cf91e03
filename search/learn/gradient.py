"""The two alternating steps of the gradient-based search (Fig. 2), and the Jacobians of its three modes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data import Batch
from engine.device import Autocast
from engine.distributed import ALONE, Group
from engine.training import training_step
from search.config import GateGradient, GradientMode
from search.learn.objective import Jacobian, Objective, alpha_gradient
from supernet.alpha import Alpha, PairSample
from supernet.supernet import Supernet


def softmax_jacobian(d_gates: Tensor, p: Tensor) -> Tensor:
    """Modes full and full_v2: dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) (Eq. 4). All (E, N) float64."""
    return p * (d_gates - (p * d_gates).sum(dim=1, keepdim=True))


def pair_jacobian(d_gates: Tensor, sample: PairSample) -> Tensor:
    """Mode two_path: dL/dalpha_a = q_a q_b (dL/dg_a - dL/dg_b) = -dL/dalpha_b, zero elsewhere (Sec. 3.2)."""
    d = d_gates.gather(1, sample.pairs)  # (E, 2)
    through = sample.q.prod(dim=1) * (d[:, 0] - d[:, 1])
    return torch.zeros_like(d_gates).scatter(1, sample.pairs, torch.stack([through, -through], dim=1))


def second_order(d_gates: Tensor, p: Tensor, active: Tensor) -> Tensor:
    """CE's share of dL/dalpha in the full modes, with gate_gradient second_order.

    Wanted is sum_j p_i p_j (L_i - L_j), L_i being the loss where candidate i runs. Where a runs, dL/dg_i - dL/dg_a is
    L_i - L_a less half the curvature between the two; where i runs, that plus as much. So only pairs with the active
    candidate count, weighted such that in expectation both sides of a pair count alike, the trapezoidal rule: p_i/2
    (dL/dg_i - dL/dg_a) for i != a, minus their sum for a. Its expectation is exact for a loss quadratic in the gates.
    The same as ReinMax (arXiv 2304.08612): 2 J((p + onehot(a))/2) - J(p)/2 with J of Eq. 4.
    d_gates, p: (E, N) float64; active: (E,) int64.
    """
    a = active[:, None]
    found = 0.5 * p * (d_gates - d_gates.gather(1, a))  # 0 at the active one
    return found.scatter(1, a, -found.sum(dim=1, keepdim=True))


def second_order_pair(d_gates: Tensor, sample: PairSample) -> Tensor:
    """`second_order` in mode two_path: among the pair, with its q; exact in the same way for a pair that is drawn. Zero
    elsewhere."""
    active = (sample.pairs[:, 1] == torch.tensor(sample.paths)).long()
    return torch.zeros_like(d_gates).scatter(
        1, sample.pairs, second_order(d_gates.gather(1, sample.pairs), sample.q, active)
    )


def restore_unsampled(alpha: Tensor, before: Tensor, pairs: Tensor) -> None:
    """Restores unsampled alphas bitwise after a two_path step, and the probability of every unsampled candidate.

    Momentum may have moved unsampled entries. The change of the pair's log-sum-exp is subtracted from both entries, so
    that the pair's total probability is what it was. Changes `alpha` (E, N) in place; pairs (E, 2).
    """
    with torch.no_grad():
        new, old = alpha.double().gather(1, pairs), before.double().gather(1, pairs)
        shift = new.logsumexp(dim=1, keepdim=True) - old.logsumexp(dim=1, keepdim=True)
        alpha.copy_(before.scatter(1, pairs, (new - shift).to(alpha.dtype)))


def one_hot(paths: Sequence[int], candidates: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gates at `paths`: one leaf (E, N) on the network's device."""
    hot = F.one_hot(torch.tensor(paths, dtype=torch.long), candidates).to(dtype)
    return hot.to(device, non_blocking=True).requires_grad_()  # a blocking copy would wait for the step before


def weights_step(
    net: Supernet,
    batch: Batch,
    networks: Sequence[Sequence[int]],
    optimizer: torch.optim.Optimizer,
    label_smoothing: float,
    autocast: Autocast,
    reduction: AbstractContextManager[None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Alpha frozen, the sampled networks learn on a training batch: engine.training.training_step.

    networks: paths, each for its part of the images; the parts are as equal as they can be. The gradient is that of the
    mean loss of all images.
    """

    def forward(images: Tensor) -> Tensor:
        parts = images.tensor_split(len(networks))
        return torch.cat([net(part, paths) for part, paths in zip(parts, networks, strict=True)])

    return training_step(forward, batch, optimizer, label_smoothing, autocast, reduction)


@dataclass(frozen=True)
class ArchitectureStep:
    """What an architecture step hands back; alpha and its optimizer are changed in place."""

    ce: float
    """Cross entropy of the validation batch, all processes together. NaN where it or a gradient is not finite; alpha
    was not changed then."""
    ce_gradient: float = float("nan")
    """Norm of CE's share of dL/dalpha."""
    limits_gradient: float = float("nan")
    """Norm of the limits' share."""


def architecture_step(
    net: Supernet,
    batch: Batch,
    alpha: Alpha,
    optimizer: torch.optim.Optimizer,
    mode: GradientMode,
    gate_gradient: GateGradient,
    objective: Objective,
    generator: torch.Generator,
    autocast: Autocast,
    group: Group = ALONE,
) -> ArchitectureStep:
    """Weights frozen, alpha learns on a validation batch and the limits' cost matrices.

    gate_gradient: how CE's share comes from dL/dg, by the mode's Jacobian or by `second_order`. generator: draws the
    paths. Neither the network's weights nor their gradients are touched. The processes of `group` share the batch, and
    each makes the same update.
    """
    pair = alpha.sample_pairs(generator) if mode == "two_path" else None
    paths = pair.paths if pair else alpha.sample_paths(generator)
    compared = pair.pairs.tolist() if pair else None
    d_gates, ce = gate_gradients(net, batch, paths, compared, mode == "full", autocast, group)
    if not (math.isfinite(ce) and d_gates.isfinite().all()):
        # the caller stops; alpha keeps its last good value
        return ArchitectureStep(float("nan"))

    p = alpha.probabilities()
    jacobian: Jacobian = partial(pair_jacobian, sample=pair) if pair else partial(softmax_jacobian, p=p)
    if gate_gradient == "first_order":
        from_ce = jacobian(d_gates)
    elif pair:
        from_ce = second_order_pair(d_gates, pair)
    else:
        from_ce = second_order(d_gates, p, torch.tensor(paths))
    found = alpha_gradient(from_ce, ce, p, objective, jacobian)
    before = alpha.values.clone()
    alpha.values.grad = found.gradient.to(alpha.values.dtype)
    optimizer.step()
    if pair:
        restore_unsampled(alpha.values, before, pair.pairs)
    return ArchitectureStep(ce, found.ce_norm, found.limits_norm)


def gate_gradients(
    net: Supernet,
    batch: Batch,
    paths: Sequence[int],
    compared: Sequence[Sequence[int]] | None,
    keep_outputs: bool,
    autocast: Autocast,
    group: Group,
) -> tuple[Tensor, float]:
    """(dCE/dg, (E, N) float64 on the CPU; CE), means over the processes of `group`. compared, keep_outputs: as in
    Supernet.forward."""
    gates = one_hot(paths, net.space.mask.shape[1], batch.images.device)
    with autocast():
        logits = net(batch.images, paths, gates, compared=compared, keep_outputs=keep_outputs)
        ce = F.cross_entropy(logits, batch.labels)
    (d_gates,) = torch.autograd.grad(ce, [gates])
    means = group.mean_of(torch.cat([d_gates.flatten(), ce.detach().float()[None]]))
    host = means.cpu()  # the step's only copy to the host
    return host[:-1].view_as(d_gates).double(), float(host[-1])
