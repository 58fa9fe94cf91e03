"""Adds terms to alpha's loss that are functions of the path probabilities: an entropy, and the user's own functions.

p are the path probabilities (E, N), E being the number of searchable edges and N that of candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UserError, explain
from search.config import EntropyConfig, TermConfig
from search.own import own_function
from supernet.space import Space
from supernet.user_modules import failures_named


@dataclass(frozen=True)
class Term:
    """A term of alpha's loss."""

    name: str
    """Its name in messages: `search.entropy`, or the reference to the user's function."""
    value: Callable[[Tensor, float], Tensor]
    """(p (E, N) float64 with padding 0, progress of the search in [0, 1]) -> 0-dim tensor, differentiable in p."""
    weight: float = 1.0

    def gradient(self, p: Tensor, progress: float) -> tuple[float, Tensor]:
        """Returns weight * (value, its gradient in p (E, N) float64).

        Raises UserError if one of them cannot be used. This is checked at every step, since a term that is finite at
        equal probabilities may be infinite once a probability is 0.
        """
        own = p.detach().clone().requires_grad_()  # a copy, so that a term cannot change the p of another term
        value = self.value(own, progress)
        if fault := _fault(value, own):
            raise self._refused(f"returned {fault}", "a 0-dim tensor computed from p")
        with explain("search.terms"), failures_named(f"the gradient of {self.name}"):
            (gradient,) = torch.autograd.grad(value.double(), [own], allow_unused=True)
        if gradient is None:
            raise self._refused("returned a tensor that does not depend on p", "a 0-dim tensor computed from p")
        gradient = gradient.to_dense()
        if not torch.equal(own.detach(), p.detach()):
            raise self._refused("changed p in place", "p as it was")
        for what, tensor in (("value", value), ("gradient in p", gradient)):
            if not bool(tensor.isfinite().all()):
                raise self._refused(f"has a {what} that is not finite {progress:.0%} into the search", "finite numbers")
        return self.weight * value.item(), self.weight * gradient

    def _refused(self, text: str, expected: str) -> UserError:
        return UserError("search.terms", f"{self.name} {text}", expected, "correct it")


def mean_entropy(p: Tensor) -> Tensor:
    """Returns the mean over edges of -sum_i p_i log p_i in nats, 0-dim, with a finite gradient at p = 0."""
    entropies: Tensor = -torch.special.xlogy(p, p.clamp_min(torch.finfo(p.dtype).tiny)).sum(dim=1)  # (edges,)
    return entropies.mean()


def entropy_term(config: EntropyConfig) -> Term:
    """Returns the term -w H(p); w moves in a straight line from `start` to `end`. Above 0 it keeps alpha undecided,
    below 0 it drives alpha to decide."""

    def value(p: Tensor, progress: float) -> Tensor:
        weight = config.start + (config.end - config.start) * progress
        return -weight * mean_entropy(p)

    return Term("search.entropy", value)


def user_term(config: TermConfig, space: Space) -> Term:
    """Returns the term weight * function(p, space, progress). Raises ConfigError if the function cannot be loaded."""
    function = own_function(config.function, "search.terms.function", ("p", "space", "progress"))
    return Term(config.function, lambda p, progress: function(p, space, progress), config.weight)


def build_terms(entropy: EntropyConfig | None, others: Sequence[TermConfig], space: Space) -> tuple[Term, ...]:
    """Returns the entropy term, if there is one, and the user's terms. Raises ConfigError if one cannot be loaded."""
    own = (entropy_term(entropy),) if entropy else ()
    return (*own, *(user_term(other, space) for other in others))


def terms_gradient(terms: Sequence[Term], p: Tensor, progress: float) -> tuple[float, Tensor]:
    """Returns (value, gradient in p (E, N) float64) of the sum of all terms."""
    values, gradients = zip(*(term.gradient(p, progress) for term in terms), strict=True)
    return sum(values), torch.stack(gradients).sum(dim=0)


def _fault(value: object, p: Tensor) -> str | None:
    """Returns a noun phrase for a value that cannot be a term, such as "a tensor of shape (3,)", with which a message
    continues after "returned"; None if the value can be a term."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.ndim or value.layout != torch.strided:
        return f"a {'' if value.layout == torch.strided else 'sparse '}tensor of shape {tuple(value.shape)}"
    if not value.is_floating_point():
        return f"a tensor of type {str(value.dtype).removeprefix('torch.')}"
    if value.device != p.device:
        return f"a tensor on the device {value.device}"
    return None if value.requires_grad else "a tensor that does not depend on p"
