"""Computes alpha by regression: estimates what each candidate adds to the loss, from all networks evaluated so far.

An evaluation is the loss of one network with the supernet's weights on one validation batch. With h the one-hot choices
of network m on batch b,

    L_bm = beta_b + sum_e c_e,i(e) + noise,        c ~ N(0, a^2 K), noise ~ N(0, d^2),

where beta_b is what the batch does to every network alike, and the noise is what images and pairs of edges add. K
correlates the effects of one candidate on alike edges, those with the same layers; it is 1 on the diagonal and 0
elsewhere. Where the choices of two alike edges are exchanged, the network stays nearly the same, and exactly the same
if one of the choices is `skip`, while their weights in the supernet differ. The posterior of c is that of a ridge
regression of the centred losses on the centred choices, with the penalty d^2 / a^2 c^T K^-1 c; both variances and the
correlation maximise the marginal likelihood of the centred losses (MacKay, Neural Computation 4(3), 1992). Only sums
are kept: nothing grows with the number of evaluations, and old ones fade by a factor a step, since the weights go on
learning.

REINFORCE's gradient is the covariance of choices and losses under p (`reinforce.policy_gradient`), so both have the
same information of one step; the regression keeps that of the steps before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from engine.data import Batch
from engine.device import Autocast
from engine.distributed import ALONE, Group
from engine.runs.states import check_tensor
from supernet.alpha import Alpha
from supernet.supernet import Supernet

Paths = tuple[int, ...]

RATIOS = (1e-3, 1e9)
"""The bounds of d^2 / a^2 while the likelihood is maximised; at the upper one every effect is 0."""
POINTS = 20
"""The number of ratios at which the likelihood is computed beside its maximum: about one for each factor of 4."""
CORRELATIONS = (0.0, 0.5, 0.9, 0.99)
"""The correlations between alike edges of which the likeliest is taken."""


@dataclass(frozen=True)
class Evidence:
    """The sums over all evaluated networks from which `fit` computes the effects of candidates.

    h are the one-hot choices of a network and L its loss, each minus its mean over the networks of the same batch. w is
    the weight of an evaluation, which falls with its age (`faded`). E edges have N candidates each.
    """

    squares: Tensor
    """(EN, EN) float64: the sum of w h h^T."""
    products: Tensor
    """(EN,) float64: the sum of w h L."""
    energy: float = 0.0
    """The sum of w L^2."""
    freedom: float = 0.0
    """The degrees of freedom: the sum of w over networks, with one network of each batch left out."""

    @classmethod
    def none(cls, edges: int, candidates: int) -> Evidence:
        """Returns the sums over no evaluation."""
        n = edges * candidates
        return cls(torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))

    def faded(self, by: float) -> Evidence:
        """Returns these sums with every weight w multiplied by `by`."""
        return Evidence(by * self.squares, by * self.products, by * self.energy, by * self.freedom)

    def with_batch(self, networks: Sequence[Paths], losses: Tensor, candidates: int) -> Evidence:
        """Returns the sums with M >= 2 more networks, which were evaluated on one batch. losses: (M,) float64."""
        h = choices(networks, candidates)
        h, y = h - h.mean(dim=0), losses - losses.mean()
        return Evidence(
            self.squares + h.T @ h,
            self.products + h.T @ y,
            self.energy + float(y @ y),
            self.freedom + len(networks) - 1,
        )


def restored(content: Any, like: Evidence | None) -> Evidence | None:
    """Returns the evidence in a checkpoint. Raises ValueError if it does not fit.

    content: what the checkpoint holds, expected to be `asdict` of an Evidence. like: an Evidence of the expected
    shapes; None if this search collects none.
    """
    if like is None or content is None:
        if (like is None) != (content is None):
            raise ValueError(f"it has {'no ' if content is None else ''}evidence of a regression, unlike this search")
        return None
    if not isinstance(content, dict) or content.keys() != asdict(like).keys():
        raise ValueError("its evidence is not that of a regression")
    for name in ("squares", "products"):
        wanted = getattr(like, name)
        check_tensor(f"evidence.{name}", content[name], wanted.shape, wanted.dtype)
    for name in ("energy", "freedom"):
        if not isinstance(content[name], float) or not 0 <= content[name] < math.inf:
            raise ValueError(f"evidence.{name} is {content[name]!r:.40}, expected a number of at least 0")
    return Evidence(**content)


def choices(networks: Sequence[Paths], candidates: int) -> Tensor:
    """Returns each network's candidates as one-hot vectors, edge after edge: (M, EN) float64."""
    chosen = torch.tensor(networks, dtype=torch.long)
    return F.one_hot(chosen, candidates).double().flatten(1)


