"""Fits the entries of a table to whole networks, which may be fewer than entries: entries of similar layers then move
together.

The milliseconds of layer k are modelled as

    m_k = g p_k + a MACs_k + b elements_k + d + s_k (f_k + e_k),

with s_k a guess from shapes (`guess`) and p_k the prior's entry: another device's milliseconds, or s_k if there is no
prior. g is any number: it has no prior distribution. a, b, d are normal around 0, and so are the deviations relative to
the guess, f_k and e_k: f is correlated between layers of similar shape (a Gaussian process over the shapes of each op
family, in the features of latency/interpolation.py), e_k is independent for each layer. The latency of network i, which
has layer k n_ik times, is

    y_i = c + sum_k n_ik m_k,    up to a relative error,

with a constant c that has no prior distribution either. The variances of a, b, d, f, e and of the error maximise the
likelihood of the timings, integrated over all else (restricted maximum likelihood), times a wide normal density on the
logarithm of each variance. Given these variances, m >= 0 and c are those of the largest posterior density: least
squares in relative error, with a pull towards the prior (latency/calibration.py).

Many networks determine the entries alone. If few networks show that the layers deviate little from the prior, the
variances are small and the entries stay near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize, nnls

from latency.calibration import solve
from latency.interpolation import Features
from supernet.space import Layer

LIKE = 2.0
"""The correlation of f between two layers is exp(-D / (2 LIKE)), D the mean squared difference of their features."""
DEVIATION, ERROR = np.log(0.1**2), np.log(0.02**2)
"""The expected log variances: deviations have a standard deviation of 10 %, the error of a timing one of 2 %."""
WIDTH = 3.0
"""The standard deviation of the log variances: give or take a factor of 4.5 in the deviations."""
DEVIATION_BOUNDS = (np.log(1e-6), np.log(10.0))
ERROR_BOUNDS = (np.log(1e-6), np.log(0.09))
LEAST_UNIT = 0.01
"""The least s_k, as a share of the mean."""


@dataclass(frozen=True)
class Shrunk:
    """Entries fitted to whole networks."""

    ms: np.ndarray
    """(entries,) >= 0."""
    constant: float
    strength: float
    """Variance of a timing's relative error over that of e: the pull of an entry towards what follows from the
    others."""


@dataclass(frozen=True)
class Layers:
    """The properties of the entries that are known before any timing.

    shapes: (entries, 3): MACs, elements of input and output, 1; each of mean 1. likeness: (entries, entries), the
    correlation of f. prior: (entries,) >= 0 in any unit, or None.
    """

    shapes: np.ndarray
    likeness: np.ndarray
    prior: np.ndarray | None = None

    @classmethod
    def of(cls, layers: Sequence[Layer], prior: np.ndarray | None = None) -> Layers:
        """Returns the shapes and the likeness of layers. prior: (layers,), or None."""
        return cls(_shapes(layers), _likeness(layers), prior)


def guess(shapes: np.ndarray, occurrences: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Returns a guess of the entries, (entries,) ms > 0: the a MACs + b elements + d, a, b, d >= 0, that fit best.

    shapes: (entries, 3). occurrences: (networks, entries). measured: (networks,) ms.
    """
    weights, _ = nnls(occurrences @ shapes / measured[:, None], np.ones(len(measured)))
    fitted: np.ndarray = shapes @ weights
    raised: np.ndarray = np.maximum(fitted, LEAST_UNIT * fitted.mean())  # a layer without MACs takes time, too
    return raised


def fit_entries(layers: Layers, occurrences: np.ndarray, measured: np.ndarray, free_constant: bool = True) -> Shrunk:
    """Returns the entries m and the constant c of the model in this module's docstring.

    layers: the shapes, likeness and prior of the entries. occurrences: (networks, entries), n. measured: (networks,), y
    in ms. free_constant: whether c may be below 0.
    """
    unit = guess(layers.shapes, occurrences, measured)  # s
    parts = occurrences * unit
    prior = np.ones(len(unit)) if layers.prior is None else layers.prior / layers.prior.mean() * unit.mean() / unit
    own = np.eye(len(unit))
    of_shapes = layers.shapes * unit.mean() / unit[:, None]
    covariances = [own, layers.likeness, *(np.outer(column, column) for column in of_shapes.T)]
    variances, error = _variances(parts / measured[:, None], prior, 1 / measured, covariances)
    covariance = sum(v * K for v, K in zip(variances, covariances, strict=True))
    pull = np.sqrt(error) * _pull(np.asarray(covariance), prior)
    factors, constant = solve(parts, measured, pull, free_constant)
    return Shrunk(factors * unit, constant, float(error / variances[0]))


def _shapes(layers: Sequence[Layer]) -> np.ndarray:
    """Returns the shapes of layers, as in Layers.shapes."""
    elements = [a.c_in * a.size**2 + a.c_out * a.size_out**2 for a in layers]
    shapes = np.array([[a.complexity.macs, e, 1.0] for a, e in zip(layers, elements, strict=True)])
    relative: np.ndarray = shapes / shapes.mean(axis=0)
    return relative


