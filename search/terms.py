"""Further terms of alpha's loss, functions of the path probabilities: entropy regularisation, and a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.errors import UserError
from search.config import EntropyConfig, TermConfig
from search.own import own_function
from supernet.space import Space

Term = Callable[[Tensor, float], Tensor]
"""(p (E, N) float64 with padding 0, progress of the search in [0, 1]) -> 0-dim tensor, differentiable in p, that is
added to the loss."""


def mean_entropy(p: Tensor) -> Tensor:
    """Mean over edges of -sum_i p_i log p_i, in nats, with a finite gradient at p = 0: 0-dim."""
    return -torch.special.xlogy(p, p.clamp_min(torch.finfo(p.dtype).tiny)).sum(dim=1).mean()


def entropy_term(config: EntropyConfig) -> Term:
    """-w H(p), w moving in a straight line from `start` to `end`: above 0 alpha stays undecided, below 0 it decides."""

    def term(p: Tensor, progress: float) -> Tensor:
        weight = config.start + (config.end - config.start) * progress
        return -weight * mean_entropy(p)

    return term


def user_term(config: TermConfig, space: Space) -> Term:
    """weight * function(p, space, progress). Raises ConfigError where the function cannot be had.

    The term itself raises UserError where its value or its gradient cannot be used: at any step, since a term that is
    finite at equal probabilities need not be so where one of them has come to 0.
    """
    function = own_function(config.function, "search.terms.function")

    def refused(text: str, expected: str) -> UserError:
        return UserError(f"search.terms: {config.function} {text}, expected {expected}; correct it")

    def term(p: Tensor, progress: float) -> Tensor:
        value = function(p, space, progress)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            raise refused(f"returned {_described(value)}", "a 0-dim tensor computed from p")
        (gradient,) = torch.autograd.grad(value, [p], retain_graph=True, allow_unused=True)
        if gradient is None:
            raise refused("returned a tensor that does not depend on p", "a 0-dim tensor computed from p")
        for what, found in (("value", value), ("gradient in p", gradient)):
            if not bool(found.isfinite().all()):
                raise refused(f"has a {what} that is not finite {progress:.0%} into the search", "finite numbers")
        return config.weight * value

    return term


def build_terms(entropy: EntropyConfig | None, others: Sequence[TermConfig], space: Space) -> tuple[Term, ...]:
    own = (entropy_term(entropy),) if entropy else ()
    return (*own, *(user_term(other, space) for other in others))


def terms_gradient(terms: Sequence[Term], p: Tensor, progress: float) -> tuple[float, Tensor]:
    """(value, gradient in p (E, N) float64) of the sum of all terms."""
    p = p.detach().clone().requires_grad_()
    total = torch.stack([term(p, progress).double() for term in terms]).sum()
    (gradient,) = torch.autograd.grad(total, [p])
    return total.item(), gradient


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