@dataclass(frozen=True)
class Effects:
    """The posterior of c, the effects of candidates on the loss."""

    mean: Tensor
    """(E, N) float64, in nats: the effect of each candidate, relative to the mean of its edge; 0 where padded."""
    error: float
    """The standard error of the difference between two candidates of an edge: root mean square over all pairs."""
    effect: float
    """a: the standard deviation of effects; 0 if the evaluations show none."""
    noise: float
    """d: the standard deviation of the noise."""

    def alpha(self) -> Tensor:
        """Returns the values of alpha, (E, N) float64: minus the effects, divided by the standard error. Two candidates
        whose difference is as large as its error have odds of e to 1."""
        return -self.mean / self.error if self.error > 0 else torch.zeros_like(self.mean)


@dataclass(frozen=True)
class _Ridge:
    """A fit of the effects with one correlation between alike edges."""

    cost: float
    """Minus the log likelihood, up to a constant that all fits have in common."""
    mean: np.ndarray
    """(EN,): the posterior mean of c."""
    covariance: np.ndarray
    """(EN, EN): the posterior covariance of c."""
    effect: float
    """a."""
    noise: float
    """d."""


def fit(evidence: Evidence, mask: Tensor, alike: Sequence[int] = ()) -> Effects:
    """Returns the posterior of c, with the variances and the correlation that maximise the likelihood.

    mask (E, N): False for padding. alike: a number for each edge, the same for edges with the same layers
    (`Alpha.alike`); empty if no two edges have.
    """
    edges, candidates = mask.shape
    correlations = CORRELATIONS if len(set(alike)) < len(alike) else CORRELATIONS[:1]
    fits = [_ridge(evidence, _root(alike, correlation, edges, candidates)) for correlation in correlations]
    found = [one for one in fits if one is not None]
    if not found:
        return Effects(torch.zeros(mask.shape, dtype=torch.float64), 0.0, 0.0, 0.0)
    best = min(found, key=lambda one: one.cost)
    c = torch.from_numpy(best.mean).reshape(edges, candidates)
    counts = mask.sum(dim=1, keepdim=True)
    c = torch.where(mask, c - (c * mask).sum(dim=1, keepdim=True) / counts, 0.0)
    return Effects(c, _error(best.covariance, mask), best.effect, best.noise)


def _root(alike: Sequence[int], correlation: float, edges: int, candidates: int) -> np.ndarray | None:
    """Returns the symmetric root of K, (EN, EN); None if K is the identity."""
    if correlation == 0.0:
        return None
    groups = np.asarray(alike)
    K = np.where(groups[:, None] == groups[None, :], correlation, 0.0) + (1 - correlation) * np.eye(edges)
    values, vectors = np.linalg.eigh(K)
    root: np.ndarray = np.kron((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, np.eye(candidates))
    return root


def _ridge(evidence: Evidence, root: np.ndarray | None) -> _Ridge | None:
    """Returns the fit with the variances that maximise the likelihood; None if there is nothing to fit.

    root: the symmetric root R of K, None for the identity. With c = R z, z has independent entries.
    """
    squares, products = evidence.squares.numpy(), evidence.products.numpy()
    if root is not None:
        squares, products = root @ squares @ root, root @ products
    values, vectors = np.linalg.eigh(squares)
    values = np.maximum(values, 0.0)
    along = vectors.T @ products  # X^T y along each eigenvector
    seen = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-300)
    if evidence.freedom <= 0 or evidence.energy <= 0 or not seen.any():
        return None
    values, vectors, along = values[seen], vectors[:, seen], along[seen]
    explained = along**2 / values  # the part of y^T y along each direction of the choices
    rest = max(evidence.energy - float(explained.sum()), 0.0)

    def noise_squared(ratio: float) -> float:
        """Returns the d^2 that maximises the likelihood if d^2 / a^2 = ratio."""
        return (rest + float((explained * ratio / (values + ratio)).sum())) / evidence.freedom + 1e-300

    def cost(log_ratio: float) -> float:
        ratio = float(np.exp(log_ratio))
        return 0.5 * float(evidence.freedom * np.log(noise_squared(ratio)) + np.log1p(values / ratio).sum())

    log_ratio = _lowest(cost, *np.log(RATIOS))
    ratio = float(np.exp(log_ratio))
    noise = float(np.sqrt(noise_squared(ratio)))
    # prior variance outside the directions seen, shrunk posterior along them
    shrink = values / (values + ratio)
    mean = vectors @ (along / (values + ratio))
    covariance = (noise**2 / ratio) * (np.eye(len(mean)) - (vectors * shrink) @ vectors.T)
    if root is not None:
        mean, covariance = root @ mean, root @ covariance @ root
    return _Ridge(cost(log_ratio), mean, covariance, noise / float(np.sqrt(ratio)), noise)


