"""Makes the two alternating steps of the gradient-based search (Fig. 2), in its three modes.

E is the number of searchable edges, N that of the candidates of an edge.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data import Batch
from engine.device import Autocast
from engine.distributed import ALONE, Group
from engine.errors import UserError
from engine.training import training_step
from search.learn.modes import GateGradient, GradientMode
from search.learn.objective import Objective, alpha_gradient
from search.own import own_function
from supernet.alpha import Alpha, PairSample
from supernet.supernet import Supernet

Estimate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function from dCE/dg and the probabilities, both (E, N) float64, and the active candidates, (E,) int64, to CE's
share of dL/dalpha, (E, N) float64. Both arguments are 0 where padded. In mode two_path its rows are the drawn pairs, so
N is 2 and the probabilities are q."""


def softmax_jacobian(d_gates: Tensor, p: Tensor) -> Tensor:
    """Returns dL/dalpha in the modes full and full_v2: dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) (Eq. 4). All
    are (E, N) float64."""
    return p * (d_gates - (p * d_gates).sum(dim=1, keepdim=True))


def pair_jacobian(d_gates: Tensor, sample: PairSample) -> Tensor:
    """Returns dL/dalpha (E, N) in mode two_path: q_a q_b (dL/dg_a - dL/dg_b) for a, minus that for b, 0 elsewhere
    (Sec. 3.2)."""
    d = d_gates.gather(1, sample.pairs)  # (E, 2)
    through = sample.q.prod(dim=1) * (d[:, 0] - d[:, 1])
    return torch.zeros_like(d_gates).scatter(1, sample.pairs, torch.stack([through, -through], dim=1))


def second_order(d_gates: Tensor, p: Tensor, active: Tensor) -> Tensor:
    """Returns CE's share of dL/dalpha in the full modes, with gate_gradient second_order.

    The exact value is sum_j p_i p_j (L_i - L_j), with L_i the loss if candidate i runs. If a runs, dL/dg_i - dL/dg_a is
    L_i - L_a minus half the curvature between the two; if i runs, it is L_i - L_a plus half of it. So only pairs with
    the active candidate a count, weighted such that in expectation both sides of a pair count alike (the trapezoidal
    rule): p_i/2 (dL/dg_i - dL/dg_a) for i != a, minus their sum for a. The expectation is exact for a loss that is
    quadratic in the gates. It equals ReinMax (arXiv 2304.08612): 2 J((p + onehot(a))/2) - J(p)/2 with J of Eq. 4.
    d_gates, p: (E, N) float64. active: (E,) int64.
    """
    a = active[:, None]
    others = 0.5 * p * (d_gates - d_gates.gather(1, a))  # 0 at the active one
    return others.scatter(1, a, -others.sum(dim=1, keepdim=True))