def _likeness(layers: Sequence[Layer]) -> np.ndarray:
    """Returns the correlation of f, (layers, layers). It is 0 between op families, whose fields differ."""
    families: dict[type, list[int]] = {}
    for k, layer in enumerate(layers):
        families.setdefault(type(layer.spec), []).append(k)
    likeness = np.zeros((len(layers), len(layers)))
    for members in families.values():
        own = [layers[k] for k in members]
        z = Features.of(own).of_layers(own)[:, 1:]  # (members, features), mean 0, variance 1 or constant
        z = z[:, z.std(axis=0) > 0.5]
        difference = ((z[:, None] - z[None]) ** 2).sum(axis=2) / max(1, z.shape[1])
        likeness[np.ix_(members, members)] = np.exp(-difference / (2 * LIKE))
    return likeness


def _variances(
    parts: np.ndarray, prior: np.ndarray, constant: np.ndarray, covariances: Sequence[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Returns the likeliest variance of each covariance, and of the error.

    parts: (networks, entries), relative to the measured latencies, so that parts w + c constant = 1 up to the error.
    The entries w are normal around g prior, with a sum of terms of these covariances. g and c are free.
    """
    likelihood = Likelihood.of(parts, np.column_stack([parts @ prior, constant]), covariances)
    means = np.array([DEVIATION] * len(covariances) + [ERROR])

    def minus_log_posterior(logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns minus the log posterior density, up to a constant, and its slope. logs: log variances."""
        log_likelihood, slope = likelihood.at(logs)
        off = (logs - means) / WIDTH
        return off @ off / 2 - log_likelihood, off / WIDTH - slope

    bounds = [DEVIATION_BOUNDS] * len(covariances) + [ERROR_BOUNDS]
    variances = np.exp(minimize(minus_log_posterior, means, jac=True, method="L-BFGS-B", bounds=bounds).x)
    return variances[:-1], float(variances[-1])


@dataclass(frozen=True)
class Likelihood:
    """The restricted likelihood of variances: that of the part of the timings that does not depend on the free g and c.

    covariances: the covariance of the timings that each variance gives if it is 1, (rows, rows), that of the error
    last. basis: (rows, at most 2), orthonormal, the directions of g and c. target: (rows,). rest: the number of further
    rows, of which all parts are 0 but the error.
    """

    covariances: tuple[np.ndarray, ...]
    basis: np.ndarray
    target: np.ndarray
    rest: int

    @classmethod
    def of(cls, parts: np.ndarray, free: np.ndarray, covariances: Sequence[np.ndarray]) -> Likelihood:
        """Returns the likelihood of timings.

        parts: (networks, entries). free: (networks, 2), the columns of g and c. covariances: (entries, entries) each.
        A rotation of the networks keeps their likelihood, and leaves at most entries + 3 rows that are not 0.
        """
        networks, count = parts.shape
        free = free / np.linalg.norm(free, axis=0)
        _, rows = np.linalg.qr(np.column_stack([parts, free, np.ones(networks)]))
        basis, spans, _ = np.linalg.svd(rows[:, count:-1], full_matrices=False)
        of_rows = [rows[:, :count] @ K @ rows[:, :count].T for K in covariances]
        kept = basis[:, spans > 1e-9 * spans.max()]
        return cls((*of_rows, np.eye(len(rows))), kept, rows[:, -1], networks - len(rows))

    def at(self, logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the log likelihood, up to a constant, and its slope. logs: (covariances,) log variances."""
        variances = np.exp(logs)
        V = cho_factor(sum(v * C for v, C in zip(variances, self.covariances, strict=True)), lower=True)
        inverse = cho_solve(V, np.eye(len(self.target)))
        onto = inverse @ self.basis
        information = self.basis.T @ onto
        Q = inverse - onto @ np.linalg.solve(information, onto.T)  # V^-1 without what g and c explain
        weighted = Q @ self.target
        log_determinants = 2 * np.log(np.diag(V[0])).sum() + np.linalg.slogdet(information)[1] + self.rest * logs[-1]
        slope = np.array([weighted @ C @ weighted - (Q * C).sum() for C in self.covariances]) * variances
        slope[-1] -= self.rest
        return float(-(log_determinants + self.target @ weighted) / 2), slope / 2


def _pull(covariance: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns R (entries, entries) with |R w|^2 = min over g of (w - g prior)' covariance^-1 (w - g prior)."""
    L = np.linalg.cholesky(covariance)
    whitened = solve_triangular(L, np.column_stack([np.eye(len(prior)), prior]), lower=True)
    inverse, direction = whitened[:, :-1], whitened[:, -1] / np.linalg.norm(whitened[:, -1])
    pull: np.ndarray = inverse - np.outer(direction, direction @ inverse)
    return pull