def _lowest(cost: Callable[[float], float], low: float, high: float) -> float:
    """Returns the place of the lowest cost between two bounds.

    Brent's method takes the cost for one valley. With few evaluations of little noise it has two, since the likelihood
    of no effect levels off; evenly spaced points show the other one.
    """
    found = float(minimize_scalar(cost, bounds=(low, high), method="bounded").x)
    points = np.linspace(low, high, POINTS)
    costs = np.array([cost(point) for point in points])
    k = int(costs.argmin())
    if costs[k] > cost(found) - 1e-3:  # at an end of the range, Brent's method stops just before it
        return found
    near = points[max(k - 1, 0)], points[min(k + 1, POINTS - 1)]
    nearby = float(minimize_scalar(cost, bounds=near, method="bounded").x)
    return min(float(points[k]), nearby, key=cost)


def preferences(alpha: Alpha, evidence: Evidence | None, method: str) -> Alpha:
    """Returns the alpha whose probability a derivation by `method` maximises.

    `constrained`, which holds the limits itself, takes that of a regression before its projection, whose tilt is a
    multiple of a limit's own costs and would only make the integer program hard; `argmax`, which ignores limits,
    needs the tilt.
    """
    if evidence is None or method == "argmax":
        return alpha
    return alpha.with_values(fit(evidence, alpha.mask, alpha.alike).alpha())


def _error(covariance: np.ndarray, mask: Tensor) -> float:
    """Returns the root mean square of the standard errors of all differences between two candidates of one edge.
    covariance: (EN, EN)."""
    squares = []
    candidates = mask.shape[1]
    for e, row in enumerate(mask.numpy()):
        of_edge = np.flatnonzero(row) + e * candidates
        block = covariance[np.ix_(of_edge, of_edge)]
        differences = block.diagonal()[:, None] + block.diagonal()[None, :] - 2 * block
        squares.append(differences[np.triu_indices(len(of_edge), k=1)])
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else 0.0


@dataclass(frozen=True)
class RegressionStep:
    """The result of an architecture step."""

    ce: float
    """Mean cross entropy of the evaluated networks; NaN if one of them is not finite."""
    evidence: Evidence
    effects: Effects


def regression_step(
    net: Supernet,
    batch: Batch,
    drawn_from: Alpha,
    evidence: Evidence,
    samples: int,
    generator: torch.Generator,
    autocast: Autocast,
    group: Group = ALONE,
) -> RegressionStep:
    """Evaluates `samples` networks on one validation batch and fits anew. No gradient is computed.

    drawn_from: the alpha that draws them. It is the same in every step, so that the choice of networks does not depend
    on earlier results. The processes of `group` share the batch, and each makes the same update.
    """
    mask = drawn_from.mask
    networks = [drawn_from.sample_paths(generator) for _ in range(samples)]
    losses = group.mean_of(network_losses(net, batch, networks, autocast)).double().cpu()  # one copy to the host
    if not bool(losses.isfinite().all()):
        return RegressionStep(math.nan, evidence, fit(evidence, mask, drawn_from.alike))
    evidence = evidence.with_batch(networks, losses, mask.shape[1])
    return RegressionStep(float(losses.mean()), evidence, fit(evidence, mask, drawn_from.alike))


@torch.no_grad()
def network_losses(net: Supernet, batch: Batch, networks: Sequence[Paths], autocast: Autocast) -> Tensor:
    """Returns the cross entropy of each network on one batch with the supernet's weights: (M,) float32.

    Dropout is off, since it would drop other features in each network. BN normalises by the batch in either mode of the
    supernet, which keeps no running statistics.
    """
    training = net.training
    net.eval()
    losses = []
    try:
        for paths in networks:
            with autocast():
                logits = net(batch.images, paths)
            losses.append(F.cross_entropy(logits.float(), batch.labels))
    finally:
        net.train(training)
    return torch.stack(losses)