def of_pair(estimate: Estimate, d_gates: Tensor, sample: PairSample) -> Tensor:
    """Returns an estimate in mode two_path: it compares the two candidates of the drawn pair, with their q, and is 0
    elsewhere. (E, N) float64."""
    active = (sample.pairs[:, 1] == torch.tensor(sample.paths)).long()
    return torch.zeros_like(d_gates).scatter(
        1, sample.pairs, estimate(d_gates.gather(1, sample.pairs), sample.q, active)
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


class Draw(ABC):
    """The drawn paths of an architecture step in one gradient mode, with the mode's formulas for dL/dalpha from
    dL/dg."""

    keep_outputs: ClassVar[bool] = False
    """Whether the candidates' outputs are kept in memory (Supernet.forward)."""
    paths: tuple[int, ...]
    """The active candidate of each edge."""
    compared: list[list[int]] | None = None
    """The candidates of each edge whose gates get a gradient; None: all."""

    @abstractmethod
    def __init__(self, alpha: Alpha, generator: torch.Generator):
        """Draws the paths."""

    @abstractmethod
    def first_order(self, d_gates: Tensor) -> Tensor:
        """Returns dL/dalpha by the Jacobian of the mode as published; also used for functions of p. Both are (E, N)
        float64."""

    @abstractmethod
    def estimated(self, estimate: Estimate, d_gates: Tensor) -> Tensor:
        """Returns CE's share of dL/dalpha as `estimate` computes it from the candidates that the mode compares. Both
        are (E, N) float64."""

    def restore(self, alpha: Alpha, before: Tensor) -> None:
        """Restores the alpha of candidates that were not compared, which the optimizer may have moved. before: the
        values before the step, (E, N)."""
        return  # nothing, as every candidate is compared


class AllCandidates(Draw):
    """Mode full_v2: every candidate is compared, and computed once more in the backward pass."""

    def __init__(self, alpha: Alpha, generator: torch.Generator):
        self.paths, self.p = alpha.sample_paths(generator), alpha.probabilities()

    def first_order(self, d_gates: Tensor) -> Tensor:
        return softmax_jacobian(d_gates, self.p)

    def estimated(self, estimate: Estimate, d_gates: Tensor) -> Tensor:
        return estimate(d_gates, self.p, torch.tensor(self.paths))


class AllCandidatesKept(AllCandidates):
    """Mode full: as full_v2, but all outputs stay in memory, as in DARTS (arXiv 1806.09055)."""

    keep_outputs = True


class Pair(Draw):
    """Mode two_path: two candidates of each edge are compared, and the others keep their probabilities."""

    def __init__(self, alpha: Alpha, generator: torch.Generator):
        self.sample = alpha.sample_pairs(generator)
        self.paths, self.compared = self.sample.paths, self.sample.pairs.tolist()

    def first_order(self, d_gates: Tensor) -> Tensor:
        return pair_jacobian(d_gates, self.sample)

    def estimated(self, estimate: Estimate, d_gates: Tensor) -> Tensor:
        return of_pair(estimate, d_gates, self.sample)

    def restore(self, alpha: Alpha, before: Tensor) -> None:
        restore_unsampled(alpha.values, before, self.sample.pairs)


DRAWS: dict[GradientMode, type[Draw]] = {"full": AllCandidatesKept, "full_v2": AllCandidates, "two_path": Pair}
"""Maps each gradient mode to its draw."""
Share = Callable[[Draw, Tensor], Tensor]
"""A function from the draw of a step and dCE/dg to CE's share of dL/dalpha, both (E, N) float64."""
GATE_GRADIENTS: dict[GateGradient, Share] = {
    "first_order": lambda draw, d_gates: draw.first_order(d_gates),
    "second_order": lambda draw, d_gates: draw.estimated(second_order, d_gates),
}
"""Maps each name in search.gate_gradient to how CE's share is computed."""


def share_of(name: str) -> Share:
    """Returns how CE's share is computed for a value of search.gate_gradient: a name of GATE_GRADIENTS, or a reference
    to an estimate of the user's own. Raises ConfigError if there is no such function."""
    if name in GATE_GRADIENTS:
        return GATE_GRADIENTS[name]
    estimate = own_estimate(name)
    return lambda draw, d_gates: draw.estimated(estimate, d_gates)


def own_estimate(name: str) -> Estimate:
    """Returns the user's function that a value of search.gate_gradient refers to. Raises ConfigError if there is none.

    What it returns is checked: a step raises UserError if it is no finite float tensor of the right shape.
    """
    key = "search.gate_gradient"
    function = own_function(name, key, ("d_gates", "p", "active"))

    def checked(d_gates: Tensor, p: Tensor, active: Tensor) -> Tensor:
        value = function(d_gates.clone(), p.clone(), active.clone())
        shape = tuple(d_gates.shape)
        if not isinstance(value, Tensor):
            fault = f"a value of type {type(value).__name__}"
        elif tuple(value.shape) != shape or not value.is_floating_point() or value.device != p.device:
            fault = f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')} on {value.device}"
        elif not bool(value.isfinite().all()):
            fault = "numbers that are not finite"
        else:
            return value.detach().double()
        raise UserError(key, f"{name} returned {fault}", f"finite numbers, a float tensor {shape}", "correct it")

    return checked


def one_hot(paths: Sequence[int], candidates: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns the gates of `paths`: a leaf tensor (E, N) on `device`, which requires a gradient."""
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
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Makes one step of the weights of the sampled networks on a training batch; alpha stays (left half of Fig. 2).

    networks: the paths of each network. Each runs on its own part of the images; the parts are as equal as they can be.
    The gradient is that of the mean loss of all images; class_weights: (classes,), by which each is multiplied
    (`data.balance`). Returns (loss, logits), as engine.training.training_step does.
    """

    def forward(images: Tensor) -> Tensor:
        parts = images.tensor_split(len(networks))
        return torch.cat([net(part, paths) for part, paths in zip(parts, networks, strict=True)])

    return training_step(forward, batch, optimizer, label_smoothing, autocast, reduction, class_weights)


@dataclass(frozen=True)
class ArchitectureStep:
    """The figures of an architecture step; alpha and its optimizer have been changed in place."""

    ce: float
    """Cross entropy of the validation batch, all processes together. NaN if it or a gradient is not finite; alpha is
    not changed then."""
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
    share: Share,
    objective: Objective,
    generator: torch.Generator,
    autocast: Autocast,
    group: Group = ALONE,
) -> ArchitectureStep:
    """Makes one step of alpha on a validation batch and the limits' cost matrices; the weights stay (right half of
    Fig. 2).

    share: computes CE's share of dL/dalpha from dCE/dg; see `share_of`. generator: draws the paths. Neither the
    network's weights nor their gradients are touched. The processes of `group` share the batch, and each makes the same
    update.
    """
    draw = DRAWS[mode](alpha, generator)
    d_gates, ce = gate_gradients(net, batch, draw.paths, draw.compared, draw.keep_outputs, autocast, group)
    if not (math.isfinite(ce) and d_gates.isfinite().all()):
        # the caller stops; alpha keeps its last good value
        return ArchitectureStep(float("nan"))

    whole = alpha_gradient(share(draw, d_gates), ce, alpha.probabilities(), objective, draw.first_order)
    before = alpha.values.clone()
    alpha.values.grad = whole.gradient.to(alpha.values.dtype)
    optimizer.step()
    draw.restore(alpha, before)
    return ArchitectureStep(ce, whole.ce_norm, whole.limits_norm)


def gate_gradients(
    net: Supernet,
    batch: Batch,
    paths: Sequence[int],
    compared: Sequence[Sequence[int]] | None,
    keep_outputs: bool,
    autocast: Autocast,
    group: Group,
) -> tuple[Tensor, float]:
    """Returns (dCE/dg, (E, N) float64 on the CPU; CE), means over the processes of `group`. compared, keep_outputs: as
    in Supernet.forward."""
    gates = one_hot(paths, net.space.mask.shape[1], batch.images.device)
    with autocast():
        logits = net(batch.images, paths, gates, compared=compared, keep_outputs=keep_outputs)
        ce = F.cross_entropy(logits, batch.labels)
    (d_gates,) = torch.autograd.grad(ce, [gates])
    means = group.mean_of(torch.cat([d_gates.flatten(), ce.detach().float()[None]]))
    host = means.cpu()  # the step's only copy to the host
    return host[:-1].view_as(d_gates).double(), float(host[-1])
